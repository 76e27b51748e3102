"""What makes the pictures: resampling, upscalers of the community, and models with the settings that are compared."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from ..files.checkpoint import load_model, weights_hash
from ..files.lora import merge_loras
from ..images.eight_bit import to_pillow, to_tensor
from ..images.resize import resize
from ..method.looks import Look, find_look
from ..model import Model, Precision
from ..upscaling.community import CommunityUpscaler
from ..upscaling.host import TorchHost
from ..upscaling.pipeline import painted_size, upscale
from ..upscaling.plan import make_plan
from ..upscaling.settings import as_trained
from .cells import Settings

Lines = tuple[list[int], list[int]]  # rows and columns where tiles begin or end, in pixels


class Maker(Protocol):
    """What makes pictures by one set of weights.

    Attributes:
        title: what shows while it is at work.
        methods: what each of its methods is, as JSON data, by the name that a table has for it.
        digest: of the weights; empty where there are none.
        period: of the grid that tiles lie on, in pixels.
    """

    title: str
    methods: dict[str, Settings]
    digest: str
    period: int

    def pictures(self, names: Sequence[str], lr: Tensor, size: tuple[int, int]) -> Iterator[tuple[str, Tensor]]:
        """Pictures (1, 3, *size), about [0, 1], of an LR image (1, 3, h, w) by methods of these names."""
        ...

    def lines(self, lr: Tensor, size: tuple[int, int]) -> Lines | None:
        """Where tiles meet in such a picture of an LR image; None if the maker has none."""
        ...


class Resampling:
    """Bicubic as the core resizes, and Pillow's Lanczos with a radius of 3."""

    def __init__(self) -> None:
        self.methods: dict[str, Settings] = {name: {"resampling": name} for name in ("bicubic", "lanczos")}
        self.title, self.digest, self.period = "resampling", "", 1

    def pictures(self, names: Sequence[str], lr: Tensor, size: tuple[int, int]) -> Iterator[tuple[str, Tensor]]:
        for name in names:
            yield name, resize(lr, size) if name == "bicubic" else _lanczos(lr, size)

    def lines(self, lr: Tensor, size: tuple[int, int]) -> Lines | None:
        return None


class Baseline:
    """An upscaler of the community, called by its file's name; :class:`UserError` as from it."""

    def __init__(self, path: Path, device: torch.device) -> None:
        self.upscaler, self.device = CommunityUpscaler(path, device), device
        self.title, self.period = path.name, 1
        self.methods: dict[str, Settings] = {path.stem: {"baseline": path.name}}
        self.digest = weights_hash({name: x.cpu() for name, x in self.upscaler.model.model.state_dict().items()})

    @torch.no_grad()
    def pictures(self, names: Sequence[str], lr: Tensor, size: tuple[int, int]) -> Iterator[tuple[str, Tensor]]:
        for name in names:
            yield name, self.upscaler(lr.to(self.device), size).cpu()

    def lines(self, lr: Tensor, size: tuple[int, int]) -> Lines | None:
        return None


@dataclass(frozen=True)
class Column:
    """A method of a model.

    Attributes:
        name: in tables.
        look: settings; of a blend, those of its realistic end.
        model: what loads it.
        lora_scale: strength of the LoRAs, the look's part in it included.
        dials: realism dials that it is a point of, by what their points have in common.
        named: the look, where it is one; a model that has one of its own by that name takes that.
        blend: whether it is half of the picture at realism 0 and half of that at 1: what the dial at 0.5 has to beat.
    """

    name: str
    look: Look
    model: str
    lora_scale: float = 0.0
    dials: tuple[str, ...] = ()
    named: str = ""
    blend: bool = False


@dataclass(frozen=True)
class Loading:
    """What all models are loaded and run with."""

    device: torch.device
    dtype: Precision
    vae: Path | None = None
    loras: tuple[Path, ...] = ()
    tile: int | None = None


class ModelMaker:
    """A model with its LoRAs at one strength, and columns that differ in their settings alone.

    Columns that the model samples as it does one before are left out; that one takes their place on their dials.

    Raises :class:`UserError` if the model cannot be loaded, or a LoRA does not fit it.
    """

    def __init__(self, columns: Sequence[Column], loading: Loading) -> None:
        first = columns[0]
        self.model = load_model(first.model, loading.device, loading.dtype, vae=loading.vae)
        merge_loras(self.model, [(path, first.lora_scale) for path in loading.loras])
        self.loading, self.title = loading, first.model
        self.columns = {column.name: column for column in distinct(self.model, columns)}
        self.methods = {name: self._settings(column) for name, column in self.columns.items()}
        weights = weights_hash({name: x.cpu() for name, x in self.model.tensors().items()})
        config = json.dumps(self.model.config(), sort_keys=True)
        self.digest = hashlib.sha256(f"{weights} {config} {self.model.dtype}".encode()).hexdigest()
        self.period = self.model.codec.factor * self.model.network.stride

    def pictures(self, names: Sequence[str], lr: Tensor, size: tuple[int, int]) -> Iterator[tuple[str, Tensor]]:
        lr = lr.to(self.model.device)
        made: dict[Look, Tensor] = {}

        def picture(look: Look) -> Tensor:
            if look not in made:
                made[look] = upscale(
                    self.model, lr, steps=look.steps, guidance=look.guidance, realism=look.realism, size=size,
                    tile=self.loading.tile,
                ).cpu()  # fmt: skip
            return made[look]

        for name in names:
            column = self.columns[name]
            ends = [replace(column.look, realism=end) for end in (0.0, 1.0)] if column.blend else [column.look]
            yield name, torch.stack([picture(as_trained(self.model, look)) for look in ends]).mean(dim=0)

    def lines(self, lr: Tensor, size: tuple[int, int]) -> Lines | None:
        painted = painted_size(self.model, lr, size)
        plan = make_plan(self.model, painted, TorchHost(self.model.device), self.loading.tile)
        boxes, factor = plan.tiling(self.model).boxes(*plan.cells), self.model.codec.factor
        rows = {edge * factor for top, _, bottom, _ in boxes for edge in (top, bottom)}
        columns = {edge * factor for _, left, _, right in boxes for edge in (left, right)}
        return tuple(  # pyright: ignore[reportReturnType]
            sorted(round(line * shown / side) for line in lines if 0 < line < side)
            for lines, side, shown in zip((rows, columns), painted, size, strict=True)
        )

    def _settings(self, column: Column) -> Settings:
        look = asdict(column.look)
        del look["lora_scale"]
        settings = {
            "model": column.model,
            "blend": column.blend,
            "dials": column.dials,
            "tile": self.loading.tile,
            **look,
        }
        if self.loading.loras and column.lora_scale:
            settings["loras"] = {path.name: column.lora_scale for path in self.loading.loras}
        return settings


def distinct(model: Model, columns: Sequence[Column]) -> list[Column]:
    """Columns with settings that the model can follow, without those that it samples as it does one before."""
    found: dict[tuple[Look, bool], Column] = {}
    for column in columns:
        look = find_look(column.named, model.looks) if column.named else column.look
        look = replace(as_trained(model, look), lora_scale=1.0)
        first = found.setdefault((look, column.blend), replace(column, look=look))
        found[look, column.blend] = replace(first, dials=tuple(dict.fromkeys(first.dials + column.dials)))
    return list(found.values())


def _lanczos(lr: Tensor, size: tuple[int, int]) -> Tensor:
    return to_tensor(to_pillow(lr[0]).resize((size[1], size[0]), Image.Resampling.LANCZOS))[None]
