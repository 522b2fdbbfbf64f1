"""Typed, range-checked settings of a model: one frozen dataclass per model, filled from a RecBole ``Config``.

The YAML file of a model holds the defaults; the dataclass holds types and ranges. A test keeps the two in step.
"""

from __future__ import annotations

import ast
import dataclasses
import math
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

S = TypeVar("S", bound="Settings")

_WORDS = {"true": True, "false": False, "none": None, "null": None}


class SettingsError(ValueError):
    """A setting that cannot be used. The text is one line: key, value, what is allowed."""


class NonFiniteLossError(RuntimeError):
    """A loss that is NaN or infinite. The text is one line: model, loss, epoch, batch."""


def setting(
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    choices: Sequence[str] | None = None,
    key: str | None = None,
    empty: bool = False,
) -> Any:
    """Declares a field's range.

    Args:
        ge, gt, le, lt: bounds of a number, or of every number of a list.
        choices: the allowed strings.
        key: the configuration key, where it is not the field's name (RecBole's ``time-aware``).
        empty: whether a list may be empty.
    """
    rule = {"ge": ge, "gt": gt, "le": le, "lt": lt, "choices": choices, "key": key, "empty": empty}
    return dataclasses.field(metadata=rule)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Base of the settings dataclasses."""

    @classmethod
    def keys(cls) -> list[str]:
        """The configuration keys that the settings are read from."""
        return [field.metadata.get("key") or field.name for field in dataclasses.fields(cls)]

    @classmethod
    def read(cls: type[S], config: Mapping[str, Any]) -> S:
        """Reads and checks the settings.

        Args:
            config: a RecBole ``Config``, or any mapping of keys to values.

        Raises:
            SettingsError: a value has the wrong type or is out of its range.
        """
        types = typing.get_type_hints(cls)
        values = {}
        for field in dataclasses.fields(cls):
            key = field.metadata.get("key") or field.name
            values[field.name] = _checked(key, config[key], types[field.name], field.metadata)
        return cls(**values)


def _checked(key: str, value: Any, kind: Any, rule: Mapping[str, Any]) -> Any:
    """Returns ``value`` as ``kind`` (bool, int, float, str, str | None, or a tuple of ints), or raises ``SettingsError``."""
    if kind == (str | None):
        if value is not None and not isinstance(value, str):
            raise SettingsError(f"{key} = {value!r}: must be a string or None")
        return value
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)) or not (value or rule.get("empty")):
            kinds = "list" if rule.get("empty") else "non-empty list"
            raise SettingsError(f"{key} = {value!r}: must be a {kinds} of {_wanted(int, rule)}")
        return tuple(_checked(key, element, int, rule) for element in value)
    converted = _convert(value, kind)
    if converted is None or not _in_range(converted, rule):
        raise SettingsError(f"{key} = {value!r}: must be {_wanted(kind, rule)}")
    return converted


def _convert(value: Any, kind: type) -> Any:
    """``value`` as ``kind``; None where it is not one. ``True`` is no number and ``5.0`` is an integer."""
    if kind is bool or kind is str:
        return value if isinstance(value, kind) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    if kind is int and value != int(value):
        return None
    return kind(value)


def _in_range(value: Any, rule: Mapping[str, Any]) -> bool:
    if rule.get("choices") is not None:
        return value in rule["choices"]
    return (
        (rule.get("ge") is None or value >= rule["ge"])
        and (rule.get("gt") is None or value > rule["gt"])
        and (rule.get("le") is None or value <= rule["le"])
        and (rule.get("lt") is None or value < rule["lt"])
    )


def _wanted(kind: type, rule: Mapping[str, Any]) -> str:
    if rule.get("choices") is not None:
        return "one of " + ", ".join(rule["choices"])
    name = {int: "an integer", float: "a finite number", bool: "True or False", str: "a string"}[kind]
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    bounds = [f"{sign} {rule[bound]:g}" for bound, sign in signs.items() if rule.get(bound) is not None]
    return " ".join([name, " and ".join(bounds)]).strip()


def parse_setting(text: str) -> Any:
    """Reads a setting given as text: a Python literal, or true/false/none/null in any case, or else the text itself.

    >>> parse_setting("[64, 32]"), parse_setting("1e-3"), parse_setting("True"), parse_setting("full")
    ([64, 32], 0.001, True, 'full')
    """
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return _WORDS.get(text.lower(), text)
    return value if value is None or isinstance(value, (str, int, float, list, tuple, dict)) else text
