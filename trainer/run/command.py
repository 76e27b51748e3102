"""What the trainer's commands have in common: a recipe on the command line, and errors in one line."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from ...flowmapsr_core.errors import UserError
from ...flowmapsr_core.upscaling.memory import is_out_of_memory
from .stopping import Stopped


def recipe_parser(module: str, description: str) -> argparse.ArgumentParser:
    """A parser of ``RECIPE.toml [--set KEY=VALUE]...``, for ``python -m`` and the module."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("recipe", type=Path, metavar="RECIPE.toml", help="what to train; see trainer/recipes")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a value, e.g. data.photos=~/photos"
    )
    return parser


def run_command(work: Callable[[], object], out_of_memory: str) -> int:
    """Do the work and print its result; returns the exit status: 0, 2 with a one-line error, or that of a signal.

    ``out_of_memory`` is what to do where memory ran out.
    """
    try:
        print(work())
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
        print(f"error: training ran out of memory ({reason}); {out_of_memory}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return stopped.status
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0
