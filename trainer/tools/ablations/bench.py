"""Trains variants, each once, and measures them."""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor

from ....flowmapsr_core import load_model, merge_lora, save_checkpoint, upscale
from ....flowmapsr_core.evaluation.features import FeatureDistance
from ....flowmapsr_core.files.convert import convert, read_source
from ....flowmapsr_core.images.degradation import degrade, preset
from ....flowmapsr_core.images.resize import resize
from ....flowmapsr_core.model import Model
from ...recipe.read import read_recipe
from ...run.loop import train
from ...run.validation import CROP, load_crops, make_grid, score
from ...run.watch import Exploded
from .variants import ALL, BASE, CONVERTED, UPSCALER, Column, Table, Variant

RECIPE = Path(__file__).parents[2] / "recipes" / "ablation.toml"
FACTOR = 4
BASE_STEPS = 1000
ROWS = 4  # of the picture


class Figures(NamedTuple):
    """PSNR gain over bicubic in dB, high-frequency energy relative to HR, distance to HR by a classifier's features."""

    gain: float
    ratio: float
    distance: float

    def __str__(self) -> str:
        return f"{self.gain:+.2f} ({self.ratio:.3f}, {self.distance:.3f})"


@dataclass
class Bench:
    """What all variants share.

    Attributes:
        photos, validation: folders to train on, and to measure on.
        output: folder of the runs.
        steps: optimiser steps of a variant.
        seeds: of the runs; every variant is trained with each.
        upscaler: of the community, which teaches and, converted, is started from; for the tables "losses" and "parts".
    """

    photos: Path
    validation: Path
    output: Path
    steps: int
    seeds: Sequence[int]
    upscaler: Path | None = None
    models: dict[tuple[str, int], Path | Exploded] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.hr = load_crops(self.validation)
        self.lr = degrade(self.hr, FACTOR, preset("flowmapsr"), torch.Generator().manual_seed(0))
        self.enlarged = resize(self.lr, (CROP, CROP)).clamp(0, 1)
        self.distance = FeatureDistance()
        self.bicubic = self.figures(self.enlarged)

    def result(self, variant: Variant, seed: int) -> Path:
        """Checkpoint or LoRA of a variant, trained if need be, after what it starts from.

        Raises :class:`Exploded` where training blows up.
        """
        if (variant.name, seed) not in self.models:
            try:
                self.models[variant.name, seed] = self._train(variant, seed)
            except Exploded as error:
                self.models[variant.name, seed] = error
        result = self.models[variant.name, seed]
        if isinstance(result, Exploded):
            raise result
        return result

    def _train(self, variant: Variant, seed: int) -> Path:
        folder = self.output / variant.name / str(seed)
        steps = BASE_STEPS if variant.name == BASE else self.steps
        print(f"\n{variant.name}, seed {seed}", file=sys.stderr)
        changes = [f"data.photos={self.photos}", f"output.folder={folder}", f"seed={seed}", variant.recipe(steps)]
        if variant.start:
            changes.append(f"start_from={self.start(variant, seed)}")
        changes += [change.replace(UPSCALER, str(self.upscaler)) for change in variant.changes]
        return train(read_recipe(RECIPE, changes))

    def start(self, variant: Variant, seed: int) -> Path:
        """The checkpoint that a variant starts from."""
        if variant.start != CONVERTED:
            return self.result(ALL[variant.start], seed)
        path = self.output / "converted.safetensors"
        if not path.exists():
            save_checkpoint(convert(read_source(cast(Path, self.upscaler))), path)
        return path

    def model(self, variant: Variant, seed: int, lora_scale: float) -> Model:
        """A trained variant, ready to upscale."""
        result = self.result(variant, seed)
        if result.name != "lora.safetensors":
            return load_model(result)
        model = load_model(self.start(variant, seed))
        merge_lora(model, result, lora_scale)
        return model

    def measure(self, variant: Variant, column: Column, seed: int) -> Figures:
        """Figures at x4 over the validation photographs, degraded by the ``flowmapsr`` preset."""
        measured = self.figures(self.sample(variant, column, seed))
        return measured._replace(gain=measured.gain - self.bicubic.gain)

    def figures(self, image: Tensor) -> Figures:
        """PSNR, high frequencies and distance of upscaled images, averaged over them."""
        psnr, ratio = score(image, self.hr)
        with torch.no_grad():
            distances = [self.distance(*pair) for pair in zip(image.split(1), self.hr.split(1), strict=True)]
        return Figures(psnr, ratio, torch.cat(distances).mean().item())

    def sample(self, variant: Variant, column: Column, seed: int) -> Tensor:
        """What a variant makes of the LR images."""
        model = self.model(variant, seed, column.lora_scale)
        if column.euler:
            embed = model.network.embed
            model.network.embed = lambda t, s, prompt, guidance: embed(t, t, prompt, guidance)
        sampled = upscale(model, self.lr, FACTOR, color="none", tile=0, **column.settings)
        if column.blend == 1:
            return sampled
        return torch.lerp(upscale(model, self.lr, FACTOR, look="faithful", color="none", tile=0), sampled, column.blend)

    def picture(self, table: Table) -> Tensor:
        """A grid (3, H, W), a row for some of the photographs: bicubic, the variants by the last column, and HR.

        Those that have blown up are left out.
        """
        columns = []
        for variant in table.variants:
            with contextlib.suppress(Exploded):
                columns.append(self.sample(variant, table.columns[-1], self.seeds[0]))
        return make_grid([column[:ROWS] for column in (self.enlarged, *columns, self.hr)])
