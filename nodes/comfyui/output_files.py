"""Where pictures go in ComfyUI's output folder."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import folder_paths

from ...flowmapsr_core import UserError

DATE = re.compile(r"%date:([^%]+)%")
PARTS = {"yyyy": "%Y", "yy": "%y", "MM": "%m", "dd": "%d", "hh": "%H", "mm": "%M", "ss": "%S"}  # as ComfyUI's page


def output_files(prefix: str, name: str, size: tuple[int, int], suffix: str) -> Iterator[tuple[Path, str]]:
    """Files that are not there yet, and their folders' names for the page.

    Args:
        prefix: of their names, as in core's *Save Image*; ``%name%`` in it stands for ``name``.
        name: of the photograph's file, without its ending.
        size: height and width of the pictures, for ``%height%`` and ``%width%``.
        suffix: ending of the files.

    Raises:
        UserError: they would lie outside the output folder, or their folder cannot be made.
    """
    root = Path(folder_paths.get_output_directory()).resolve()
    dated = DATE.sub(lambda found: _date(found[1]), prefix).replace("%name%", name)
    if not (root / dated).resolve().is_relative_to(root) or not Path(dated).name.strip(". "):
        raise UserError(
            f"filename_prefix {prefix} is not the name of a file in ComfyUI's output folder; choose another"
        )
    try:
        folder, stem, counter, subfolder, _ = folder_paths.get_save_image_path(dated, str(root), size[1], size[0])
    except OSError as error:
        raise UserError(
            f"the folder of {prefix} cannot be made in ComfyUI's output folder: {error.strerror or error}; "
            f"choose another filename_prefix"
        ) from error
    number = 0
    while True:
        file = Path(folder, f"{stem.replace('%batch_num%', str(number))}_{counter:05}_{suffix}")
        if not file.exists():
            yield file, subfolder
            number += 1
        counter += 1


def _date(pattern: str) -> str:
    now = time.localtime()
    return re.sub("|".join(PARTS), lambda found: time.strftime(PARTS[found[0]], now), pattern)
