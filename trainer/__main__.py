"""``python -m flowmapsr.trainer RECIPE.toml [--set key=value] [--dry-run]``."""

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path

from ..flowmapsr_core.errors import UserError
from ..flowmapsr_core.upscaling.memory import is_out_of_memory
from .recipe.read import read_recipe
from .recipe.recipe import Recipe
from .run.stopping import Stopped


def main(arguments: list[str] | None = None) -> int:
    """Train by the command line; returns the exit status: 0, 2 with a one-line error, or that of a signal."""
    parser = argparse.ArgumentParser(
        prog="python -m flowmapsr.trainer",
        description="Train a flow map on a folder of photographs. Running the same command again resumes. "
        "For several GPUs or hosts: accelerate launch -m flowmapsr.trainer RECIPE.toml",
    )
    parser.add_argument("recipe", type=Path, metavar="RECIPE.toml", help="what to train; see trainer/recipes")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a value, e.g. data.photos=~/photos"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the resolved recipe and what it takes, and stop")
    options = parser.parse_args(arguments)
    try:
        recipe = read_recipe(options.recipe, options.set)
        if options.dry_run:
            print(summary(recipe))
            return 0
        from .run.loop import train

        print(train(recipe))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"error: training needs {error.name}; pip install 'flowmapsr[train]'", file=sys.stderr)
        return 2
    except ImportError as error:  # a package is there and is too old, or a library of its own is broken
        reason, *_ = str(error).splitlines() or [repr(error)]
        print(f"error: training cannot begin ({reason}); reinstall what this names", file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason, *_ = str(error).splitlines() or ["host memory"]
        print(
            f"error: training ran out of memory ({reason}); raise optimizer.accumulate or set "
            f"optimizer.checkpoint_activations=true and run the same command again, or begin anew with a smaller batch "
            f"or side in data.budgets",
            file=sys.stderr,
        )
        return 2
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return stopped.status
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


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
