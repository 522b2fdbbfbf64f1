"""Typed, range-checked settings of a model: one frozen dataclass per model, filled from a RecBole ``Config``.

The YAML file of a model holds the defaults; the dataclass holds types and ranges. A test keeps the two in step.
"""

from __future__ import annotations

import ast
import dataclasses
import math
import operator
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

S = TypeVar("S", bound="Settings")

_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


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
    """Reads a setting of our command line: as :func:`parse_literal` does, and none and null in any case are None.

    >>> parse_setting("[64, 32]"), parse_setting("1e-3"), parse_setting("none"), parse_setting("full")
    ([64, 32], 0.001, None, 'full')
    """
    return None if text.lower() in ("none", "null") else parse_literal(text)


def parse_literal(text: str) -> Any:
    """Reads a setting given as text: a Python literal, arithmetic included, true or false in any case, or the text itself.

    RecBole does the same by ``eval``. Other expressions stay text here, since settings come with other people's files.

    >>> parse_literal("2*1024"), parse_literal("TRUE"), parse_literal("none"), parse_literal("print(1)")
    (2048, True, 'none', 'print(1)')
    """
    try:
        value = ast.literal_eval(_Arithmetic().visit(ast.parse(text.lstrip(" \t"), mode="eval")))
    except (ValueError, SyntaxError, TypeError, ArithmeticError, MemoryError, RecursionError):
        return {"true": True, "false": False}.get(text.lower(), text)
    return value if value is None or isinstance(value, (str, int, float, list, tuple, dict)) else text


class _Arithmetic(ast.NodeTransformer):
    """Replaces operations on numbers by their results."""

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        number = _number(node.operand)
        return ast.Constant(-number) if isinstance(node.op, ast.USub) and number is not None else node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        left, right = _number(node.left), _number(node.right)
        if left is None or right is None or type(node.op) not in _OPERATORS:
            return node
        if isinstance(node.op, ast.Pow) and (abs(left) > 1e6 or abs(right) > 64):
            return node  # a number that would fill the memory
        return ast.Constant(_OPERATORS[type(node.op)](left, right))


def _number(node: ast.AST) -> int | float | None:
    value = node.value if isinstance(node, ast.Constant) else None
    return value if isinstance(value, (int, float)) else None
