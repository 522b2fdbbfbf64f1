"""What a conversion says about the data set that it wrote."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


@dataclasses.dataclass(frozen=True)
class PartCount:
    """What one part of a converted data set holds.

    Attributes:
        part: ``train``, ``valid``, ``test``; ``all`` where RecBole does the splitting; ``total`` of several parts.
        rows: interactions; with item lists, pairs of a history and its target.
        users: distinct users; with item lists, sessions.
        items: distinct items, in histories and as targets.
        new_users: users of this part that no earlier part has.
        new_items: items of this part that no earlier part has.
        empty_histories: rows whose history is empty; None without item lists.
    """

    part: str
    rows: int
    users: int
    items: int
    new_users: int
    new_items: int
    empty_histories: int | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """What a conversion wrote.

    Attributes:
        name: the data set's name for ``--dataset``.
        folder: where its files are; the parent is for ``--data_path``.
        parts: counts of each part, in time order.
        total: counts over all parts.
        notes: what the user should know about this source, a sentence each.
    """

    name: str
    folder: Path
    parts: tuple[PartCount, ...]
    total: PartCount
    notes: tuple[str, ...] = ()

    def table(self) -> str:
        """The counts as aligned text, the notes below."""
        rows = [[field.name.replace("_", " ") for field in dataclasses.fields(PartCount)]]
        for part in (*self.parts, self.total) if len(self.parts) > 1 else self.parts:
            rows.append(
                [f"{value:,}" if isinstance(value, int) else value or "-" for value in dataclasses.astuple(part)]
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
        return "\n".join([f"{self.name} in {self.folder}", *lines, *(f"note: {note}" for note in self.notes)])


def count(
    users: Mapping[str, Any], items: Mapping[str, Any], empty: Mapping[str, int] | None = None
) -> tuple[tuple[PartCount, ...], PartCount]:
    """Counts each part and all of them together.

    Args:
        users: for each part the user of each row.
        items: for each part its items, with repetitions.
        empty: for each part the number of empty histories.
    """
    seen_users: set[Any] = set()
    seen_items: set[Any] = set()
    counts = []
    for part in users:
        of_users, of_items = set(pd.unique(users[part])), set(pd.unique(items[part]))
        counts.append(
            PartCount(
                part,
                rows=len(users[part]),
                users=len(of_users),
                items=len(of_items),
                new_users=len(of_users - seen_users),
                new_items=len(of_items - seen_items),
                empty_histories=empty[part] if empty else None,
            )
        )
        seen_users |= of_users
        seen_items |= of_items
    total = PartCount(
        "total",
        rows=sum(part.rows for part in counts),
        users=len(seen_users),
        items=len(seen_items),
        new_users=len(seen_users),
        new_items=len(seen_items),
        empty_histories=sum(empty.values()) if empty else None,
    )
    return tuple(counts), total


def count_pairs(parts: Mapping[str, np.ndarray[Any, Any]]) -> tuple[tuple[PartCount, ...], PartCount]:
    """:func:`count` for parts that are arrays ``[n, 2]`` of (user, item)."""
    users = {part: pairs[:, 0] for part, pairs in parts.items()}
    items = {part: pairs[:, 1] for part, pairs in parts.items()}
    return count(users, items)


def overlaps(parts: Mapping[str, np.ndarray[Any, Any]]) -> tuple[str, ...]:
    """Notes on pairs that a later part repeats: the papers' code masks these at test time, RecBole ranks them."""
    whole = pd.DataFrame(np.concatenate(list(parts.values())))
    repeated = np.split(whole.duplicated().to_numpy(), np.cumsum([len(pairs) for pairs in parts.values()])[:-1])
    counts = {part: int(rows.sum()) for part, rows in zip(parts, repeated, strict=True)}
    return tuple(f"{n:,} rows of {part} repeat a pair of an earlier part" for part, n in counts.items() if n)
