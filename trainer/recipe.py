"""Recipes: what a training run does, as a TOML file checked when it is read."""

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

import torch

from ..flowmapsr_core.degradation import PRESETS
from ..flowmapsr_core.device import DTYPES
from ..flowmapsr_core.errors import UserError
from ..flowmapsr_core.model import FlowMap
from .time_pairs import TimePairs

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

STAGES = ("flow-matching", "self-distillation", "guided")


@dataclass(frozen=True)
class Data:
    """Where HR crops come from.

    Attributes:
        photos: folder of training photographs, searched to its depth.
        validation: folder of held-out photographs; empty for no validation.
        crop: side of an HR crop in pixels.
        zoom: range of how many source pixels a crop's pixel spans; see PhotoCrops.
        workers: processes that decode; 0 for the training process itself.
    """

    photos: str = ""
    validation: str = ""
    crop: int = 128
    zoom: tuple[float, float] = (1.0, 3.0)
    workers: int = 0

    def __post_init__(self) -> None:
        _check(self.crop >= 32, "data.crop must be at least 32 pixels")
        _check(0.5 <= self.zoom[0] <= self.zoom[1], "data.zoom must be [low, high] with 0.5 <= low <= high")


@dataclass(frozen=True)
class Degrade:
    """How HR crops are degraded.

    Attributes:
        presets: weight of each preset.
        factor: range of the LR's factor, log-uniform.
        balance: samples weigh ``factor ** -balance`` in the loss. Their squared error grows about as
            ``factor ** 1.25``, so at 0 the large factors drown the small ones.
        groups: draws of preset and factor in a batch.
        upscale: how the LR image gets back to the HR grid, "preset" or "bicubic" (as in upscaling).
    """

    presets: dict[str, float] = field(default_factory=lambda: {"flowmapsr": 1.0})
    factor: tuple[float, float] = (1.5, 12.0)
    balance: float = 0.0
    groups: int = 4
    upscale: str = "preset"

    def __post_init__(self) -> None:
        _check(bool(self.presets), "degrade.presets must name at least one preset")
        for name, weight in self.presets.items():
            _check(name in PRESETS, f"degrade.presets: {name!r} is none of {', '.join(PRESETS)}")
            _check(weight > 0, f"degrade.presets: the weight of {name} must be above 0")
        _check(1 <= self.factor[0] <= self.factor[1], "degrade.factor must be [low, high] with 1 <= low <= high")
        _check(self.groups >= 1, "degrade.groups must be at least 1")
        _check(self.upscale in ("preset", "bicubic"), 'degrade.upscale must be "preset" or "bicubic"')


@dataclass(frozen=True)
class Guidance:
    """``scale``: range of w; ``none``: share of samples at w = 1; ``negative``: share with the negative prompt."""

    scale: tuple[float, float] = (1.0, 3.5)
    none: float = 0.0
    negative: float = 0.1

    def __post_init__(self) -> None:
        _check(1 <= self.scale[0] <= self.scale[1], "guidance.scale must be [low, high] with 1 <= low <= high")
        _check(0 <= self.none <= 1 and 0 <= self.negative < 1, "guidance.none and guidance.negative are shares")


@dataclass(frozen=True)
class Optimizer:
    """AdamW; the rate rises over ``warmup`` steps and falls to zero on a cosine over the last ``decay`` share."""

    lr: float = 4e-4
    weight_decay: float = 0.0
    clip: float = 1.0
    warmup: int = 200
    decay: float = 0.3
    ema: float = 0.999

    def __post_init__(self) -> None:
        _check(self.lr > 0 and self.clip > 0, "optimizer.lr and optimizer.clip must be above 0")
        _check(0 <= self.decay <= 1 and 0 <= self.ema < 1, "optimizer.decay and optimizer.ema are shares")


@dataclass(frozen=True)
class Stage:
    """``kind``: one of STAGES; ``steps``: optimiser steps it lasts."""

    kind: str
    steps: int

    def __post_init__(self) -> None:
        _check(self.kind in STAGES, f"stages: kind {self.kind!r} is none of {', '.join(STAGES)}")
        _check(self.steps > 0, "stages: steps must be above 0")


@dataclass(frozen=True)
class Output:
    """What a run leaves.

    Attributes:
        folder: where checkpoints, log and pictures go.
        every: steps between them.
        dtype: precision of the weights in the exported checkpoint.
        title, author, license: into its metadata.
    """

    folder: str = "runs/flowmapsr"
    every: int = 1000
    dtype: str = "float32"
    title: str = "FlowMapSR"
    author: str = ""
    license: str = ""

    def __post_init__(self) -> None:
        _check(self.every > 0, "output.every must be above 0")
        _check(self.dtype in DTYPES, f"output.dtype: {self.dtype!r} is none of {', '.join(DTYPES)}")


