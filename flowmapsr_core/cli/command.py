"""The ``flowmapsr`` command: upscale, degrade, evaluate, merge, convert, export, inspect, a module each."""

import io
import logging
import sys
from importlib import import_module

from ..errors import UserError
from .parser import make_parser

log = logging.getLogger("flowmapsr")


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Returns the exit status: 0; 2 where something failed, with a line for each failure; 130 if the user stopped it.
    """
    options = make_parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # on Windows, in a pipe, it may know no Greek
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(format="flowmapsr: %(message)s")
    log.setLevel(logging.INFO if getattr(options, "verbose", False) else logging.WARNING)
    try:
        # only now, as most of them import torch, which takes a while
        return import_module(f".{options.command}", __package__).run(options)
    except UserError as error:
        print(f"flowmapsr: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("flowmapsr: stopped", file=sys.stderr)
        return 130
    except (MemoryError, RuntimeError) as error:
        from ..upscaling.memory import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        print("flowmapsr: error: not enough memory for the model; close other programs", file=sys.stderr)
        return 2
