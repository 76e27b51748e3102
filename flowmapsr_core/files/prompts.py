"""Embeddings of prompts, computed once: neither training nor upscaling evaluates the text encoder."""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from ..errors import UserError
from ..model import NEGATIVE_PROMPT, FlowMap, Model

SAME_PROMPT = 0.9  # cosine; other encoders and learned vectors are near 0, rounding and training stay near 1


@torch.no_grad()
def encode_prompts(folder: Path, prompts: list[str]) -> Tensor:
    """Pooled and projected CLIP embeddings, (N, dim) float32; dim is 1280 for SDXL's second text encoder.

    Args:
        folder: an SDXL folder in diffusers' layout (its ``text_encoder_2`` and ``tokenizer_2`` are used), or a folder
            with a text encoder and its tokenizer. Nothing is downloaded, and no pickled weights are loaded.
        prompts: each is cut off where the encoder's 77 tokens end.

    Raises:
        UserError: transformers is not installed, or the folder does not hold what is needed.
    """
    try:
        from transformers import CLIPTextModelWithProjection, CLIPTokenizer
    except ImportError as error:
        raise UserError(f"encoding prompts needs transformers ({error}); pip install transformers") from error
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a downloaded SDXL model in diffusers' layout")
    sdxl = (folder / "text_encoder_2").is_dir()
    encoder_folder, tokenizer_folder = (folder / "text_encoder_2", folder / "tokenizer_2") if sdxl else (folder, folder)
    try:
        encoder, report = CLIPTextModelWithProjection.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
            encoder_folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
    except (OSError, RuntimeError, TypeError, ValueError, SafetensorError) as error:  # TypeError: old versions
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{folder} holds no CLIP text encoder and tokenizer that can be read ({reason}); give a downloaded SDXL "
            f"model in diffusers' layout, with safetensors weights"
        ) from error
    # transformers fills both gaps by itself: with random weights, and with a tokenizer that knows no words
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"{encoder_folder} is not a CLIP text encoder with projection: it lacks {missing[0]}")
    if len(tokenizer) != encoder.config.vocab_size:
        raise UserError(
            f"{tokenizer_folder} does not hold the text encoder's tokenizer: it knows {len(tokenizer)} tokens, "
            f"not {encoder.config.vocab_size}"
        )
    length = encoder.config.max_position_embeddings
    tokens = tokenizer(prompts, padding=True, truncation=True, max_length=length, return_tensors="pt")
    return encoder.float().eval()(tokens["input_ids"]).text_embeds


def are_embeddings(flow: FlowMap, negative: Tensor) -> bool:
    """Whether a flow map was trained on embeddings of an encoder, by what that makes of the negative prompt, (dim,)."""
    baked = flow.prompts["negative"].float().cpu()
    return negative.shape == baked.shape and bool(
        F.cosine_similarity(negative.float().cpu(), baked, dim=0) >= SAME_PROMPT
    )


@torch.no_grad()
def set_prompt(model: Model, text: str, encoder: Path | None) -> None:
    """Replace the model's positive prompt by ``text``, in place.

    Args:
        model: trained on embeddings of the encoder. Its negative prompt shows whether it was: it is encoded again, and
            must come out as the model has it.
        text: any; cut off where the encoder's 77 tokens end.
        encoder: folder, as in :func:`encode_prompts`.

    Raises:
        UserError: there is no encoder, or the model's prompts are not its embeddings.
    """
    if encoder is None:
        raise UserError("a prompt of your own needs a text encoder; give the folder of the one the model was made with")
    positive, negative = encode_prompts(encoder, [text, NEGATIVE_PROMPT])
    if not are_embeddings(model.flow, negative):
        raise UserError(
            f"this model's prompts are not embeddings by the text encoder in {encoder}; leave out the prompt, or give "
            f"the encoder that the model was made with, if its prompts were texts at all"
        )
    model.flow.prompts["positive"].copy_(positive)
