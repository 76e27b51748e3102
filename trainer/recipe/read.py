"""Reading recipes: TOML into the dataclasses of :mod:`recipe`, every error with the key's name."""

import dataclasses
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

from ...flowmapsr_core.errors import UserError, check
from .recipe import Recipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]


def read_recipe(path: Path, overrides: list[str]) -> Recipe:
    """Read a recipe; ``overrides`` are ``section.key=value`` with a TOML value (a bare word is a string,
    and so is everything where the recipe wants one).

    Raises :class:`UserError` naming the key that is unknown or out of range.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give the path of a recipe (.toml)") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a TOML file: {error}") from error
    for override in overrides:
        _apply(override, values)
    try:
        return build_recipe(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def build_recipe(values: dict[str, Any]) -> Recipe:
    """A recipe from its sections, with the defaults of what they leave out; :class:`UserError` naming a wrong key."""
    return _build(Recipe, values, "")


def _apply(override: str, values: dict[str, Any]) -> None:
    key, equals, text = override.partition("=")
    check(bool(equals), f"--set {override}: write it as section.key=value")
    *sections, name = key.strip().split(".")
    table = values
    for section in sections:
        table = table.setdefault(section, {})
        check(isinstance(table, dict), f"--set {override}: {section} is not a section")
    value = _toml_value(text.strip())
    table[name] = text.strip() if not isinstance(value, str) and _is_text(*sections, name) else value


def _is_text(*keys: str) -> bool:
    """Whether a key of a recipe holds a string, where TOML would take 2024 and 2024-05-01 for something else."""
    kind: Any = Recipe
    for key in keys:
        kind = get_type_hints(kind).get(key) if dataclasses.is_dataclass(kind) else None
    return kind is str


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _build(kind: Any, values: Any, where: str) -> Any:
    """A configuration dataclass from a TOML table, recursively."""
    check(isinstance(values, dict), f"{where.rstrip('.')} must be a section")
    hints = get_type_hints(kind)
    arguments = {}
    for key, value in values.items():
        check(key in hints, f"unknown key {where}{key}; {where.rstrip('.') or 'a recipe'} has {', '.join(hints)}")
        arguments[key] = _convert(value, hints[key], f"{where}{key}")
    missing = [
        f.name for f in dataclasses.fields(kind) if f.name not in arguments
        and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]  # fmt: skip
    check(not missing, f"{where}{missing[0] if missing else ''} is missing")
    try:
        return kind(**arguments)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{where}{error}") from error


def _convert(value: Any, hint: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, f"{name}.")
    kind, arguments = getattr(hint, "__origin__", hint), get_args(hint)
    if kind is tuple and dataclasses.is_dataclass(arguments[0]):
        check(isinstance(value, list), f"{name} must be written as [[{name}]]")
        return tuple(_build(arguments[0], item, f"{name}.") for item in value)
    if kind is tuple and arguments == (int, ...):
        check(isinstance(value, list), f"{name} must be a list of whole numbers")
        return tuple(_convert(item, int, name) for item in value)
    if kind is tuple:
        right = isinstance(value, list) and len(value) == 2 and all(_is_number(number) for number in value)
        check(right, f"{name} must be two numbers, [low, high]")
        return float(value[0]), float(value[1])
    if hint == dict[str, float]:
        right = isinstance(value, dict) and all(_is_number(number) for number in value.values())
        check(right, f"{name} must be a section of numbers")
        return {key: float(number) for key, number in value.items()}
    if kind is float and _is_number(value):
        return float(value)
    right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    check(right, f"{name} must be {KINDS[kind]}")
    return value


KINDS = {int: "a whole number", float: "a number", str: "a string", dict: "a section", bool: "true or false"}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
