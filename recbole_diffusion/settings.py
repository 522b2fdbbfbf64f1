"""Typed, range-checked settings of a model: one frozen dataclass per model, filled from a RecBole ``Config``.

The YAML file of a model holds the defaults; the dataclass holds types and ranges. A test keeps the two in step.
"""

from __future__ import annotations

import ast
import dataclasses
import math
import operator
import types
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
    scoring: bool = False,
) -> Any:
    """Declares a field's range.

    Args:
        ge, gt, le, lt: bounds of a number, or of every number of a list.
        choices: the allowed strings.
        key: the configuration key, where it is not the field's name (RecBole's ``time-aware``).
        empty: whether a list may be empty.
        scoring: whether the setting has to do with scoring alone, so that a trained model can be tested under several values.
    """
    rule = {"ge": ge, "gt": gt, "le": le, "lt": lt, "choices": choices, "key": key, "empty": empty, "scoring": scoring}
    return dataclasses.field(metadata=rule)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Base of the settings dataclasses."""

    @classmethod
    def keys(cls) -> list[str]:
        """The configuration keys that the settings are read from."""
        return [field.metadata.get("key") or field.name for field in dataclasses.fields(cls)]

    @classmethod
    def rules(cls) -> dict[str, tuple[Any, Mapping[str, Any]]]:
        """Type and range of each configuration key, as :func:`checked` takes them."""
        kinds = typing.get_type_hints(cls)
        return {
            key: (kinds[field.name], field.metadata)
            for key, field in zip(cls.keys(), dataclasses.fields(cls), strict=True)
        }

    @classmethod
    def scoring_keys(cls) -> list[str]:
        """The configuration keys that have to do with scoring alone."""
        return [key for key, (_, rule) in cls.rules().items() if rule.get("scoring")]

    @classmethod
    def read(cls: type[S], config: Mapping[str, Any]) -> S:
        """Reads and checks the settings.

        Args:
            config: a RecBole ``Config``, or any mapping of keys to values.

        Raises:
            SettingsError: a value has the wrong type or is out of its range.
        """
        values = {
            field.name: checked(key, config[key], *rule)
            for field, (key, rule) in zip(dataclasses.fields(cls), cls.rules().items(), strict=True)
        }
        return cls(**values)


LARGEST_INT = 2**31 - 1
"""Above it no setting makes sense, and torch's and numpy's own errors tell nothing."""


def checked(key: str, value: Any, kind: Any, rule: Mapping[str, Any]) -> Any:
    """Checks a value.

    Args:
        key: the setting's name, for the error.
        value: what was given.
        kind: bool, int, float, str, dict, ``tuple[kind, ...]`` for a list, or one of these ``| None``.
        rule: bounds, choices, and whether a list may be empty; see :func:`setting`.

    Returns:
        The value as ``kind``: 5.0 as the integer 5, a list as a tuple.

    Raises:
        SettingsError: another type, or out of range.
    """
    optional = isinstance(kind, types.UnionType)
    if optional:
        if value is None:
            return None
        kind = next(option for option in typing.get_args(kind) if option is not type(None))
    converted = _convert(value, kind, rule)
    if converted is None:
        raise SettingsError(f"{key} = {shortened(value)}: must be {_wanted(kind, rule, value)}{' or None' * optional}")
    return converted


def shortened(value: Any) -> str:
    """How a value is quoted in an error: on one line, and not longer than a line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 100 else f"{text[:100]}..."


def _convert(value: Any, kind: Any, rule: Mapping[str, Any]) -> Any:
    """``value`` as ``kind``; None where it is not one. ``True`` is no number and ``5.0`` is an integer."""
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)) or not (value or rule.get("empty")):
            return None
        items = tuple(_convert(item, typing.get_args(kind)[0], rule) for item in value)
        return None if None in items else items
    if kind in (bool, str, dict):
        converted = value if isinstance(value, kind) else None
    elif isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    else:
        converted = kind(value) if kind is float or value == int(value) else None
    return converted if converted is not None and _in_range(converted, kind, rule) else None


def _in_range(value: Any, kind: Any, rule: Mapping[str, Any]) -> bool:
    if rule.get("choices") is not None:
        return value in rule["choices"]
    if kind is int and rule.get("le") is None and abs(value) > LARGEST_INT:
        return False
    return (
        (rule.get("ge") is None or value >= rule["ge"])
        and (rule.get("gt") is None or value > rule["gt"])
        and (rule.get("le") is None or value <= rule["le"])
        and (rule.get("lt") is None or value < rule["lt"])
    )


def _wanted(kind: Any, rule: Mapping[str, Any], value: Any) -> str:
    if typing.get_origin(kind) is tuple:
        element = typing.get_args(kind)[0]
        items = value if isinstance(value, (list, tuple)) else ()
        wrong = next((item for item in items if _convert(item, element, rule) is None), None)
        return f"a {'' if rule.get('empty') else 'non-empty '}list of {_wanted(element, rule, wrong)}"
    if rule.get("choices") is not None:
        return "one of " + ", ".join(map(str, rule["choices"]))
    name = {int: "an integer", float: "a finite number", bool: "True or False", str: "a string", dict: "a mapping"}[kind]
    limits = {"ge": rule.get("ge"), "gt": rule.get("gt"), "le": rule.get("le"), "lt": rule.get("lt")}
    if kind is int and limits["le"] is None and isinstance(value, (int, float)) and value > LARGEST_INT:
        limits["le"] = LARGEST_INT
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    bounds = [f"{signs[bound]} {limit}" for bound, limit in limits.items() if limit is not None]
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
