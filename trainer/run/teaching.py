"""A stage's teacher: it is asked for its pictures, or they are read from a cache that ``..teach`` has filled."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ...flowmapsr_core.atomic import remove_partials, write_text
from ...flowmapsr_core.errors import UserError
from ...flowmapsr_core.images.eight_bit import to_tensor
from ..data.crops import PhotoCrops
from ..data.teacher import Upscaler, teacher_file
from ..recipe.recipe import Recipe
from .batch import Teach
from .state import written
from .validation import make_grid, save_png

MADE_OF = "made-of.json"


class Teaching:
    """What gives micro-batches their teacher's pictures.

    Raises :class:`UserError` if the recipe's teacher is none, or its cache another's or not filled.
    """

    def __init__(self, recipe: Recipe, crops: PhotoCrops, device: torch.device) -> None:
        self.recipe = recipe
        self.cache = Cache(recipe, crops) if recipe.teacher.cache else None
        if self.cache:
            self.cache.check()
        else:
            self.upscaler = Upscaler(recipe.teacher, device)

    def of(self, step: int, own: slice, batch: int) -> Teach:
        """What gives the samples ``own`` of a step's ``batch`` theirs; ``step`` is that whose pairs are drawn."""
        cache = self.cache
        if cache is None:
            return self.upscaler.of_groups
        place = taught_rows(self.recipe, batch).cumsum(0) - 1  # of each sample's picture in the file
        return lambda _, rows, size: cache.read(step, size[0])[place[own][rows.cpu()]].to(rows.device)


def taught_rows(recipe: Recipe, batch: int) -> Tensor:
    """Samples of a step (batch,) bool to which the teacher may give a target, whichever of them are negative."""
    return torch.ones(batch, dtype=torch.bool) if recipe.teacher.of == "all" else recipe.times.jump_rows(batch)


class Cache:
    """A folder of PNG files, one a step: the teacher's pictures of its pairs, below one another.

    Beside them lies what they are made of, as :func:`made_of` says.

    Attributes:
        steps: those whose pictures it is to hold, in order.
    """

    def __init__(self, recipe: Recipe, crops: PhotoCrops) -> None:
        self.folder, self.steps = Path(recipe.teacher.cache).expanduser(), recipe.taught_steps()
        self.made_of = made_of(recipe, crops)

    def claim(self) -> None:
        """Begin to fill the folder, or go on; :class:`UserError` if it is another teacher's or recipe's."""
        path = self.folder / MADE_OF
        with written(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_partials(self.folder)
            if not path.exists():
                write_text(path, json.dumps(self.made_of, indent=1))
        self._compare()

    def check(self) -> None:
        """Raise :class:`UserError` unless all pictures are there, of this teacher and recipe."""
        if (self.folder / MADE_OF).exists():
            self._compare()
        wanted, missing = len(self.steps), len(self.missing(self.steps))
        if missing:
            raise UserError(
                f"teacher.cache: {self.folder} holds the pictures of {wanted - missing} of {wanted} steps; run "
                f"python -m flowmapsr.trainer.teach with the same recipe, which makes the rest"
            )

    def missing(self, steps: list[int]) -> list[int]:
        """Those of some steps whose pictures are not there."""
        there = {path.name for path in self.folder.glob("*.png")}
        return [step for step in steps if self._file(step).name not in there]

    def write(self, step: int, pictures: Tensor) -> None:
        """Keep the pictures (n, 3, H, W) of a step's :func:`taught_rows`."""
        with written(self.folder):
            save_png(make_grid([pictures]), self._file(step))

    def read(self, step: int, height: int) -> Tensor:
        """The pictures (n, 3, height, W) of a step. Raises :class:`UserError` if the file is damaged."""
        path = self._file(step)
        try:
            with Image.open(path) as image:
                return to_tensor(image).unflatten(1, (-1, height)).movedim(1, 0)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"{path} cannot be read ({error}); delete it and run python -m flowmapsr.trainer.teach with the same "
                f"recipe, which makes it again"
            ) from error

    def _file(self, step: int) -> Path:
        return self.folder / f"{step:06d}.png"

    def _compare(self) -> None:
        path = self.folder / MADE_OF
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"teacher.cache: {path} cannot be read ({error}); give another folder") from error
        key = next((key for key in self.made_of if self.made_of[key] != there.get(key)), "")
        if key:
            raise UserError(
                f"teacher.cache: {self.folder} holds pictures of another recipe: {key} is {there.get(key)!r} there, "
                f"{self.made_of[key]!r} now; give another folder, or delete that one"
            )


def made_of(recipe: Recipe, crops: PhotoCrops) -> dict[str, Any]:
    """All that a step's pictures follow from, by the recipe's keys as JSON has it; files by hashes."""
    data, degrade, teacher = recipe.data, recipe.degrade, recipe.teacher
    folder = Path(data.photos).expanduser()
    buckets = [
        (shape, [(str(Path(photo.path).relative_to(folder)), photo.member) for photo in photos])
        for _, buckets in crops.budgets
        for shape, photos in buckets.items()
    ]
    others = {preset: _file_hash(name, "teacher.by_preset") for preset, name in teacher.by_preset.items()}
    values = {
        "seed": recipe.seed,
        "teacher.upscaler": _file_hash(teacher.upscaler, "teacher.upscaler"),
        "teacher.by_preset": others or None,
        "teacher.of": teacher.of,
        "times.jumps": recipe.times.jumps if teacher.of == "jumps" else None,
        "data.budgets": [(budget.side, budget.batch) for budget in data.budgets],
        "data.aspect": data.aspect,
        "data.zoom": data.zoom,
        "data.tone": data.tone,
        "degrade.presets": degrade.presets,
        "degrade.factor": degrade.factor,
        "degrade.groups": degrade.groups,
        "crops": [shape for shape, _ in buckets],
        "data.photos": _hash(json.dumps(buckets).encode()),
    }
    return json.loads(json.dumps(values))


def _file_hash(upscaler: str, key: str) -> str:
    return _hash(teacher_file(upscaler, key).read_bytes())


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
