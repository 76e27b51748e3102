"""Embeddings of prompts, computed once: neither training nor upscaling runs the text encoder."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..flowmapsr_core.errors import UserError


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
        raise UserError(f"encoding prompts needs transformers ({error}); pip install 'flowmapsr[train]'") from error
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a downloaded SDXL model in diffusers' layout")
    sdxl = (folder / "text_encoder_2").is_dir()
    encoder_folder, tokenizer_folder = (folder / "text_encoder_2", folder / "tokenizer_2") if sdxl else (folder, folder)
    try:
        encoder, report = CLIPTextModelWithProjection.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
            encoder_folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
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
