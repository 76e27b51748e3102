"""Where the time of a training step goes on this machine, so that a slow part is seen.

``python benchmarks/training.py RECIPE.toml [--set key=value] [--steps N]`` runs the recipe's last stage for N steps and
prints the share of each part: waiting for data, degradation, encoding, targets (the teacher's evaluations), and the
rest, which is the network's own pass, its gradient and the optimiser.
"""

import argparse
import dataclasses
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from flowmapsr.trainer.data.crops import training_photos
from flowmapsr.trainer.recipe.read import read_recipe
from flowmapsr.trainer.run import batch, learner
from flowmapsr.trainer.run.loop import StageRun

WARM_UP = 5  # steps that are not counted

seconds: dict[str, float] = defaultdict(float)


@contextmanager
def clock(part: str) -> Iterator[None]:
    """Add the time of a block, the device's work included, to a part."""
    synchronize()
    begin = time.perf_counter()
    yield
    synchronize()
    seconds[part] += time.perf_counter() - begin


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(part: str, function):
    """The function, its time added to a part."""

    def call(*arguments, **options):
        with clock(part):
            return function(*arguments, **options)

    return call


class TimedCodec:
    """A codec whose encoding is timed."""

    def __init__(self, codec) -> None:
        self.encode = timed("encoding", codec.encode)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--steps", type=int, default=50)
    options = parser.parse_args()
    recipe = read_recipe(options.recipe, [*options.set, "output.tracker=none"])
    stage = dataclasses.replace(recipe.stages[-1], steps=WARM_UP + options.steps)
    with tempfile.TemporaryDirectory() as folder:
        output = dataclasses.replace(recipe.output, folder=folder)
        run = StageRun(
            dataclasses.replace(recipe, stages=(stage,), output=output), 0, partial(training_photos, recipe.data)
        )
        run.model.codec = TimedCodec(run.model.codec)  # pyright: ignore[reportAttributeAccessIssue]
        batch.make_pairs = timed("degradation", batch.make_pairs)
        learner.make_target = timed("targets", learner.make_target)
        crops = iter(run.loader())
        waiting = iter(lambda: timed("data", next)(crops), None)
        for _ in range(WARM_UP):
            run.train_step(waiting)
        seconds.clear()
        with clock("all"):
            for _ in range(options.steps):
                run.train_step(waiting)
    total = seconds.pop("all")
    seconds["network, gradient, optimiser"] = total - sum(seconds.values())
    budget = recipe.data.budgets[0]
    print(f"{run.accelerator.device}, {budget.batch} crops of {budget.side} px, {recipe.data.workers} workers")
    print(f"{options.steps / total:.2f} steps/s, {options.steps * budget.batch / total:.1f} crops/s\n")
    print("| part | ms a step | share |\n|---|---|---|")
    for part, spent in seconds.items():
        print(f"| {part} | {spent / options.steps * 1000:.1f} | {spent / total:.1%} |")


if __name__ == "__main__":
    main()
