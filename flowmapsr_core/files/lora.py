"""LoRA files: low-rank changes to a network's weights.

One safetensors file, keys ``diffusion_model.<layer>.lora_down.weight``, ``.lora_up.weight`` and ``.alpha`` (the names
that ComfyUI's loader reads), metadata ``rank``, ``alpha``, ``flowmapsr.base_*`` with what the model is that it was
trained on, and ModelSpec keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..errors import UserError
from ..model import Model
from .checkpoint import model_spec, read_metadata, write_safetensors
from .lora_base import check_base, describe_base

FORMAT = "flowmapsr-lora"
PREFIX = "diffusion_model."
WEIGHT = ".weight"
DOWN, UP, ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"
MAX_LORA_SCALE = 8.0


def save_lora(
    path: Path,
    layers: dict[str, tuple[Tensor, Tensor]],
    rank: int,
    alpha: float,
    base: Model | None = None,
    info: dict[str, Any] | None = None,
) -> None:
    """Write a LoRA to ``path`` (through a temporary name).

    Args:
        path: a .safetensors file.
        layers: down (rank, in, *kernel) and up (out, rank, 1, ...) of every changed layer, by its name in the network.
        rank: of all of them.
        alpha: the change of a weight at scale 1 is ``alpha / rank * up @ down``.
        base: the model it was trained on; None if it is to fit any whose layers it fits.
        info: descriptive metadata, as :attr:`Model.info` has it.
    """
    tensors = {}
    for layer, (down, up) in layers.items():
        for part, tensor in ((DOWN, down), (UP, up)):
            # contiguous() alone keeps channels-last strides of 1x1 kernels
            tensors[PREFIX + layer + part] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        tensors[PREFIX + layer + ALPHA] = torch.tensor(float(alpha))
    metadata = {
        **model_spec(info or {}, "lora", tensors),
        "format": FORMAT,
        "rank": str(rank),
        "alpha": f"{alpha:g}",
        **({} if base is None else describe_base(base)),
    }
    write_safetensors(tensors, path, metadata)


@dataclass(frozen=True)
class LowRank:
    """The change of a weight (out, in, *kernel) at scale 1, as it is stored.

    Attributes:
        down: (rank, in, *kernel).
        up: (out, rank, 1, ...).
        strength: alpha / rank.
    """

    down: Tensor
    up: Tensor
    strength: float

    def dense(self) -> Tensor:
        """(out, in, *kernel) float32."""
        change = self.up.float().flatten(1) @ self.down.float().flatten(1) * self.strength
        return change.reshape(len(self.up), *self.down.shape[1:])


def lora_names(path: Path, model: Model) -> list[str]:
    """Names of the network parameters that a LoRA changes. Only the file's header is read.

    Says so where it was trained on another model. Raises :class:`UserError` if the file is no LoRA, or does not fit.
    """
    metadata, shapes = read_metadata(path, "a LoRA")
    layers = sorted(key.removesuffix(DOWN) for key in shapes if key.endswith(DOWN))
    if not layers:
        raise UserError(f"{path} is not a LoRA: it has no '{DOWN}' tensors")
    unknown = shapes.keys() - {layer + part for layer in layers for part in (DOWN, UP, ALPHA)}
    if unknown:
        raise UserError(f"{path} is a kind of LoRA that cannot be applied: it holds {min(unknown)}; use a plain LoRA")
    weights = {PREFIX + name: weight.shape for name, weight in model.network.named_parameters()}
    for layer in layers:
        weight, up = weights.get(layer + WEIGHT), shapes.get(layer + UP)
        if weight is None or up is None or not _fits(weight, shapes[layer + DOWN], up):
            raise UserError(f"{path} does not fit this model: {layer}; load it with the model its author names")
    check_base(path, metadata, model)
    return [layer.removeprefix(PREFIX) + WEIGHT for layer in layers]


def load_lora(path: Path, model: Model) -> dict[str, LowRank]:
    """The changes that a LoRA makes to network parameters, by their names; raises what :func:`lora_names` does."""
    names, tensors, changes = lora_names(path, model), load_file(path), {}
    for name in names:
        layer = PREFIX + name.removesuffix(WEIGHT)
        down, up = tensors[layer + DOWN], tensors[layer + UP]
        alpha = tensors[layer + ALPHA].item() if layer + ALPHA in tensors else len(down)
        changes[name] = LowRank(down, up, alpha / len(down))
    return changes


def merge_lora(model: Model, path: Path, scale: float) -> None:
    """Add a LoRA's changes, times ``scale``, to a model's weights in place; see :func:`merge_loras`."""
    merge_loras(model, [(path, scale)])


@torch.no_grad()
def merge_loras(model: Model, loras: Sequence[tuple[Path, float]], factor: float = 1.0) -> None:
    """Add the changes of several LoRAs, each times its scale and ``factor``, to a model's weights in place.

    They are summed in float32 and rounded once to the weights' dtype. Scale 0 leaves every bit as it is.
    ``model.info`` keeps the hash of the base, so that more LoRAs trained on it can follow.

    Raises :class:`UserError`, before anything is changed, for a scale outside [-8, 8] or a file that does not fit.
    """
    found: dict[str, list[tuple[float, LowRank]]] = {}
    for path, scale in loras:
        check_lora_scale(scale)
        for name, change in load_lora(path, model).items():
            if scale * factor:
                found.setdefault(name, []).append((scale * factor, change))
    parameters = dict(model.network.named_parameters())
    for name, changes in found.items():  # one weight after another: written out, changes are as large as the network
        weight, total = parameters[name], torch.zeros(parameters[name].shape)
        for strength, change in changes:
            total += strength * change.dense()
        weight.copy_(weight.float() + total.to(weight.device))


def check_lora_scale(scale: float) -> None:
    """Raise :class:`UserError` unless a scale is from -8 to 8."""
    if not abs(scale) <= MAX_LORA_SCALE:  # not NaN either
        raise UserError(f"the LoRA scale is {scale:g}; use -{MAX_LORA_SCALE:g} to {MAX_LORA_SCALE:g}")


def pair_scales(files: Sequence[Path], scales: Sequence[float], default: float) -> list[tuple[Path, float]]:
    """Each file with the scale at its place, or ``default``; :class:`UserError` if scales are left over."""
    if len(scales) > len(files):
        raise UserError(f"there are more LoRA scales ({len(scales)}) than LoRAs ({len(files)}); leave some out")
    return list(zip(files, [*scales, *[default] * (len(files) - len(scales))], strict=True))


def _fits(weight: Sequence[int], down: Sequence[int], up: Sequence[int]) -> bool:
    """Whether ``up @ down`` has the shape of a weight (out, in, *kernel), by the shapes of all three."""
    out, *rest = weight
    return list(down[1:]) == rest and list(up) == [out, down[0], *[1] * len(rest[1:])]
