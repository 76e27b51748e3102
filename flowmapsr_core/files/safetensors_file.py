"""What a safetensors file holds, before any of it is read, and whether it is what was expected."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..errors import UserError

Shapes = dict[str, list[int]]
JSON = b"{"  # how the header of a safetensors file starts; the 8 bytes before it, its length, may be any
FORMAT = "flowmapsr"  # what the metadata of a checkpoint call it


def is_checkpoint(metadata: Mapping[str, str]) -> bool:
    """Whether these are the metadata of a FlowMapSR checkpoint."""
    return metadata.get("format") == FORMAT


def is_checkpoint_file(path: Path) -> bool:
    """Whether a file says that it is a FlowMapSR checkpoint; what cannot be read says nothing."""
    try:
        with safe_open(path, framework="np") as file:
            return is_checkpoint(file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def is_pickled(path: Path) -> bool:
    """Whether there is a file that torch has pickled, by how it starts."""
    start = _start(path) if path.is_file() else b""
    return start[8:] != JSON and start.startswith((b"PK", b"\x80"))


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(9)


def read_metadata(path: Path, wanted: str = "a FlowMapSR checkpoint (.safetensors)") -> tuple[dict[str, str], Shapes]:
    """Metadata and tensor shapes of a safetensors file; :class:`UserError` saying what else it is than ``wanted``."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; give {wanted}")
    if is_pickled(path):
        raise UserError(f"{path} is a pickled PyTorch file, which is never loaded; give the .safetensors version")
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
            return file.metadata() or {}, shapes
    except (SafetensorError, OSError) as error:
        if _start(path)[8:] == JSON:
            raise UserError(f"{path} is truncated or damaged ({error}); download or copy it again") from error
        raise UserError(f"{path} is not a safetensors file; give {wanted}") from error


def misfit(expected: Shapes, found: Shapes) -> str:
    """What is missing, unknown or of another shape, in a few words; empty if nothing is."""
    wrong = [
        *(f"{name} is missing" for name in expected.keys() - found.keys()),
        *(f"{name} is unknown" for name in found.keys() - expected.keys()),
        *(
            f"{name} is {found[name]}, not {expected[name]}"
            for name in expected.keys() & found.keys()
            if found[name] != expected[name]
        ),
    ]
    return shortened(sorted(wrong))


def shortened(items: list[str]) -> str:
    """The first three of a list, and how many more there are."""
    rest = len(items) - 3
    return "; ".join(items[:3]) + (f"; and {rest} more" if rest > 0 else "")
