"""Every method on every image: pictures made, measured and kept, but for those that are there already."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..images.eight_bit import eight_bit
from ..images.metrics import high_frequency_energy
from .cases import Case, Pair
from .cells import Cells, Settings, Value
from .makers import Maker
from .measures import Measure, Sample

log = logging.getLogger("flowmapsr")

EDITION = 2  # of the measures, and of how pictures are made: figures of an earlier one are not taken
CROP = 256  # side of what is kept of a picture, in pixels

Watch = Callable[[Maker, Sequence[Case]], Iterable[Case]]  # gives the cases one after another, and shows progress


@dataclass(frozen=True)
class Keep:
    """What is kept of the pictures: a part of those of ``shown`` cases, and ``whole`` ones of all."""

    shown: Sequence[Case] = ()
    whole: bool = False


@dataclass
class Results:
    """What has been measured.

    Attributes:
        methods: what each is, as JSON data, in the order of the table.
        cells: figures of a case by a method, by metric.
        failures: what was wrong, for cases that are left out.
    """

    methods: dict[str, Settings] = field(default_factory=dict)
    cells: dict[tuple[Case, str], dict[str, Value]] = field(default_factory=dict)
    failures: dict[Case, Exception] = field(default_factory=dict)


def measure_all(
    cases: Sequence[Case],
    makers: Sequence[Callable[[], Maker]],
    measures: dict[str, Measure],
    cells: Cells,
    keep: Keep,
    watch: Watch,
) -> Results:
    """Measure all methods on all cases; what goes wrong with a case leaves it out, and the others are measured.

    Args:
        cases: images, presets and factors.
        makers: load what makes the pictures, one after another, so that one model at a time is in memory.
        measures: by the metrics' names.
        cells: where figures are kept, and found again.
        keep: what is kept of the pictures.
        watch: shows progress.

    Raises:
        UserError: a model cannot be loaded.
    """
    results = Results()
    for load in makers:
        maker = load()
        results.methods |= maker.methods
        for case in watch(maker, cases):
            if case in results.failures:
                continue
            try:
                figures = _measure(case, maker, measures, cells, keep)
            except Exception as error:  # whatever is odd about one image, the others are measured
                log.info("%s", case.file, exc_info=True)
                results.failures[case] = error.with_traceback(None)  # which holds on to tensors
            else:
                results.cells |= {(case, name): values for name, values in figures.items()}
        del maker
    if cells.outdated:
        count = len(cells.outdated)
        log.warning("%d results in %s were made of other files or weights: they are made anew", count, cells.folder)
    return results


def _measure(
    case: Case, maker: Maker, measures: dict[str, Measure], cells: Cells, keep: Keep
) -> dict[str, dict[str, Value]]:
    """Figures by metric, by method."""
    made = {"weights": maker.digest, "edition": EDITION}
    figures = {name: cells.read(case, settings, made) for name, settings in maker.methods.items()}
    shown = case in keep.shown
    todo = [
        name for name, settings in maker.methods.items()
        if not measures.keys() <= figures[name].keys()
        or (shown and not cells.part(case, settings).is_file())
        or (keep.whole and not cells.whole(case, settings).is_file())
    ]  # fmt: skip
    if todo:
        pair = case.load()
        place = busiest(pair) if shown else None
        lines = maker.lines(pair.lr, pair.size)
        for name, picture in maker.pictures(todo, pair.lr, pair.size):
            sample = Sample(eight_bit(picture), pair, case.factor, lines, maker.period)
            with torch.no_grad():
                lacking = {metric: measure for metric, measure in measures.items() if metric not in figures[name]}
                figures[name] |= {metric: _short(measure(sample)) for metric, measure in lacking.items()}
            part = None if place is None else cut(sample.picture, place)
            whole = sample.picture if keep.whole else None
            cells.write(case, maker.methods[name], made, figures[name], part, whole)
    return {name: {metric: values[metric] for metric in measures} for name, values in figures.items()}


def busiest(pair: Pair) -> tuple[int, int]:
    """Row and column at which the part of a picture begins whose original has the most detail."""
    image = pair.lr if pair.hr is None else pair.hr
    scale = pair.size[0] / image.shape[-2]
    side, best, place = max(round(CROP / scale), 2), -1.0, (0, 0)
    for top in range(0, max(image.shape[-2] - side, 0) + 1, side // 2):
        for left in range(0, max(image.shape[-1] - side, 0) + 1, side // 2):
            energy = high_frequency_energy(image[..., top : top + side, left : left + side]).item()
            if energy > best:
                best, place = energy, (round(top * scale), round(left * scale))
    return place


def cut(picture: Tensor, place: tuple[int, int]) -> Tensor:
    """The part (1, 3, h, w) of a picture, at most ``CROP`` pixels a side."""
    top, left = place
    return picture[..., top : top + CROP, left : left + CROP]


def _short(value: float | str) -> Value:
    """Six digits, which is more than any of the figures is good for."""
    return value if isinstance(value, str) else float(f"{value:.6g}")
