"""Which of ComfyUI's model files are FlowMapSR checkpoints."""

from functools import lru_cache
from pathlib import Path

import folder_paths

from ...flowmapsr_core.files.safetensors_file import is_checkpoint_file
from ...flowmapsr_core.files.sources import SHIPPED

FOLDERS = ("flowmapsr", "diffusion_models")  # the first of two files of the same name counts

folder_paths.add_model_folder_path(FOLDERS[0], str(Path(folder_paths.models_dir) / FOLDERS[0]))


def model_names() -> list[str]:
    """The models that are shipped, then the checkpoints in ``models/flowmapsr`` and ``models/diffusion_models``."""
    found = [
        name
        for folder in FOLDERS
        for name in folder_paths.get_filename_list(folder)
        if is_checkpoint(folder_paths.get_full_path(folder, name))
    ]
    return [*SHIPPED, *dict.fromkeys(found)]


def model_path(name: str) -> str:
    """Where a model of :func:`model_names` is; ``FileNotFoundError`` by ComfyUI if it is nowhere."""
    if name in SHIPPED:
        return name
    paths = (folder_paths.get_full_path(folder, name) for folder in FOLDERS)
    return next(filter(is_checkpoint, paths), None) or folder_paths.get_full_path_or_raise(FOLDERS[0], name)


def fingerprint(name: str) -> str:
    """What changes when the file of a model is written anew, as a trainer does."""
    path = model_path(name)
    if path in SHIPPED:
        return path
    found = Path(path).stat()
    return f"{path} {found.st_mtime_ns} {found.st_size}"


def is_checkpoint(path: str | None) -> bool:
    """Whether a file says in its metadata that it is one."""
    if path is None or not path.endswith(".safetensors"):
        return False
    return _says_so(path, Path(path).stat().st_mtime_ns)


@lru_cache(maxsize=4096)
def _says_so(path: str, _changed: int) -> bool:
    return is_checkpoint_file(Path(path))
