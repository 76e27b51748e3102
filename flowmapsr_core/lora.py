"""LoRA files: low-rank changes to a network's weights.

One safetensors file, keys ``diffusion_model.<layer>.lora_down.weight``, ``.lora_up.weight`` and ``.alpha`` (the names
that ComfyUI's loader reads), metadata ``flowmapsr.base_hash`` with the hash of the model it was trained on.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from .checkpoint import read_metadata
from .errors import UserError
from .model import FlowMap

PREFIX = "diffusion_model."
BASE_HASH = "flowmapsr.base_hash"


def load_lora(path: Path, model: FlowMap) -> dict[str, Tensor]:
    """Weight changes at scale 1, by the name of the network parameter they are added to.

    Raises :class:`UserError` if the file is no LoRA, belongs to another base model or does not fit this one.
    """
    metadata, shapes = read_metadata(path)
    layers = {key.removesuffix(".lora_down.weight") for key in shapes if key.endswith(".lora_down.weight")}
    if not layers:
        raise UserError(f"{path} is not a LoRA: it has no '.lora_down.weight' tensors")
    base = metadata.get(BASE_HASH)
    if base and base != model.info.get("hash_sha256"):
        raise UserError(f"{path} was trained on another base model; load it with the model its author names")
    tensors = load_file(path)
    parameters = dict(model.network.named_parameters())
    changes = {}
    for layer in sorted(layers):
        name = layer.removeprefix(PREFIX) + ".weight"
        down, up = tensors[f"{layer}.lora_down.weight"].float(), tensors.get(f"{layer}.lora_up.weight")
        if name not in parameters or up is None or up.shape[0] != parameters[name].shape[0]:
            raise UserError(f"{path} does not fit this model: {layer}; load it with the model its author names")
        rank = down.shape[0]
        alpha = float(tensors.get(f"{layer}.alpha", torch.tensor(rank)))
        change = up.float().reshape(-1, rank) @ down.reshape(rank, -1) * (alpha / rank)
        if change.numel() != parameters[name].numel():
            raise UserError(f"{path} does not fit this model: {layer}; load it with the model its author names")
        changes[name] = change.reshape(parameters[name].shape)
    return changes


@torch.no_grad()
def merge_lora(model: FlowMap, path: Path, scale: float) -> None:
    """Add a LoRA's changes, times ``scale``, to a model's weights in place."""
    parameters = dict(model.network.named_parameters())
    for name, change in load_lora(path, model).items():
        weight = parameters[name]
        weight.copy_(weight.float() + scale * change.to(weight.device))
