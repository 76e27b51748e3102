"""``python -m flowmapsr.trainer RECIPE.toml [--set key=value] [--dry-run]``."""

import dataclasses
import json
import os
import sys

from .recipe.read import read_recipe
from .recipe.recipe import Recipe
from .run.command import recipe_parser, run_command


def main(arguments: list[str] | None = None) -> int:
    """Train by the command line; returns the exit status: 0, 2 with a one-line error, or that of a signal."""
    parser = recipe_parser(
        "flowmapsr.trainer",
        "Train a flow map on a folder of photographs. Running the same command again resumes. "
        "For several GPUs or hosts: accelerate launch -m flowmapsr.trainer RECIPE.toml",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the resolved recipe and what it takes, and stop")
    options = parser.parse_args(arguments)

    def work() -> object:
        recipe = read_recipe(options.recipe, options.set)
        if options.dry_run:
            return summary(recipe)
        from .run.loop import train

        return train(recipe)

    return run_command(
        work,
        "raise optimizer.accumulate or set optimizer.checkpoint_activations=true and run the same command again, or "
        "begin anew with a smaller batch or side in data.budgets",
    )


def summary(recipe: Recipe) -> str:
    """The recipe with every default filled in, the number of weights and an estimate of the memory."""
    from .run.estimate import estimate_bytes
    from .run.start import shapes_of_model

    model = shapes_of_model(recipe)
    weights = sum(parameter.numel() for parameter in model.flow.parameters() if parameter.requires_grad)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    fixed, activations = estimate_bytes(model, recipe, processes)
    resolved = {**dataclasses.asdict(recipe), "model": model.config()}
    return (
        f"{json.dumps(resolved, indent=2)}\n"
        f"{weights:,} weights, {recipe.steps:,} steps, {processes} process{'es' * (processes > 1)}\n"
        f"about {_gib(fixed)} for weights, gradients and optimiser and {_gib(activations)} for activations, a process"
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


if __name__ == "__main__":
    sys.exit(main())
