"""Pictures of a board, from the records of its rows: accuracy against cost, the course of training, a setting's effect."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from recbole_diffusion.plots.figure import new_figure
from recbole_diffusion.registry import GROUPS, group_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rows = Mapping[str, Sequence[dict[str, Any]]]
"""Records of the seeds of each row, by the row's name."""


def plot_accuracy_and_cost(title: str, rows: Rows, metric: str) -> Figure:
    """Draws each row's test metric, mean and range over seeds, against the time for a user's scores; names stand at the right.

    Args:
        title: of the picture.
        rows: what to draw; a row without ``scoring_ms``, which old records lack, is left out.
        metric: such as ``ndcg@10``.
    """
    figure, axes = new_figure(title, width=9, height=max(5, 0.22 * len(rows)))
    axis = axes[0, 0]
    points: dict[str, tuple[float, float]] = {}
    families = dict.fromkeys(GROUPS)
    for name, records in rows.items():
        if any(record.get("scoring_ms") is None for record in records):
            continue
        family = group_of(records[0]["model"])
        cost = statistics.mean(record["scoring_ms"] for record in records)
        values = [record["test"][metric] for record in records]
        mean = statistics.mean(values)
        bar = axis.errorbar(
            [cost], [mean], [[mean - min(values)], [max(values) - mean]], fmt="o", capsize=3,
            color=f"C{list(families).index(family) if family in families else len(families)}",
            label=None if families.get(family) else family,
        )  # fmt: skip
        families[family] = bar
        points[name] = cost, mean
    axis.set(xscale="log", xlabel="milliseconds for the scores of one test row", ylabel=f"{metric} on test")
    low, high = axis.get_ylim()
    axis.set_ylim(low, high)
    heights = _apart([(y - low) / (high - low) for _, y in points.values()], min(0.045, 1 / max(len(points), 1)))
    for (name, point), height in zip(points.items(), heights, strict=True):
        axis.annotate(
            name, point, xytext=(1.03, height), textcoords="axes fraction", fontsize=8, verticalalignment="center",
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "grey", "relpos": (0, 0.5)},
        )  # fmt: skip
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8)
    return figure


def plot_courses(title: str, rows: Rows) -> Figure:
    """Draws each row's validation score by epoch, mean over the seeds that reached it; a ring marks a seed's chosen epoch."""
    figure, axes = new_figure(title, width=8, height=5)
    axis = axes[0, 0]
    for number, (name, records) in enumerate(rows.items()):
        curves = [scores for record in records if len(scores := scored_epochs(record)) > 1]
        if not curves:
            continue
        colour, dash = f"C{number % 10}", ("-", "--", ":")[number // 10 % 3]
        epochs = sorted(set().union(*curves))
        means = [statistics.mean(curve[epoch] for curve in curves if epoch in curve) for epoch in epochs]
        axis.plot(epochs, means, dash, color=colour, label=name)
        for record in records:
            best = record["best_epoch"] + 1
            axis.plot([best], [scored_epochs(record)[best]], "o", fillstyle="none", color=colour)
    axis.set(xlabel="epoch", ylabel=f"{next(iter(rows.values()))[0]['settings']['valid_metric']} on validation")
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=7, ncols=2)
    return figure


def plot_setting(title: str, rows: Rows, setting: str, metrics: Sequence[str]) -> Figure:
    """Draws metrics on test against a setting, a panel for each metric.

    Args:
        title: of the picture.
        rows: records of models that have the setting, by the name of their line.
        setting: whose value is the abscissa.
        metrics: of ``test`` or of ``beyond_accuracy``.
    """
    by_row: dict[str, dict[float, list[dict[str, Any]]]] = {name: {} for name in rows}
    for name, records in rows.items():
        for record in records:
            by_row[name].setdefault(record["settings"][setting], []).append(record)
    figure, axes = new_figure(title, 1, len(metrics), 4.5 * len(metrics), 4)
    for axis, metric in zip(axes[0], metrics, strict=True):
        for name, by_value in by_row.items():
            values = sorted(by_value)
            found = [[measured(record, metric) for record in by_value[value]] for value in values]
            (line,) = axis.plot(values, [statistics.mean(of_value) for of_value in found], label=name)
            for value, of_value in zip(values, found, strict=True):
                axis.plot([value] * len(of_value), of_value, ".", color=line.get_color())
        axis.set(xlabel=setting, ylabel=f"{metric} on test")
        _set_scale(axis, sorted({value for by_value in by_row.values() for value in by_value}))
        axis.legend(fontsize=8)
    return figure


def plot_ranks(title: str, means: Mapping[str, float], critical_difference: float) -> Figure:
    """Draws mean ranks over boards, best on top, with half the critical difference on both sides.

    Rows whose bars do not overlap can be told apart (Nemenyi's test; Demsar, JMLR 2006, section 3.2.2).

    Args:
        title: of the picture.
        means: mean rank by row.
        critical_difference: of two mean ranks.
    """
    rows = sorted(means.items(), key=lambda row: -row[1])
    figure, axes = new_figure(title, width=8, height=1.5 + 0.3 * len(rows))
    axis = axes[0, 0]
    axis.errorbar([mean for _, mean in rows], range(len(rows)), xerr=critical_difference / 2, fmt="o", capsize=3)
    axis.set(yticks=range(len(rows)), yticklabels=[name for name, _ in rows])
    axis.set(xlabel=f"mean rank, 1 is best; bars: half the critical difference, {critical_difference:.2f}")
    return figure


def measured(record: Mapping[str, Any], metric: str) -> float:
    """A metric of the test, of its accuracy or beyond it."""
    return float({**record.get("beyond_accuracy", {}), **record["test"]}[metric])


def scored_epochs(record: Mapping[str, Any]) -> dict[int, float]:
    """The validation score by epoch, from 1, where there is one."""
    return {entry["epoch"] + 1: entry["valid_score"] for entry in record["curve"] if "valid_score" in entry}


def _set_scale(axis: Any, values: Sequence[float]) -> None:
    """A tick at each of the sorted values; logarithmic where positive ones span more than a factor of 30, linear around a 0."""
    positive = [value for value in values if value > 0]
    if positive and max(positive) > 30 * min(positive):
        if len(positive) == len(values):
            axis.set_xscale("log")
        else:
            axis.set_xscale("symlog", linthresh=min(positive))
        axis.set_xticks(values, [f"{value:g}" for value in values])
        axis.set_xticks([], minor=True)


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """Heights in [0, 1], moved up and then down as little as puts ``gap`` between them; their order stays."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    placed, below = list(heights), -gap
    for i in order:
        below = placed[i] = max(heights[i], below + gap)
    above = 1 + gap
    for i in reversed(order):
        above = placed[i] = min(placed[i], above - gap)
    return placed
