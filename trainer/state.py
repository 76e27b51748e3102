"""The state that a run resumes from, and its log. Never half-written."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError

from ..flowmapsr_core.errors import UserError

LOG = "log.jsonl"


def load_state(accelerator: Accelerator, folder: Path, index: int) -> int:
    """Load the last state if it is of stage ``index``; returns the steps of the stage that it has behind it."""
    state = folder / "state"
    if not state.is_dir():
        state = folder / "state.old"  # stopped between the two renames of save_state()
    if not state.is_dir():
        return 0
    place = json.loads((state / "place.json").read_text())
    if place["stage"] != index:
        return 0
    accelerator.load_state(str(state))
    return place["step"]


def save_state(accelerator: Accelerator, folder: Path, index: int, step: int) -> None:
    """Write the state beside the last one, then put it in its place.

    Raises :class:`UserError` if it cannot be written; the last one stays.
    """
    fresh, state, old = folder / "state.partial", folder / "state", folder / "state.old"
    with written(folder):
        if accelerator.is_main_process:
            shutil.rmtree(fresh, ignore_errors=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(fresh))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            (fresh / "place.json").write_text(json.dumps({"stage": index, "step": step}))
            if state.is_dir():
                shutil.rmtree(old, ignore_errors=True)
                os.replace(state, old)
            os.replace(fresh, state)
            shutil.rmtree(old, ignore_errors=True)
    accelerator.wait_for_everyone()


@contextmanager
def written(folder: Path) -> Iterator[None]:
    """Errors of writing, a full disk above all, in the user's words."""
    try:
        yield
    # torch and safetensors have errors of their own for a disk that is full
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(
            f"could not write to {folder} ({error}); make room there and run the same command again: it goes on "
            f"from the last good checkpoint"
        ) from error


def append_log(folder: Path, line: dict[str, Any]) -> str:
    """Append a line to the run's log; returns it."""
    text = json.dumps(line)
    with written(folder), (folder / LOG).open("a", encoding="utf-8") as file:
        file.write(text + "\n")
    return text


def trim_log(folder: Path, step: int) -> None:
    """Take out what was logged after ``step`` by a run that was killed, or was cut off while it wrote."""
    path = folder / LOG
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
    if kept != lines:
        partial = path.with_suffix(".partial")
        partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        os.replace(partial, path)
