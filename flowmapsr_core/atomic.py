"""Files that are written whole or not at all, whatever happens meanwhile, a power cut included."""

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from .errors import UserError

PARTIAL = ".partial"
ABANDONED = 3600.0  # seconds after which a half-written file is no process's any more
# What Windows says of a file that another program has open, or mapped into its memory as ComfyUI has a model.
OPEN_ELSEWHERE = (5, 32, 1224)  # ERROR_ACCESS_DENIED, ERROR_SHARING_VIOLATION, ERROR_USER_MAPPED_FILE


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` whose file takes its place when the block ends well, and is removed when not.

    No two processes get the same name, also on hosts that share the folder. The folder is made if there is none.

    Raises :class:`UserError` if another program has ``path`` open and the system does not let it go, else the
    ``OSError`` of what fails.
    """
    own = f"{os.getpid()}-{secrets.token_hex(4)}"
    partial = path.with_name(f".{path.name[:40]}.{own}{PARTIAL}")  # shortened, as a name has 255 bytes at most
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        with partial.open("r+b") as file:  # Windows flushes only what may be written
            os.fsync(file.fileno())
        try:
            os.replace(partial, path)
        except OSError as error:
            if getattr(error, "winerror", None) not in OPEN_ELSEWHERE:
                raise
            raise UserError(
                f"{path} is open in another program, such as ComfyUI; close it there, or choose another name"
            ) from error
        _sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8; errors as from :func:`replacing`."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def remove_partials(folder: Path, older_than: float = 0) -> None:
    """Remove what killed processes have left of files in ``folder``: all that nobody wrote to for so many seconds."""
    for partial in folder.glob(f".*.[0-9]*{PARTIAL}"):
        with contextlib.suppress(OSError):
            if time.time() - partial.stat().st_mtime >= older_than:
                partial.unlink()


def _sync_folder(folder: Path) -> None:
    """Have the new name outlast a power cut. Windows sees to that itself, and some network drives cannot."""
    if os.name == "posix":
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
