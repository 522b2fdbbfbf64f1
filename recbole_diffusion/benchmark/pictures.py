"""The pictures of the pages, in ``figures/`` beside them: SVG and PNG, each marked with the records it was drawn from.

The mark tells a stale picture whichever matplotlib drew it, and needs none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_diffusion.benchmark.boards import Board, Page, Record, rankings, read_pages
from recbole_diffusion.benchmark.spec import slug
from recbole_diffusion.plots.board import plot_accuracy_and_cost, plot_courses, plot_ranks, plot_setting, scored_epochs
from recbole_diffusion.plots.figure import SUFFIXES, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = "figures"


def pictures_of(page: Page) -> dict[str, tuple[Board, Callable[[], Figure]]]:
    """The board of each picture and how it is drawn, by the name of its files.

    A board has pictures if at least two of its rows have the time that scoring takes, which older records lack.
    """
    found: dict[str, tuple[Board, Callable[[], Figure]]] = {}
    for number, board in enumerate(page.boards, start=1):
        rows = {name: entry.records for name, entry in board.entries.items()}
        timed = [name for name, records in rows.items() if all(record.get("scoring_ms") is not None for record in records)]
        if len(timed) < 2:
            continue
        title = f"{page.title}: {board.heading}"
        found[f"{page.name}-{number}-cost"] = (board, partial(plot_accuracy_and_cost, title, rows, board.metric))
        for key, lines in board.varied().items():
            coverage = f"itemcoverage@{board.metric.partition('@')[2]}"  # which older records lack
            has_it = all(coverage in record.get("beyond_accuracy", {}) for records in lines.values() for record in records)
            metrics = [board.metric, coverage] if has_it else [board.metric]
            found[f"{page.name}-{number}-{slug(key)}"] = (board, partial(plot_setting, title, lines, key, metrics))
        if any(len(scored_epochs(record)) > 1 for record in board.records):
            found[f"{page.name}-{number}-courses"] = (board, partial(plot_courses, title, rows))
    return found


def ranks_picture(group: str) -> str:
    """The name of the picture of mean ranks of a group of boards."""
    return f"ranks-{slug(group)}"


def _all_pictures(pages: Sequence[Page]) -> dict[str, tuple[list[Record], Callable[[], Figure]]]:
    """The records of each picture of the pages and of the mean ranks, and how it is drawn."""
    found = {name: (board.records, draw) for page in pages for name, (board, draw) in pictures_of(page).items()}
    for group, (boards, ranks) in rankings(pages).items():
        records = [record for board in boards for record in board.records]
        title = f"{group}: mean ranks on {len(boards)} boards"
        found[ranks_picture(group)] = (records, partial(plot_ranks, title, ranks.means, ranks.critical_difference))
    return found


def digest(records: Sequence[dict[str, Any]]) -> str:
    """A mark of records: another one if anything in them is changed."""
    text = json.dumps(sorted(json.dumps(record, sort_keys=True) for record in records))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_pictures(results: Path) -> list[str]:
    """Draws all pictures; returns the names of their files.

    Raises:
        SettingsError: matplotlib is not installed, or a file cannot be written.
    """
    written = []
    for name, (records, draw) in _all_pictures(read_pages(results)).items():
        figure, mark = draw(), digest(records)
        for suffix in SUFFIXES:
            save(figure, results / FOLDER / f"{name}{suffix}", mark)
            written.append(f"{name}{suffix}")
    return written


def stale_pictures(results: Path) -> list[str]:
    """Names of the pictures that were not drawn from today's records, those that no board has among them."""
    marks = {
        f"{name}{suffix}": digest(records).encode()
        for name, (records, _) in _all_pictures(read_pages(results)).items()
        for suffix in SUFFIXES
    }
    there = {file.name: file.read_bytes() for file in (results / FOLDER).glob("*") if file.suffix in SUFFIXES}
    wrong = [name for name, mark in marks.items() if mark not in there.get(name, b"")]
    return sorted(f"{FOLDER}/{name}" for name in [*wrong, *(name for name in there if name not in marks)])
