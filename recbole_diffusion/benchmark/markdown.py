"""Parts of Markdown pages: sections, tables, and numbers as their cells."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from recbole_diffusion.benchmark.statistics import mean_interval


def section(title: str, lines: list[str]) -> list[str]:
    """A section of a board; nothing without lines."""
    return ["", f"### {title}", "", *lines] if lines else []


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    lines = [list(heading), ["---"] * len(heading), *map(list, rows)]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def listed(names: Sequence[str]) -> str:
    """Names, one after the other; names such as "PriorDiff, no prior" have commas of their own."""
    return "; ".join(names)


def spread(values: Sequence[float | None] | None) -> str:
    """Mean and half the interval; empty unless all seeds have the value."""
    if not values or any(value is None for value in values):
        return ""
    mean, half = mean_interval([float(value) for value in values if value is not None])
    return f"{mean:.4f}" if half is None else f"{mean:.4f} +- {half:.4f}"


def mean_cell(values: Sequence[Any], form: str) -> str:
    """The mean, in the format ``form``; empty unless all seeds have the value."""
    return "" if not values or any(value is None for value in values) else form.format(statistics.mean(values))


def p_cell(value: float | None) -> str:
    """A p-value; empty where there is none."""
    if value is None:
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
