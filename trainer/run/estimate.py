"""What a recipe will need of memory, from shapes alone: nothing is computed."""

import copy
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from ...flowmapsr_core.files.checkpoint import load_shapes
from ...flowmapsr_core.model import Model
from ..recipe.recipe import Recipe, Stage

FLOAT = 4
ADAM = 2 * FLOAT  # two moments a weight


def estimate_bytes(model: Model, recipe: Recipe, processes: int) -> tuple[int, int]:
    """Bytes that a process needs for (weights, gradients and optimiser; activations of a micro-batch).

    ``model`` is on torch's meta device, which :func:`.start.shapes_of_model` is for; what is copied are names.
    Activations are what autograd keeps of one forward pass. Targets keep nothing; the perceptual and adversarial
    terms come on top.
    """
    trained, frozen = (
        sum(parameter.numel() for parameter in model.flow.parameters() if parameter.requires_grad == wanted)
        for wanted in (True, False)
    )
    copies = FLOAT + FLOAT + ADAM + (FLOAT if recipe.optimizer.ema else 0)
    dtype = torch.float32 if recipe.precision == "no" else torch.bfloat16
    shapes = replace(model, flow=copy.deepcopy(model.flow).to(dtype))
    parts = recipe.optimizer.accumulate * processes
    beside = max(_weights_beside(stage, model) for stage in recipe.stages)
    fixed = trained * copies + (frozen + beside) * FLOAT
    return fixed, max(_kept(shapes, b.side, max(b.batch // parts, 1), dtype) for b in recipe.data.budgets)


def _weights_beside(stage: Stage, model: Model) -> int:
    """Weights of the frozen network beside the one that a stage trains."""
    if stage.kind not in ("distillation", "trajectory-matching"):
        return 0
    other = load_shapes(Path(stage.teacher).expanduser()) if stage.teacher else model
    return sum(parameter.numel() for parameter in other.flow.parameters())


class FusedAttention(TorchFunctionMode):
    """On the meta device attention keeps its matrix; fused, it keeps query, key, value and output, as this product."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is scaled_dot_product_attention:
            query, key, value = args
            return query * key * value
        return function(*args, **(kwargs or {}))


def _kept(model: Model, side: int, batch: int, dtype: torch.dtype) -> int:
    """Bytes of the tensors that autograd keeps, weights left out."""
    own = {id(parameter) for parameter in model.flow.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        whole = tensor if tensor._base is None else tensor._base
        if id(whole) not in own:
            kept[id(whole)] = whole
        return tensor

    cells = -(-side // (model.codec.factor * model.network.stride)) * model.network.stride
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with torch.device("meta"), FusedAttention(), hooks:
        channels = model.method.images * model.codec.channels
        x, time = torch.empty(batch, channels, cells, cells, dtype=dtype), torch.empty(batch)
        # the output holds the graph, and the graph what it keeps
        u = model.flow(x, time, time, time, torch.empty(batch, dtype=torch.bool))
    del u
    return sum(tensor.numel() * tensor.element_size() for tensor in kept.values())
