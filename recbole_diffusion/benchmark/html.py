"""All boards as one HTML page that needs no network: tables to sort, pictures to hover over, a filter by family.

plotly's script is in the page, between two marks: it is most of it, and another version of plotly does not make the page stale.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from recbole_diffusion.benchmark.boards import Board, Entry, Page, read_pages, training_s
from recbole_diffusion.benchmark.statistics import mean_interval
from recbole_diffusion.plots.board import measured
from recbole_diffusion.registry import group_of

NAME = "report.html"
_BEGIN, _END = "<!-- plotly -->", "<!-- /plotly -->"

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left }
th { cursor: pointer; background: #f4f4f4 }
th[data-up="1"]::after { content: " \\2191" }
th[data-up="-1"]::after { content: " \\2193" }
nav label { margin-right: 1rem } .board { overflow-x: auto } .plot { height: 26rem }
"""

_SCRIPT = """
const hidden = new Set();
function refresh() {
  for (const row of document.querySelectorAll("tr[data-family]")) row.hidden = hidden.has(row.dataset.family);
  for (const plot of document.querySelectorAll(".js-plotly-plot"))
    Plotly.restyle(plot, {visible: plot.data.map(trace => !hidden.has(trace.name))});
}
for (const box of document.querySelectorAll("nav input")) box.addEventListener("change", () => {
  box.checked ? hidden.delete(box.value) : hidden.add(box.value);
  refresh();
});
for (const head of document.querySelectorAll("th")) head.addEventListener("click", () => {
  const up = head.dataset.up === "-1" ? 1 : -1, body = head.closest("table").tBodies[0], at = head.cellIndex;
  for (const other of head.parentNode.cells) delete other.dataset.up;
  head.dataset.up = up;
  const key = row => row.cells[at].dataset.value ?? row.cells[at].textContent;
  const order = (a, b) => isNaN(a) || isNaN(b) || a === "" || b === "" ? a.localeCompare(b) : a - b;
  body.append(...[...body.rows].sort((a, b) => up * order(key(a), key(b))));
});
"""


def make_html(pages: Sequence[Page]) -> str:
    """The page, without plotly's script between the marks."""
    boards = [(page, board) for page in pages for board in page.boards]
    families = dict.fromkeys(group_of(entry.model) for _, board in boards for entry in board.entries.values())
    boxes = (f'<label><input type="checkbox" value="{escape(name)}" checked> {escape(name)}</label>' for name in families)
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Diffusion recommenders: results</title>',
        f"<style>{_STYLE}</style>{_BEGIN}{_END}</head><body>",
        "<h1>Diffusion recommenders: results</h1>",
        "<p>Made by <code>recbole-diffusion report</code> from the records of the runs. Values are test metrics, the mean over",
        "seeds &plusmn; half its 95&nbsp;% interval; rows that share a letter cannot be told apart. Click a heading to sort,",
        "point at a dot for its row. What was masked, tuned and quoted is said on the Markdown pages beside this one.</p>",
        f"<nav>{''.join(boxes)}</nav>",
    ]
    for number, (page, board) in enumerate(boards):
        parts += [f'<section class="board"><h2>{escape(page.title)}: {escape(board.heading)}</h2>', _table(board)]
        parts += [_plot(board, f"plot-{number}"), "</section>"]
    return "\n".join([*parts, f"<script>{_SCRIPT}</script></body></html>"]) + "\n"


def write_html(results: Path) -> None:
    """Writes ``report.html``, plotly's script in it."""
    from plotly.offline import get_plotlyjs

    script = f"{_BEGIN}<script>{get_plotlyjs()}</script>{_END}"
    text = make_html(read_pages(results)).replace(_BEGIN + _END, script)
    (results / NAME).write_text(text, encoding="utf-8")


