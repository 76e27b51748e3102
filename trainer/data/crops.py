"""HR crops for a training step: any step's can be drawn without those before it, so a resumed run goes on as it was."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from ...flowmapsr_core.errors import UserError, check
from ...flowmapsr_core.images.eight_bit import to_tensor
from .photos import DECODED_BYTES, UNREADABLE, Decoded, Photo, Sizes, find_photos

RATIOS = 3  # aspect ratios on either side of the square
TRIES = 100  # damaged photographs in a row

Shape = tuple[int, int]


@dataclass(frozen=True)
class Budget:
    """Crops of about ``side**2`` pixels, ``batch`` of them an optimiser step over all processes."""

    side: int = 128
    batch: int = 12

    def __post_init__(self) -> None:
        check(self.side >= 32, "data.budgets.side must be at least 32 pixels")
        check(self.batch >= 1, "data.budgets.batch must be at least 1")


@dataclass(frozen=True)
class Data:
    """Where HR crops come from.

    Attributes:
        photos: folder of training photographs, searched to its depth; ``.tar`` shards (webdataset) are read too.
        validation: folder of held-out photographs; empty for no validation.
        budgets: pixels of a crop and crops of a step; each step takes one of them.
        aspect: most elongated crop, longer side by shorter; 1 for squares only.
        zoom: range of how many source pixels a crop's pixel spans; see PhotoCrops.
        tone: largest loss of contrast of a crop, 0 for none and no negatives; see PhotoCrops.
        workers: processes that decode; 0 for the training process itself.
    """

    photos: str = ""
    validation: str = ""
    budgets: tuple[Budget, ...] = (Budget(),)
    aspect: float = 1.0
    zoom: tuple[float, float] = (1.0, 3.0)
    tone: float = 0.0
    workers: int = 0

    def __post_init__(self) -> None:
        check(bool(self.budgets), "data.budgets needs at least one [[data.budgets]]")
        check(1 <= self.aspect <= 4, "data.aspect must be 1 to 4")
        check(0.5 <= self.zoom[0] <= self.zoom[1], "data.zoom must be [low, high] with 0.5 <= low <= high")
        check(0 <= self.tone < 1, "data.tone must be at least 0 and below 1")
        check(self.workers >= 0, "data.workers must be 0 or more")


class Crop(NamedTuple):
    """A crop to draw: number ``number`` of step ``step``'s batch, of ``shape`` (height, width) pixels."""

    step: int
    number: int
    shape: Shape


def bucket_shapes(side: int, aspect: float, multiple: int) -> list[Shape]:
    """(height, width) of about ``side**2`` pixels, multiples of ``multiple``, from upright ``aspect`` to lying."""
    ratios = [aspect ** (k / RATIOS) for k in range(-RATIOS, RATIOS + 1)]
    shapes = ((side / math.sqrt(ratio), side * math.sqrt(ratio)) for ratio in ratios)
    return sorted({(_nearest(height, multiple), _nearest(width, multiple)) for height, width in shapes})


def _nearest(length: float, multiple: int) -> int:
    return max(multiple, round(length / multiple) * multiple)


def training_photos(data: Data, processes: PartialState | None = None) -> tuple[Sizes, int]:
    """The photographs of ``data.photos`` and how many files were none, as :func:`find_photos` gives them."""
    check(bool(data.photos), "data.photos must name a folder of photographs: --set data.photos=FOLDER")
    there = Path(data.photos).expanduser().is_dir()
    check(there, f"data.photos: {data.photos} is not a folder; name one of photographs with --set data.photos=FOLDER")
    return find_photos(Path(data.photos), 32, processes)


