"""ComfyUI and the nodes in the tests' own process, on the CPU; what a server would only give out as 8-bit pictures."""

import importlib
import sys
from pathlib import Path

from comfyui_server import COMFYUI


def import_nodes(base):
    """The pack's ``nodes``, with ``base`` for ComfyUI's folder of models, also where another one was before."""
    sys.path.insert(0, COMFYUI)
    args = importlib.import_module("comfy.cli_args").args
    args.cpu, args.base_directory = True, str(base)
    nodes, folders = (importlib.import_module(name) for name in ("flowmapsr.nodes", "folder_paths"))
    before, folders.models_dir = folders.models_dir, str(Path(base) / "models")
    for paths, _ in folders.folder_names_and_paths.values():
        paths[:] = [path.replace(before, folders.models_dir) for path in paths]
    return nodes
