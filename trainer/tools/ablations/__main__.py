"""Ablations at small scale: ``python -m flowmapsr.trainer.tools.ablations --help`` says what it takes.

Every variant trains for the same number of steps and is then measured at x4 on held-out photographs degraded by the
``flowmapsr`` preset. A cell is the mean over the seeds; below a table stands how far apart two seeds are. Tables and a
picture of each go to the output folder. The command again goes on where it stopped.
"""

import argparse
import sys
from pathlib import Path
from statistics import mean

from ....flowmapsr_core.atomic import write_text
from ....flowmapsr_core.errors import check
from ...run.command import run_command
from ...run.validation import save_png
from ...run.watch import Exploded
from .bench import Bench, Figures
from .variants import TABLES, Table


def render(bench: Bench, table: Table) -> str:
    """A table in Markdown; trains what is not trained yet."""
    names = [table.title, *(column.name for column in table.columns)]
    lines, apart = [_row(names), _row(["---"] * len(names))], []
    lines.append(_row(["bicubic", *[str(bench.bicubic._replace(gain=0.0))] * len(table.columns)]))
    for variant in table.variants:
        try:
            cells = [[bench.measure(variant, column, seed) for seed in bench.seeds] for column in table.columns]
        except Exploded as error:
            lines.append(_row([variant.name, str(error).partition(";")[0], *[""] * (len(names) - 2)]))
            continue
        lines.append(_row([variant.name, *(str(average(cell)) for cell in cells)]))
        apart += [spread(cell) for cell in cells]
    if len(bench.seeds) > 1 and apart:
        lines += ["", f"Two seeds are {average(apart)} apart, on average over the cells."]
    return "\n".join(lines) + "\n"


def average(cell: list[Figures]) -> Figures:
    """The mean of figures."""
    return Figures(*(mean(values) for values in zip(*cell, strict=True)))


def spread(cell: list[Figures]) -> Figures:
    """How far the figures of several seeds are apart."""
    return Figures(*(max(values) - min(values) for values in zip(*cell, strict=True)))


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m flowmapsr.trainer.tools.ablations", description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="folder of training photographs")
    parser.add_argument("--validation", type=Path, required=True, help="folder of held-out photographs")
    parser.add_argument("--output", type=Path, required=True, help="folder for the runs, the tables and the pictures")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES), metavar="NAME",
                        help=f"of {', '.join(TABLES)} (all)")  # fmt: skip
    parser.add_argument("--steps", type=int, default=500, help="of every variant (%(default)s)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="a run of each for every variant (0)")
    parser.add_argument("--upscaler", type=Path, help="Compact or ESRGAN upscaler, for the tables losses and parts")
    options = parser.parse_args()
    return run_command(lambda: ablate(options), "close other programs")


def ablate(options: argparse.Namespace) -> Path:
    """Make the tables and the pictures that are asked for; returns the folder that they are in."""
    wanting = [name for name in options.tables if options.upscaler is None and TABLES[name].wants_upscaler]
    check(not wanting, f"--tables {' '.join(wanting)}: these need an upscaler; give its file with --upscaler")
    bench = Bench(options.photos, options.validation, options.output, options.steps, options.seeds, options.upscaler)
    for name in options.tables:
        text = render(bench, TABLES[name])
        write_text(options.output / f"{name}.md", text)
        save_png(bench.picture(TABLES[name]), options.output / f"{name}.png")
        print(text)
    return options.output


if __name__ == "__main__":
    sys.exit(main())
