"""``python -m flowmapsr.trainer RECIPE.toml [--set key=value] [--dry-run]``."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from ..flowmapsr_core.errors import UserError
from .recipe import Recipe, read_recipe


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m flowmapsr.trainer",
        description="Train a flow map on a folder of photographs. Running the same command again resumes.",
    )
    parser.add_argument("recipe", type=Path, metavar="RECIPE.toml", help="what to train; see trainer/recipes")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a value, e.g. data.photos=~/photos"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the resolved recipe and stop")
    arguments = parser.parse_args()
    try:
        recipe = read_recipe(arguments.recipe, arguments.set)
        if arguments.dry_run:
            print(summary(recipe))
            return 0
        from .loop import train

        print(train(recipe))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def summary(recipe: Recipe) -> str:
    """The recipe with every default filled in, and the number of weights."""
    from .loop import build_model

    model = build_model(recipe)
    weights = sum(parameter.numel() for parameter in model.parameters())
    resolved = {**dataclasses.asdict(recipe), "model": model.config()}
    return json.dumps(resolved, indent=2) + f"\n{weights:,} weights, {recipe.steps:,} steps"


if __name__ == "__main__":
    sys.exit(main())
