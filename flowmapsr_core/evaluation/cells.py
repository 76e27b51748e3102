"""Results that outlast a run: a small file for every picture, written whole or not at all."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ..atomic import ABANDONED, remove_partials, write_text
from ..images.picture_files import Picture, write_picture
from .cases import Case

Value = float | str  # a figure, or why there is none
Settings = dict[str, Any]  # of a method, as JSON data


@dataclass
class Cells:
    """A folder with a cell for each case and settings: ``*.json``, and pictures beside it where they are kept.

    A cell says which files and weights it was made of. One that was made of others is not taken. What a method is
    called does not matter, nor what it is compared with.

    Attributes:
        folder: where they lie.
        outdated: cells that were there, but made of something else.
    """

    folder: Path
    outdated: set[Path] = field(default_factory=set)

    def __post_init__(self) -> None:
        remove_partials(self.folder, ABANDONED)

    def read(self, case: Case, method: Settings, made: dict[str, Any]) -> dict[str, Value]:
        """The figures of a cell by metric; none if there is no cell, or one that was not made of ``made``."""
        path = self._path(case, method, ".json")
        try:
            cell = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (ValueError, OSError):
            cell = {}
        if isinstance(cell, dict) and cell.get("made") == _content(case, method, made):
            return {name: _number(value) for name, value in cell["values"].items()}
        self.outdated.add(path)
        return {}

    def write(
        self, case: Case, method: Settings, made: dict[str, Any], values: dict[str, Value],
        part: Tensor | None = None, whole: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Keep figures, and a part (1, 3, h, w) of the picture in [0, 1] or the whole of it where they are given."""
        for path, picture in ((self.part(case, method), part), (self.whole(case, method), whole)):
            if picture is None:
                path.unlink(missing_ok=True)  # it may be of an earlier picture
            else:
                write_picture(Picture(picture), path)
        cell = {"made": _content(case, method, made), "values": values}
        write_text(self._path(case, method, ".json"), to_json(cell))

    def part(self, case: Case, method: Settings) -> Path:
        """The file of a part of the picture."""
        return self._path(case, method, ".png")

    def whole(self, case: Case, method: Settings) -> Path:
        """The file of the whole picture."""
        return self._path(case, method, "-whole.png")

    def _path(self, case: Case, method: Settings, suffix: str) -> Path:
        name = json.dumps([case.name, _acting(method)], sort_keys=True)
        return self.folder / (hashlib.sha256(name.encode()).hexdigest()[:24] + suffix)


def to_json(data: Any) -> str:
    """JSON in one way only; infinite figures are the words that Python has for them."""
    return json.dumps(_finite(data), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def _acting(method: Settings) -> Settings:
    """Settings that a picture depends on."""
    return {key: value for key, value in method.items() if key != "dials"}


def _content(case: Case, method: Settings, made: dict[str, Any]) -> Any:
    """As it is when it has been read back."""
    return json.loads(json.dumps({"case": case.source, "settings": _acting(method), **made}))


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return str(data) if isinstance(data, float) and data - data != 0 else data


def _number(value: Value) -> Value:
    return float(value) if value in ("inf", "-inf", "nan") else value
