"""ComfyUI and the nodes in the tests' own process, on the CPU; what a server would only give out as 8-bit pictures."""

import importlib
import sys

from comfyui_server import COMFYUI


def import_nodes(base):
    """The pack's ``nodes``, with ``base`` for ComfyUI's folder of models."""
    sys.path.insert(0, COMFYUI)
    args = importlib.import_module("comfy.cli_args").args
    args.cpu, args.base_directory = True, str(base)
    return importlib.import_module("flowmapsr.nodes")
