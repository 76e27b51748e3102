"""What is upscaled and measured: pairs made by degradation, pairs of files, or LR images alone."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..images.alpha import fill_transparent
from ..images.degradation import degrade, preset
from ..images.eight_bit import eight_bit
from ..images.picture_files import READABLE, opened, read_picture
from ..upscaling.pipeline import output_size

Group = tuple[str, float]  # preset and factor
GIVEN = "given"  # in place of a preset, where LR images are files


@dataclass(frozen=True)
class Pair:
    """Images of a case, in [0, 1].

    Attributes:
        lr: (1, 3, h, w), in the 256 steps of a picture file.
        hr: (1, 3, H, W); None where nobody knows.
        size: (H, W) of the picture that is asked for.
    """

    lr: Tensor
    hr: Tensor | None
    size: tuple[int, int]

    @property
    def reference(self) -> Tensor:
        """The HR image. Raises ``ValueError`` if there is none: nothing that needs one may be asked then."""
        if self.hr is None:
            raise ValueError("there is no HR image")
        return self.hr


@dataclass(frozen=True)
class Case:
    """An image at a factor.

    Attributes:
        image: its place in its folder.
        preset: how its LR image is made, or ``GIVEN``.
        factor: how much smaller that is.
        hr, lr: its files, one of them at least. Without ``lr`` that is made of ``hr``.
        seed: of all images; what an image is degraded with follows from it and its place, not from other images.
    """

    image: str
    preset: str
    factor: float
    hr: Path | None
    lr: Path | None
    seed: int

    @property
    def file(self) -> Path:
        """The file to name where something is wrong."""
        return self.lr or self.hr or Path(self.image)

    @property
    def name(self) -> dict[str, Any]:
        """What it is called, as JSON data."""
        return {"image": self.image, "preset": self.preset, "factor": self.factor}

    @cached_property
    def source(self) -> dict[str, Any]:
        """All that its images depend on, as JSON data: the files' content too."""
        files = {kind: file for kind, file in (("hr", self.hr), ("lr", self.lr)) if file is not None}
        hashes = {kind: hashlib.sha256(file.read_bytes()).hexdigest() for kind, file in files.items()}
        return {**self.name, **hashes, "seed": self.seed}

    def load(self) -> Pair:
        """Read its images; :class:`UserError` if they cannot be read, or are too small."""
        hr = None if self.hr is None else _read(self.hr)
        if self.lr is not None:
            lr = eight_bit(_read(self.lr))
            size = output_size(lr, self.factor, None if hr is None else (hr.shape[-2], hr.shape[-1]))
            return Pair(lr, hr, size)
        if hr is None:
            raise ValueError("a case has a file")
        hr = _in_multiples(hr, self.factor)
        generator = torch.Generator().manual_seed(_seed(self.seed, self.image))
        lr = eight_bit(degrade(hr, self.factor, preset(self.preset), generator))
        return Pair(lr, hr, output_size(lr, 1.0, (hr.shape[-2], hr.shape[-1])))


def images_in(folder: Path, output: Path) -> dict[str, Path]:
    """The images of a folder tree by their places in it, without what lies in ``output``, which an earlier run made.

    Raises :class:`UserError` if there are none.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give one of images")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix.lower() in READABLE)
    files = [path for path in files if not path.resolve().is_relative_to(output.resolve())]
    if not files:
        raise UserError(f"{folder} holds no images ({', '.join(sorted(READABLE))})")
    return {file.relative_to(folder).as_posix(): file for file in files}


def degraded_cases(files: dict[str, Path], presets: Sequence[str], factors: Sequence[float], seed: int) -> list[Case]:
    """Every HR image by every preset at every factor."""
    return [
        Case(place, name, factor, file, None, seed)
        for name in presets for factor in factors for place, file in files.items()
    ]  # fmt: skip


def paired_cases(hr_files: dict[str, Path], lr_files: dict[str, Path]) -> tuple[list[Case], dict[str, str]]:
    """HR images and LR images, by their names without extensions.

    Returns:
        The cases, and what is wrong with images whose size cannot be read, by their places.

    Raises:
        UserError: an image has no counterpart, or several.
    """
    hr, lr = _by_stem(hr_files), _by_stem(lr_files)
    for stem in sorted(hr.keys() ^ lr.keys()):
        kind, (_, file) = ("LR", hr[stem]) if stem in hr else ("HR", lr[stem])
        raise UserError(f"{file} has no {kind} image of the same name beside it in the other folder; take it away")
    cases: list[Case] = []
    damaged: dict[str, str] = {}
    for stem, (place, file) in hr.items():
        small = lr[stem][1]
        try:
            cases.append(Case(place, GIVEN, _factor(file, small), file, small, 0))
        except UserError as error:
            damaged[place] = str(error)
    return sorted(cases, key=lambda case: (case.factor, case.image)), damaged


def lone_cases(files: dict[str, Path], factors: Sequence[float]) -> list[Case]:
    """LR images, of whose originals nothing is known, at every factor."""
    return [Case(place, GIVEN, factor, None, file, 0) for factor in factors for place, file in files.items()]


def group_cases(cases: Sequence[Case]) -> dict[Group, list[Case]]:
    """Cases by preset and factor, in the order in which these come."""
    groups: dict[Group, list[Case]] = {}
    for case in cases:
        groups.setdefault((case.preset, case.factor), []).append(case)
    return groups


def _by_stem(files: dict[str, Path]) -> dict[str, tuple[str, Path]]:
    found: dict[str, tuple[str, Path]] = {}
    for place, file in files.items():
        stem = Path(place).with_suffix("").as_posix()
        if stem in found:
            raise UserError(f"{found[stem][1]} and {file} have one name; take one of them away")
        found[stem] = (place, file)
    return found


def _factor(hr: Path, lr: Path) -> float:
    """How much larger one image is, to a tenth, as some lose pixels; :class:`UserError` if that cannot be read."""
    (width, height), (small_width, small_height) = (_size(path) for path in (hr, lr))
    return round((width * height / (small_width * small_height)) ** 0.5, 1)


def _size(path: Path) -> tuple[int, int]:
    with opened(path, str(path)) as image:
        return image.size


def _read(path: Path) -> Tensor:
    picture = read_picture(path)
    return fill_transparent(picture.color, picture.alpha)


def _in_multiples(hr: Tensor, factor: float) -> Tensor:
    """Without the last rows and columns that a whole factor leaves over, as benchmarks have it."""
    if factor != int(factor):
        return hr
    height, width = (side // int(factor) * int(factor) for side in hr.shape[-2:])
    if not height or not width:
        raise UserError(f"it is smaller than {factor:g} pixels")
    return hr[..., :height, :width]


def _seed(seed: int, image: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {image}".encode()).digest()[:8], "big") >> 1