def is_stale(results: Path) -> bool:
    """Whether there is a ``report.html`` that is not what the records say, whichever plotly it has.

    It need not be there: most of it is plotly's script, which does not belong into a repository.
    """
    file = results / NAME
    if not file.is_file():
        return False
    there = re.sub(f"{_BEGIN}.*{_END}", _BEGIN + _END, file.read_text(encoding="utf-8"), flags=re.DOTALL)
    return there != make_html(read_pages(results))


def _table(board: Board) -> str:
    """The rows, best first; what is shown and what is sorted by stand in each cell."""
    letters = board.significance().letters
    names = [*board.best_first(), *(name for name in board.entries if name not in board.best_first())]
    heading = ["row", "family", "seeds", *board.metrics, "letter", "ms a row", "training min", "parameters"]
    beyond = [key for key in _beyond(board.records) if key not in board.metrics]
    lines = [f"<table><thead><tr>{''.join(f'<th>{escape(name)}</th>' for name in [*heading, *beyond])}</tr></thead><tbody>"]
    for name in names:
        entry = board.entries[name]
        family = group_of(entry.model)
        cells = [_cell(name), _cell(family), _cell(len(entry.records))]
        cells += [_metric(entry.scores(metric)) for metric in board.metrics]
        cells += [_cell(letters.get(name, "")), _mean(entry, "scoring_ms", "{:.3g}")]
        minutes = statistics.mean(map(training_s, entry.records)) / 60
        cells += [_cell(f"{minutes:.1f}", minutes) if minutes else _cell("")]
        cells += [_mean(entry, "parameters", "{:,.0f}")]
        cells += [_metric(entry_values(entry, key)) for key in beyond]
        lines.append(f'<tr data-family="{escape(family)}">{"".join(cells)}</tr>')
    return "".join([*lines, "</tbody></table>"])


def _plot(board: Board, identifier: str) -> str:
    """Accuracy against the cost of a row's scores, a trace for each family; empty without costs."""
    import plotly.graph_objects as go

    figure = go.Figure()
    families: dict[str, list[tuple[str, float, float]]] = {}
    for name, entry in board.entries.items():
        scores, costs = entry.scores(board.metric), [record.get("scoring_ms") for record in entry.records]
        if scores and None not in costs:
            point = (name, statistics.mean(costs), statistics.mean(scores))
            families.setdefault(group_of(entry.model), []).append(point)
    if not families:
        return ""
    for family, points in families.items():
        names, costs, scores = zip(*points, strict=True)
        figure.add_scatter(x=costs, y=scores, text=names, name=family, mode="markers+text", textposition="top center")
    figure.update_xaxes(type="log", title="milliseconds for the scores of one test row")
    figure.update_yaxes(title=f"{board.metric} on test")
    figure.update_layout(template="plotly_white", margin={"t": 20})
    return str(figure.to_html(full_html=False, include_plotlyjs=False, div_id=identifier, default_height="26rem"))


def entry_values(entry: Entry, key: str) -> list[float] | None:
    """A value of the test for each seed; None unless all have it."""
    try:
        return [measured(record, key) for record in entry.records]
    except KeyError:
        return None


def _beyond(records: Iterable[dict[str, object]]) -> list[str]:
    return sorted({key for record in records for key in record.get("beyond_accuracy", {})})  # type: ignore[attr-defined]


def _mean(entry: Entry, key: str, form: str) -> str:
    values = [record.get(key) for record in entry.records]
    return _cell("") if None in values else _cell(form.format(statistics.mean(values)), statistics.mean(values))


def _metric(values: Sequence[float] | None) -> str:
    if not values:
        return _cell("")
    mean, half = mean_interval(values)
    return _cell(f"{mean:.4f}" + (f" &plusmn; {half:.4f}" if half is not None else ""), mean, raw=True)


def _cell(text: object, value: float | None = None, raw: bool = False) -> str:
    shown = str(text) if raw else escape(str(text))
    return f"<td>{shown}</td>" if value is None else f'<td data-value="{value!r}">{shown}</td>'
