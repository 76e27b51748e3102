"""The paper's ablations at small scale: ``python -m flowmapsr.trainer.tools.ablations --help`` says what it takes.

Every variant trains for the same number of steps from the same flow-matching model and is then measured at x4 on
held-out photographs degraded by the ``flowmapsr`` preset: PSNR gain over bicubic in dB, and in parentheses the
high-frequency energy relative to the HR image's. The tables and a picture go to the output folder. The command again
goes on where it stopped.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...flowmapsr_core import UserError, load_model, merge_lora, upscale
from ...flowmapsr_core.atomic import write_text
from ...flowmapsr_core.images.degradation import degrade, preset
from ...flowmapsr_core.images.picture_files import read_picture
from ...flowmapsr_core.images.resize import resize
from ...flowmapsr_core.model import Model
from ..recipe.read import read_recipe
from ..run.loop import train
from ..run.validation import CROP, load_crops, make_grid, save_png, score
from ..run.watch import Exploded

RECIPE = Path(__file__).parents[1] / "recipes" / "ablation.toml"
FACTOR = 4
PART = 128  # side of a part of the picture
LARGEST_GUIDANCE = (2.0, 2.5, 3.0, 3.5, 4.0)
RATE = "optimizer.lr=3e-4"  # the base's, 8e-4, is more than ESD and LSD bear
LORA_SCALES = (0.0, 1.0, 1.5, 2.0, 3.0)


@dataclass(frozen=True)
class Variant:
    """``stage`` is trained from the result of run ``start``, with changes to the recipe."""

    name: str
    start: str
    stage: str
    changes: tuple[str, ...] = ()
    objective: str = "shortcut"


OBJECTIVES = (
    Variant("FM", "base", "flow-matching"),
    Variant("SSD", "base", "self-distillation"),
    Variant("LSD", "base", "self-distillation", objective="lagrangian"),
    Variant("LSD, biased", "base", "self-distillation", objective="lagrangian-biased"),
    Variant("ESD", "base", "self-distillation", objective="eulerian"),
    Variant("ESD, lr 1e-4", "base", "self-distillation", ("optimizer.lr=1e-4",), "eulerian"),
)
GUIDED = tuple(
    Variant(f"random w up to {w:g}", "SSD", "guided", (f"guidance.scale=[1, {w:g}]",)) for w in LARGEST_GUIDANCE
)
SHOWN = (*OBJECTIVES, GUIDED[0], GUIDED[3])
FIXED = Variant("fixed w = 3.5", "SSD", "guided", ("guidance.mode=fixed",))
SEEN = Variant("random w, an input", "SSD", "guided", ("guidance.mode=input",))
ADVERSARIAL = Variant("adversarial", "random w up to 3.5", "adversarial", ("adversarial.lr=3e-5",))


class Bench:
    """Trains variants, measures them, and gathers the tables."""

    def __init__(self, photos: Path, validation: Path, output: Path, steps: int) -> None:
        self.photos, self.output, self.steps = photos, output, steps
        self.hr = load_crops(validation)
        self.lr = degrade(self.hr, FACTOR, preset("flowmapsr"), torch.Generator().manual_seed(0))
        self.bicubic, _ = score(resize(self.lr, (CROP, CROP)).clamp(0, 1), self.hr)
        self.lines: list[str] = []

    def base(self) -> None:
        """The flow-matching model that all start from."""
        self._train("base", [])

    def result(self, variant: Variant) -> Path:
        """Checkpoint or LoRA of a variant, trained if need be."""
        stage = f'stages=[{{kind="{variant.stage}",steps={self.steps},objective="{variant.objective}"}}]'
        start = f"start_from={self.output / variant.start / 'model.safetensors'}"
        return self._train(variant.name, [stage, start, RATE, *variant.changes])

    def _train(self, name: str, changes: list[str]) -> Path:
        print(f"\n{name}", file=sys.stderr)
        places = [f"data.photos={self.photos}", f"output.folder={self.output / name}"]
        return train(read_recipe(RECIPE, [*places, *changes]))

    def row(self, *cells: str) -> None:
        """Add a row to the tables."""
        self.lines.append(f"| {' | '.join(cells)} |")

    def header(self, *cells: str) -> None:
        """Begin a table."""
        self.lines.append("")
        self.row(*cells)
        self.row(*["---"] * len(cells))

    def measure(self, model: Model, **settings) -> str:
        """A table cell."""
        psnr, ratio = score(upscale(model, self.lr, FACTOR, color="none", tile=0, **settings), self.hr)
        return f"{psnr - self.bicubic:+.2f} ({ratio:.3f})"


def by_steps(bench: Bench, title: str, variants: tuple[Variant, ...]) -> None:
    """A table of variants by number of steps, and of their posterior mean."""
    bench.header(title, "posterior mean", "1 step", "2 steps", "4 steps")
    for variant in variants:
        try:
            model = load_model(bench.result(variant))
        except Exploded as error:
            bench.row(variant.name, str(error).partition(";")[0])
            continue
        cells = [bench.measure(model, steps=steps, guidance=1.0) for steps in (1, 2, 4)]
        bench.row(variant.name, bench.measure(model, look="faithful"), *cells)


def by_guidance(bench: Bench) -> None:
    """The variant that is told w, by what it is told."""
    bench.header("w at inference, 2 steps", "1", "2", "3.5")
    model = load_model(bench.result(SEEN))
    bench.row(SEEN.name, *(bench.measure(model, steps=2, guidance=w) for w in (1.0, 2.0, 3.5)))


def by_lora_scale(bench: Bench) -> None:
    """The adversarial LoRA by its scale."""
    lora, base = bench.result(ADVERSARIAL), bench.output / ADVERSARIAL.start / "model.safetensors"
    bench.header("LoRA scale", *(f"{scale:g}" for scale in LORA_SCALES))
    cells = []
    for scale in LORA_SCALES:
        model = load_model(base)
        merge_lora(model, lora, scale)
        cells.append(bench.measure(model, steps=2, guidance=1.0))
    bench.row("2 steps", *cells)


def picture(bench: Bench, image: Path, path: Path) -> None:
    """A grid: parts of an image, bicubic and by variant with 2 steps, adversarial last, then HR."""
    hr = parts_of(read_picture(image).color)
    lr = degrade(hr, FACTOR, preset("bicubic"), torch.Generator().manual_seed(1))
    columns = [resize(lr, (PART, PART)).clamp(0, 1)]
    results = [bench.output / variant.name / "model.safetensors" for variant in SHOWN]
    models = [load_model(result) for result in results if result.exists()]  # one that blew up has none
    lora = load_model(bench.output / ADVERSARIAL.start / "model.safetensors")
    merge_lora(lora, bench.result(ADVERSARIAL), 1.5)
    columns += [upscale(model, lr, FACTOR, 2, 1.0, color="none", tile=0) for model in (*models, lora)]
    save_png(make_grid([*columns, hr]), path)


def parts_of(image: Tensor, side: int = PART) -> Tensor:
    """Non-overlapping squares (N, 3, side, side) of an image (1, 3, H, W), a few of them."""
    squares = image.unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, side, side)
    return squares[:: max(1, len(squares) // 3)][:3].contiguous()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m flowmapsr.trainer.tools.ablations", description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="folder of training photographs")
    parser.add_argument("--validation", type=Path, required=True, help="folder of held-out photographs")
    parser.add_argument("--output", type=Path, required=True, help="folder for the runs and the picture")
    parser.add_argument("--image", type=Path, required=True, help="image to show in the picture")
    parser.add_argument("--steps", type=int, default=250, help="of every variant (%(default)s)")
    options = parser.parse_args()
    try:
        bench = Bench(options.photos, options.validation, options.output, options.steps)
        bench.base()
        by_steps(bench, "objective", OBJECTIVES)
        by_steps(bench, "guidance", (*GUIDED, FIXED))
        by_guidance(bench)
        by_lora_scale(bench)
        picture(bench, options.image, options.output / "ablations.png")
        write_text(options.output / "ablations.md", "\n".join(bench.lines) + "\n")
        print("\n".join(bench.lines))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
