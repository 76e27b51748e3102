"""FlowMapSR checkpoints made of other models: CTMSR, Latent Bridge Matching, Stable Diffusion XL, and upscalers.

CTMSR's model is one of ours as it is, by its method. Of the others the weights are where training starts. An LBM model
is a FlowMapSR model that knows no s, guidance and prompt; so is an upscaler, once it looks at enlarged pictures; SDXL's
UNet predicts noise, which is a start no more. A new kind of source is a file here, and what tells it from the others in
:mod:`.recognise`.
"""

from pathlib import Path

import torch

from ...model import Model
from ..safetensors_file import shortened
from .recognise import read_source
from .source import Source

__all__ = ["convert", "read_source", "summary"]


def convert(
    source: Source, vae: Path | None = None, text_encoder: Path | None = None, dtype: torch.dtype | None = None
) -> Model:
    """Make a FlowMapSR model of a source's weights.

    Args:
        source: from :func:`read_source`.
        vae: VAE whose weights the model is to hold; without, a model of latents has SDXL's configuration and no weights
            (they are on torch's meta device).
        text_encoder: embeds both prompts, see :func:`..prompts.encode_prompts`; without, they are learned vectors.
        dtype: of the weights; None for the source's own choice.

    Raises:
        UserError: the source's weights are not exactly those of its network; the VAE or the text encoder cannot be
            used, or the model has no use for them.
    """
    dtype = dtype or source.dtype
    model = source.make_model(vae, text_encoder, dtype)
    model.set_precision(dtype)
    return model


def summary(source: Source, model: Model) -> str:
    """What became of the weights, a line each: how many tensors, and the names of some."""
    added = [name for name in model.network.state_dict() if name.removeprefix(source.prefix) not in source.tensors]
    kinds = {
        "taken": [name for name in source.tensors if name not in source.changed + source.new],
        "changed": source.changed,
        "new": [*source.new, *added, *(f"prompts.{name}" for name in model.flow.prompts)],
        "dropped": source.dropped,
    }
    lines = [f"{kind:8}{len(names):5}  {shortened(sorted(names))}".rstrip() for kind, names in kinds.items()]
    return "\n".join([f"{source.path}: {source.kind}, {source.config}", *lines])
