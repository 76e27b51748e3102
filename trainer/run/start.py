"""The weights a stage starts from."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...flowmapsr_core.codecs import FrozenVAE
from ...flowmapsr_core.errors import UserError
from ...flowmapsr_core.files.checkpoint import load_model, load_shapes
from ...flowmapsr_core.files.origin import IDENTITY, ORIGIN, derived
from ...flowmapsr_core.files.prompts import encode_prompts
from ...flowmapsr_core.method.looks import learned_guidance
from ...flowmapsr_core.model import NEGATIVE_PROMPT, POSITIVE_PROMPT, Model
from ..objectives import DERIVE
from ..recipe.recipe import Recipe


def build_model(recipe: Recipe, start: str | Path = "") -> tuple[Model, list[str]]:
    """A model in training mode: fresh weights of the recipe's configuration, replaced by a checkpoint's.

    Args:
        recipe: its model section is the configuration; what that leaves out is as in the checkpoint.
        start: checkpoint; empty for fresh weights.

    Returns:
        The model, in its info what the checkpoint says of its origin and whether it had learned guidance, and the names
        of the weights that the checkpoint did not have.

    Raises:
        UserError: the checkpoint is of another architecture.
    """
    base = load_model(Path(start).expanduser()) if start else None
    model, new = _assemble(recipe, base, start)
    if recipe.prompts.text_encoder:
        _bake_prompts(model, Path(recipe.prompts.text_encoder).expanduser())
    return model, new


def shapes_of_model(recipe: Recipe) -> Model:
    """What :func:`build_model` makes for the first stage, on torch's meta device: no weights are read or made.

    Raises :class:`UserError` as that does, but for what the text encoder's folder holds.
    """
    base = load_shapes(Path(recipe.start_from).expanduser()) if recipe.start_from else None
    with torch.device("meta"):
        return _assemble(recipe, base, recipe.start_from)[0]


def _assemble(recipe: Recipe, base: Model | None, start: str | Path) -> tuple[Model, list[str]]:
    info = {key: base.info[key] for key in (*ORIGIN, *IDENTITY) if key in base.info} if base else {}
    if base and start == recipe.start_from:  # a later stage's start is the run's own, and knows it already
        info |= derived(base.info)
    info["guided_before"] = base is not None and learned_guidance(base.info.get("training")) is True
    model = recipe.configured(base.config() if base else {}, info)
    if base is None and isinstance(model.codec, FrozenVAE):
        raise UserError("the recipe's codec is a VAE, which is not trained; set start_from to a checkpoint that has it")
    with torch.no_grad():
        for prompt in model.flow.prompts.values():
            prompt.normal_()
    new = _take(model, base, start) if base else []
    if recipe.optimizer.checkpoint_activations:
        model.network.checkpoint_activations()
    model.network.requires_grad_(True)
    model.flow.prompts.requires_grad_(not recipe.prompts.text_encoder)
    model.flow.train()
    derives = any(stage.objective in DERIVE for stage in recipe.stages)
    # some objectives take forward-mode derivatives, which torch below 2.14 lacks for a UNet's norms in this format
    if not derives or torch.__version__ >= (2, 14):  # pyright: ignore[reportOperatorIssue]
        model.flow.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return model, new


@torch.no_grad()
def keep_start(model: Model, start: str | Path, share: float) -> None:
    """Move the weights of ``model``, in place, ``share`` of the way back to those of the checkpoint it began with."""
    before = load_model(Path(start).expanduser()).flow.state_dict()
    for name, weight in model.flow.state_dict().items():
        if name in before:
            weight.lerp_(before[name].to(weight.device), share)


def _take(model: Model, base: Model, start: str | Path) -> list[str]:
    """Copy the weights that both have, and take the codec over; every weight of ``base`` must have a place.

    A network that is to see LR beside its state has known LR as its only image: weights for the state, which come
    first, start at zero.
    """
    source, target = base.flow.state_dict(), model.flow.state_dict()
    if model.method.images > base.method.images:
        source = {name: _widened(weight, target.get(name, weight)) for name, weight in source.items()}
    if type(base.network) is not type(model.network) or base.codec.config != model.codec.config:
        raise UserError(f"{start} holds a {_kind(base.config())}, the recipe's model is a {_kind(model.config())}")
    for name, weight in source.items():
        if name not in target or target[name].shape != weight.shape:
            wanted = list(target[name].shape) if name in target else "absent"
            raise UserError(
                f"{start} does not fit the recipe's model: {name} is {list(weight.shape)}, in the recipe {wanted}; "
                f"leave out the recipe's [model] section to take the checkpoint's"
            )
    model.flow.load_state_dict(source, strict=False)
    model.codec = base.codec
    return sorted(target.keys() - source.keys())


def _widened(weight: Tensor, wanted: Tensor) -> Tensor:
    """A layer's weight (out, in, ...) with zeros for the input channels in front that ``wanted`` has more."""
    if weight.dim() < 2 or weight.shape[1] >= wanted.shape[1]:
        return weight
    more = weight.new_zeros(weight.shape[0], wanted.shape[1] - weight.shape[1], *weight.shape[2:])
    return torch.cat([more, weight], dim=1)


def _kind(config: dict[str, Any]) -> str:
    return f"{config['network']['type']} on {config['codec']}"


def _bake_prompts(model: Model, folder: Path) -> None:
    embeddings = encode_prompts(folder, [POSITIVE_PROMPT, NEGATIVE_PROMPT])
    if embeddings.shape[1] != model.network.config.prompt_dim:
        raise UserError(
            f"the text encoder in {folder} gives {embeddings.shape[1]} numbers, the network takes "
            f"{model.network.config.prompt_dim}; set model.network.prompt_dim to what the encoder gives"
        )
    with torch.no_grad():
        for name, embedding in zip(("positive", "negative"), embeddings, strict=True):
            model.flow.prompts[name].copy_(embedding)