@dataclass(frozen=True)
class Recipe:
    """A training run.

    Attributes:
        stages: what is trained, in order.
        seed: of the weights, the crops and everything drawn about them.
        batch: HR crops a step, over all processes.
        precision: accelerate's mixed precision, "no", "bf16" or "fp16".
        start_from: checkpoint whose weights and shape are taken in place of ``model`` and fresh weights.
        model: sections ``network`` and ``codec`` as a checkpoint's configuration has them.
    """

    stages: tuple[Stage, ...]
    seed: int = 0
    batch: int = 12
    precision: str = "no"
    start_from: str = ""
    model: dict[str, Any] = field(
        default_factory=lambda: {"network": {"type": "LocalNet"}, "codec": {"type": "PixelCodec"}}
    )
    data: Data = field(default_factory=Data)
    degrade: Degrade = field(default_factory=Degrade)
    times: TimePairs = field(default_factory=TimePairs)
    guidance: Guidance = field(default_factory=Guidance)
    optimizer: Optimizer = field(default_factory=Optimizer)
    output: Output = field(default_factory=Output)

    def __post_init__(self) -> None:
        _check(bool(self.stages), "a recipe needs at least one [[stages]]")
        _check(self.batch >= 1, "batch must be at least 1")
        try:
            with torch.device("meta"):
                FlowMap.from_config(self.model)
        except (ValueError, TypeError) as error:
            raise UserError(f"model: {error}") from error
        _check(self.precision in ("no", "bf16", "fp16"), 'precision must be "no", "bf16" or "fp16"')

    @property
    def steps(self) -> int:
        """Optimiser steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> Stage:
        """The stage that a step (from 0) belongs to."""
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        return self.stages[-1]


def read_recipe(path: Path, overrides: list[str]) -> Recipe:
    """Read a recipe; ``overrides`` are ``section.key=value`` with a TOML value (a bare word is a string).

    Raises :class:`UserError` naming the key that is unknown or out of range.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give the path of a recipe (.toml)") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a TOML file: {error}") from error
    for override in overrides:
        key, equals, text = override.partition("=")
        _check(bool(equals), f"--set {override}: write it as section.key=value")
        *sections, name = key.strip().split(".")
        table = values
        for section in sections:
            table = table.setdefault(section, {})
            _check(isinstance(table, dict), f"--set {override}: {section} is not a section")
        table[name] = _toml_value(text.strip())
    try:
        return _build(Recipe, values, "")
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _build(kind: Any, values: dict[str, Any], where: str) -> Any:
    """A configuration dataclass from a TOML table, recursively."""
    hints = get_type_hints(kind)
    arguments = {}
    for key, value in values.items():
        name = f"{where}{key}"
        _check(key in hints, f"unknown key {name}; {where.rstrip('.') or 'a recipe'} has {', '.join(hints)}")
        hint = hints[key]
        if dataclasses.is_dataclass(hint):
            _check(isinstance(value, dict), f"{name} must be a section")
            arguments[key] = _build(hint, value, f"{name}.")
        elif key == "stages":
            _check(isinstance(value, list), "stages must be written as [[stages]]")
            arguments[key] = tuple(_build(Stage, stage, "stages.") for stage in value)
        else:
            arguments[key] = _convert(value, hint, name)
    missing = [
        f.name for f in dataclasses.fields(kind) if f.name not in arguments
        and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]  # fmt: skip
    _check(not missing, f"{where}{missing[0] if missing else ''} is missing")
    try:
        return kind(**arguments)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{where}{error}") from error


def _convert(value: Any, hint: Any, name: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint == tuple[float, float]:
        if isinstance(value, list) and len(value) == 2 and all(isinstance(v, (int, float)) for v in value):
            return (float(value[0]), float(value[1]))
        raise UserError(f"{name} must be two numbers, [low, high]")
    if hint == dict[str, float]:
        if isinstance(value, dict) and all(isinstance(v, (int, float)) for v in value.values()):
            return {key: float(number) for key, number in value.items()}
        raise UserError(f"{name} must be a section of numbers")
    kind = dict if getattr(hint, "__origin__", None) is dict else hint
    _check(isinstance(value, kind) and not (kind is int and isinstance(value, bool)), f"{name} must be {_named(kind)}")
    return value


def _named(kind: Any) -> str:
    return {int: "a whole number", float: "a number", str: "a string", dict: "a section"}[kind]


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise UserError(message)
