"""A contact sheet: the same part of an image as LR has it, as every method makes it, and as it should be."""

import textwrap
from collections.abc import Iterable, Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..images.eight_bit import to_pillow
from ..images.picture_files import read_picture
from ..images.resize import resize
from .cases import Case
from .cells import Cells, Settings
from .report import Report
from .run import CROP, busiest, cut

ROWS = 3  # images of each preset and factor
GAP = 4  # pixels
LINE = 14  # height of a line of text, in pixels
LETTERS = CROP // 7  # that fit into a line
LINES = 3


def shown_cases(cases: Sequence[Case]) -> list[Case]:
    """The first images of each preset and factor."""
    counts: dict[tuple[str, float], int] = {}
    shown = []
    for case in cases:
        group = (case.preset, case.factor)
        counts[group] = counts.get(group, 0) + 1
        if counts[group] <= ROWS:
            shown.append(case)
    return shown


def contact_sheet(report: Report, cells: Cells, shown: Sequence[Case]) -> Image.Image:
    """A row for each of the cases whose parts were kept: LR, in its own pixels, the methods, and HR where it is known.

    Raises :class:`UserError` if an image cannot be read any more.
    """
    rows = [case for case in shown if case in report.cases]
    has_hr = any(case.hr for case in rows)
    titles = ["LR", *report.methods, *(["HR"] if has_hr else [])]
    height, width = LINES * LINE + GAP + len(rows) * (LINE + CROP + GAP), len(titles) * (CROP + GAP)
    sheet = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for column, title in enumerate(titles):
        for line, text in enumerate(textwrap.wrap(title, LETTERS)[:LINES]):
            draw.text((column * (CROP + GAP) + 2, line * LINE), text, "black", font)
    for row, case in enumerate(rows):
        top = LINES * LINE + GAP + row * (LINE + CROP + GAP)
        draw.text((2, top), f"{case.image}, {case.preset}, x{case.factor:g}", "black", font)
        for column, part in enumerate(_parts(case, report.results.methods.values(), cells)):
            sheet.paste(to_pillow(part[0]), (column * (CROP + GAP), top + LINE))
    return sheet


def _parts(case: Case, methods: Iterable[Settings], cells: Cells) -> list[Tensor]:
    pair = case.load()
    place = busiest(pair)
    kept = (read_picture(cells.part(case, method)).color for method in methods)
    parts = [cut(resize(pair.lr, pair.size, "nearest"), place), *kept]
    return parts if pair.hr is None else [*parts, cut(pair.hr, place)]
