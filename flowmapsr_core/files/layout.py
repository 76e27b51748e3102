"""How diffusers lays a model out in a folder, and numbers its layers."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import UserError

WEIGHTS = "diffusion_pytorch_model"


def weight_files(folder: Path, suffix: str = ".safetensors") -> list[Path]:
    """Files of weights with a suffix, all variants; the one in full precision, of the shortest name, comes first."""
    return sorted(folder.glob(f"{WEIGHTS}*{suffix}"), key=lambda path: len(path.name))


def read_settings(path: Path) -> dict[str, Any]:
    """What a JSON file says; :class:`UserError` if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; give a folder in diffusers' layout") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); download or copy it again") from error


def count(names: Iterable[str], pattern: str) -> int:
    """How many numbers from 0 on the group of a pattern takes in names."""
    return 1 + max((int(match[1]) for name in names if (match := re.match(pattern, name))), default=-1)