class PhotoCrops(Dataset):
    """Crops of photographs, each put into the bucket whose shape is most like its own.

    A crop shows a window ``zoom`` times its own size, shrunk: photographs from the web are soft at full size, and a
    network that never saw a sharp pixel cannot make one. ``tone`` is how much contrast a crop may lose; what is left
    is placed anywhere between black and white, half of the time as a negative, so that a few photographs do not teach
    which brightness goes with which shape.

    ``photos`` are those of :func:`training_photos`; ``processes`` train on this machine, each with ``data.workers``.

    Raises :class:`UserError` if no photograph is large enough.
    """

    def __init__(self, data: Data, photos: Sizes, multiple: int, seed: int, processes: int = 1) -> None:
        self.data, self.seed = data, seed
        self.decoded = Decoded(DECODED_BYTES // (processes * max(data.workers, 1)))
        self.budgets: list[tuple[int, dict[Shape, list[Photo]]]] = []
        for budget in data.budgets:
            shapes = bucket_shapes(budget.side, data.aspect, multiple)
            self.budgets.append((budget.batch, _buckets(photos, shapes)))
            if not self.budgets[-1][1]:
                raise UserError(f"{data.photos} holds no photograph of at least {budget.side}x{budget.side} pixels")

    @property
    def shortest_side(self) -> int:
        """Shortest side of any crop, in pixels."""
        return min(min(shape) for _, buckets in self.budgets for shape in buckets)

    def draw_bucket(self, step: int) -> tuple[Shape, int]:
        """(shape, batch) of a step; a bucket comes as often as it has photographs."""
        random = np.random.default_rng((self.seed, step))
        batch, buckets = self.budgets[random.integers(len(self.budgets))]
        shares = np.array([len(photos) for photos in buckets.values()], float)
        return list(buckets)[random.choice(len(shares), p=shares / shares.sum())], batch

    def __getitem__(self, crop: Crop) -> tuple[Tensor, list[str]]:
        """The crop (3, H, W) in [0, 1], and the names of damaged photographs that were passed over for it."""
        random = np.random.default_rng((self.seed, crop.step, 1 + crop.number))
        photos = next(buckets[crop.shape] for _, buckets in self.budgets if crop.shape in buckets)
        damaged = []
        for _ in range(TRIES):
            photo = photos[random.integers(len(photos))]
            try:
                return self._cut(self.decoded.load(photo), crop.shape, random), damaged
            except UNREADABLE:
                damaged.append(photo.name)
        raise UserError(f"{TRIES} photographs in a row could not be decoded, the last {damaged[-1]}; check the folder")

    def _cut(self, image: Image.Image, shape: Shape, random: np.random.Generator) -> Tensor:
        height, width = shape
        low, high = self.data.zoom
        most = min(high, image.width / width, image.height / height)
        zoom = random.uniform(min(low, most), most)
        left, top = (
            random.uniform(0, side - zoom * part) for side, part in zip(image.size, (width, height), strict=True)
        )
        box = (left, top, left + zoom * width, top + zoom * height)
        crop = to_tensor(image.resize((width, height), Image.Resampling.BICUBIC, box=box))
        turn = int(random.integers(4))
        crop = crop.rot90(turn if height == width else turn // 2 * 2, (1, 2))
        crop = crop.flip(2) if random.integers(2) else crop
        return self._change_tone(crop, random) if self.data.tone else crop

    def _change_tone(self, crop: Tensor, random: np.random.Generator) -> Tensor:
        contrast = 1 - random.uniform(0, self.data.tone)
        crop = 1 - crop if random.integers(2) else crop
        return crop * contrast + random.uniform(0, 1 - contrast)


def _buckets(photos: Sizes, shapes: list[Shape]) -> dict[Shape, list[Photo]]:
    buckets: dict[Shape, list[Photo]] = {}
    for photo, (width, height) in photos.items():
        shape = min(shapes, key=lambda shape: abs(math.log(shape[1] / shape[0] * height / width)))
        if height >= shape[0] and width >= shape[1]:
            buckets.setdefault(shape, []).append(photo)
    return buckets


class StepSampler(Sampler[list[Crop]]):
    """The crops of ``steps`` for one process, a list per micro-batch.

    A step's crops are shared out in order, so that several processes, or several micro-batches, see together what one
    would see alone.
    """

    def __init__(self, crops: PhotoCrops, steps: Sequence[int], parts: int, process: int, processes: int) -> None:
        self.crops, self.steps = crops, steps
        self.parts, self.process, self.processes = parts, process, processes

    def __iter__(self) -> Iterator[list[Crop]]:
        for step in self.steps:
            shape, batch = self.crops.draw_bucket(step)
            share = batch // (self.parts * self.processes)
            for part in range(self.parts):
                first = (part * self.processes + self.process) * share
                yield [Crop(step, first + i, shape) for i in range(share)]

    def __len__(self) -> int:
        return len(self.steps) * self.parts


def collate(items: list[tuple[Tensor, list[str]]]) -> tuple[Tensor, list[str]]:
    """Crops (B, 3, H, W), and the damaged photographs met."""
    return torch.stack([crop for crop, _ in items]), [name for _, names in items for name in names]
