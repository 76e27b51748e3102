"""The state that a run resumes from, and its log. Never half-written; reading it runs no code of the file's."""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

from accelerate import Accelerator
from safetensors import SafetensorError

from ...flowmapsr_core.atomic import remove_partials, write_text
from ...flowmapsr_core.errors import UserError
from ..learning.ema import Ema
from ..recipe.read import build_recipe
from ..recipe.recipe import Recipe

LOG = "log.jsonl"
RECIPE = "recipe.json"  # written once, when a run begins
STATES = ("state", "state.partial", "state.old")  # the last one, one that is being written, one that makes way for it
NUMBERS = "numbers.json"  # of a state, beside what accelerate writes
DAMAGED = (RuntimeError, KeyError, ValueError, OSError, EOFError, SafetensorError, UnpicklingError)  # a state
# in what safetensors and torch say, which have errors of their own for a disk that is full
UNWRITTEN = ("I/O error", "IoError", "PytorchStreamWriter", "inline_container", "iostream error")
# of no consequence for the weights
FREE = (
    "output",
    "data.validation",
    "data.workers",
    "teacher.cache",
    "optimizer.accumulate",
    "optimizer.checkpoint_activations",
)


class Numbers(Protocol):
    """Something whose state is a few numbers, as JSON can hold them."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def claim_folder(recipe: Recipe) -> None:
    """Write the recipe into the run's folder, or see that the run there is of the same one.

    What the recipe there does not say, as keys that came later, has today's default.

    Raises :class:`UserError` if it is another, or is damaged, or the folder cannot be written.
    """
    folder = Path(recipe.output.folder)
    path, values = folder / RECIPE, _flat(recipe)
    with written(folder):
        folder.mkdir(parents=True, exist_ok=True)
        remove_partials(folder)
        if not path.exists():
            write_text(path, json.dumps(values, indent=1))
    try:
        kept = _flat(build_recipe(_nested(json.loads(path.read_text(encoding="utf-8")))))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} cannot be used ({error}); if the recipe is the one that the run was begun with, delete that file "
            f"and run the same command again"
        ) from error
    changed = sorted(key for key in values.keys() | kept.keys() if values.get(key) != kept.get(key))
    if changed:
        key = changed[0]
        raise UserError(
            f"{folder} holds a run of another recipe: {key} is {kept.get(key)!r} there, {values.get(key)!r} now; "
            f"give another output.folder, or delete that one"
        )


def _flat(recipe: Recipe) -> dict[str, Any]:
    """``section.key`` to value as JSON has it, without what is free to change."""

    def flatten(values: dict[str, Any], where: str) -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for key, value in values.items():
            name = where + key
            if name not in FREE:
                flat |= flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
        return flat

    return json.loads(json.dumps(flatten(dataclasses.asdict(recipe), "")))


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    """What :func:`_flat` made, in sections again."""
    values: dict[str, Any] = {}
    for name, value in flat.items():
        *sections, key = name.split(".")
        table = values
        for section in sections:
            table = table.setdefault(section, {})
        table[key] = value
    return values


def load_state(
    accelerator: Accelerator, folder: Path, index: int, numbers: dict[str, Numbers], copies: dict[str, Ema]
) -> int:
    """Load the last state if it is of stage ``index``; returns the steps of the stage that it has behind it.

    What accelerate prepared, ``numbers`` and ``copies`` take their parts. accelerate reads optimisers with torch's
    ``weights_only``, and refuses the pickles of registered objects, for nothing is registered. Shards of FSDP and
    DeepSpeed are another matter: torch and DeepSpeed unpickle these.

    Raises :class:`UserError` if the state is damaged or another version's.
    """
    state, _, old = (folder / name for name in STATES)
    if not state.is_dir():
        state = old  # stopped between the two renames of save_state()
    if not state.is_dir():
        return 0
    try:
        place = json.loads((state / "place.json").read_text())
        if place["stage"] != index:
            return 0
        for name, kept in json.loads((state / NUMBERS).read_text()).items():
            numbers[name].load_state_dict(kept)
        for name, model in copies.items():
            model.load(state / f"{name}.safetensors")
        accelerator.load_state(str(state))
    except DAMAGED as error:
        why, *_ = str(error).splitlines() or [type(error).__name__]
        raise UserError(f"{state} cannot be resumed from ({why}); delete it to begin the stage again") from error
    return place["step"]


def save_state(
    accelerator: Accelerator, folder: Path, index: int, step: int, numbers: dict[str, Numbers], copies: dict[str, Ema]
) -> None:
    """Write the state beside the last one, then put it in its place.

    Raises :class:`UserError` if it cannot be written; the last one stays.
    """
    state, fresh, old = (folder / name for name in STATES)
    with written(folder):
        if accelerator.is_main_process:
            shutil.rmtree(fresh, ignore_errors=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(fresh))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            for name, model in copies.items():
                model.save(fresh / f"{name}.safetensors")
            (fresh / NUMBERS).write_text(json.dumps({name: part.state_dict() for name, part in numbers.items()}))
            (fresh / "place.json").write_text(json.dumps({"stage": index, "step": step}))
            if state.is_dir():
                shutil.rmtree(old, ignore_errors=True)
                os.replace(state, old)
            os.replace(fresh, state)
            shutil.rmtree(old, ignore_errors=True)
    accelerator.wait_for_everyone()


def drop_state(folder: Path) -> None:
    """Take away the state of a run that is done. Raises :class:`UserError` if that is not possible."""
    with written(folder):
        for state in (folder / name for name in STATES):
            if state.is_dir():
                shutil.rmtree(state)


@contextmanager
def written(folder: Path) -> Iterator[None]:
    """Errors of writing, a full disk above all, in the user's words; all others stay what they are."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if not isinstance(error, OSError) and not any(saying in str(error) for saying in UNWRITTEN):
            raise
        raise UserError(
            f"could not write to {folder} ({error}); make room there and run the same command again: it goes on "
            f"from what was written before"
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
        with written(folder):
            write_text(path, "".join(f"{line}\n" for line in kept))
