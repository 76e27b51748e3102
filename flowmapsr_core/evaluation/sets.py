"""Measures of all pictures of a method together, which compare two folders."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ..images.picture_files import Picture, write_picture
from .cases import Case, Group
from .cells import Cells, Settings

SetMeasure = Callable[[Path, Path], float]  # of a folder of pictures, and one of what they should be
SetFigures = dict[Group, dict[str, dict[str, float]]]  # by group, method and metric


def fid(device: torch.device) -> SetMeasure:
    """Fréchet distance of Inception's features (arXiv 1706.08500); of few images it says mostly how few they are."""
    from pyiqa import create_metric  # pyright: ignore[reportMissingImports]

    judge = create_metric("fid", device=device)

    def measure(pictures: Path, references: Path) -> float:
        return float(judge(str(pictures), str(references)))

    return measure


def measure_sets(
    groups: dict[Group, list[Case]], methods: dict[str, Settings], measures: dict[str, SetMeasure], cells: Cells
) -> SetFigures:
    """Figures of all pictures of a group of cases, which have HR images and were kept whole."""
    if not measures:
        return {}
    return {group: _measure_group(cases, methods, measures, cells) for group, cases in groups.items()}


def _measure_group(
    cases: Sequence[Case], methods: dict[str, Settings], measures: dict[str, SetMeasure], cells: Cells
) -> dict[str, dict[str, float]]:
    figures: dict[str, dict[str, float]] = {}
    with TemporaryDirectory() as folder:  # which holds these cases alone, whatever else was kept
        pictures, references = Path(folder, "pictures"), Path(folder, "references")
        pictures.mkdir()
        for index, case in enumerate(cases):
            write_picture(Picture(case.load().reference), references / f"{index:06}.png")
        for method, settings in methods.items():
            for index, case in enumerate(cases):
                shutil.copyfile(cells.whole(case, settings), pictures / f"{index:06}.png")
            values = {name: measure(pictures, references) for name, measure in measures.items()}
            figures[method] = {name: float(f"{value:.6g}") for name, value in values.items()}
    return figures
