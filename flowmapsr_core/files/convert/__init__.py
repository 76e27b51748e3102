"""FlowMapSR checkpoints made of other models: Latent Bridge Matching and Stable Diffusion XL.

Their weights are where training starts. An LBM model is a FlowMapSR model that knows no s, guidance and prompt; SDXL's
UNet predicts noise, which is a start no more.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from ...codecs import VAECodec
from ...errors import UserError
from ...model import NEGATIVE_PROMPT, POSITIVE_PROMPT, FlowMap, Model
from ...networks import UNet
from ...networks.parts import zero
from ..diffusers_folder import shapes_of
from ..prompts import encode_prompts
from ..safetensors_file import misfit, shortened
from ..vae_file import load_vae
from .recognise import read_source
from .source import Source

NEW = "class_embedding."

__all__ = ["convert", "read_source", "summary"]


def convert(
    source: Source, vae: Path | None = None, text_encoder: Path | None = None, dtype: torch.dtype = torch.bfloat16
) -> Model:
    """Make a FlowMapSR model of a source's weights.

    What is new is the embedding of s, guidance and prompt, and its last layer is zero: the model's ``u(x, t, s)`` is
    the source's output at x and time 1000 t, whatever s, guidance and prompt are.

    Args:
        source: from :func:`read_source`.
        vae: VAE whose weights the model is to hold; without, it has SDXL's configuration and no weights (they are on
            torch's meta device).
        text_encoder: embeds both prompts, see :func:`encode_prompts`; without, they are learned vectors.
        dtype: of the weights.

    Raises:
        UserError: the source's weights are not exactly those of a :class:`UNet` without that embedding; the VAE or the
            text encoder cannot be used.
    """
    prompts = encode_prompts(text_encoder, [POSITIVE_PROMPT, NEGATIVE_PROMPT]) if text_encoder else None
    config = source.config if prompts is None else replace(source.config, prompt_dim=prompts.shape[1])
    codec = load_vae(vae) if vae else None
    with torch.device("meta"):
        network, codec = UNet(config), codec or VAECodec()
    unet = network.unet
    expected = {name: shape for name, shape in shapes_of(unet.state_dict()).items() if not name.startswith(NEW)}
    if wrong := misfit(expected, shapes_of(source.tensors)):
        raise UserError(f"{source.path} holds a UNet of another shape than SDXL's: {wrong}")
    try:
        model = Model(FlowMap(network), codec, source.info)
    except ValueError as error:
        raise UserError(f"{vae or source.path} cannot be used: {error}") from error
    unet.load_state_dict({name: tensor.to(dtype) for name, tensor in source.tensors.items()}, strict=False, assign=True)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)  # the same file every time
        embedding = cast(Any, unet.class_embedding)
        embedding.to_empty(device="cpu").linear_1.reset_parameters()
        zero(embedding.linear_2)
        for prompt, embedded in zip(
            model.flow.prompts.values(), [None, None] if prompts is None else prompts, strict=True
        ):
            prompt.copy_(torch.randn_like(prompt) if embedded is None else embedded)
    model.set_precision(dtype)
    return model


def summary(source: Source, model: Model) -> str:
    """What became of the weights, a line each: how many tensors, and the names of some."""
    new = [name for name in model.network.state_dict() if name.startswith(f"unet.{NEW}")]
    kinds = {
        "taken": [name for name in source.tensors if name not in source.changed + source.new],
        "changed": source.changed,
        "new": [*source.new, *new, *(f"prompts.{name}" for name in model.flow.prompts)],
        "dropped": source.dropped,
    }
    lines = [f"{kind:8}{len(names):5}  {shortened(sorted(names))}".rstrip() for kind, names in kinds.items()]
    return "\n".join([f"{source.path}: {source.kind}, {source.config}", *lines])
