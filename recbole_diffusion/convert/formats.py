"""Reads the interaction files of DiffRec, LightGCN and S3-Rec, and checks every row of them.

Every refusal is a ``ValueError`` of one line that names the file and the row (counted from 0, as numpy does) or the
line (counted from 1, as editors do).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

PARTS = ("train", "valid", "test")


def read_diffrec(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Reads ``{train,valid,test}_list.npy``.

    Returns:
        For each part an int64 array ``[n, 2]`` of (user, item), in file order.

    Raises:
        ValueError: a missing or unreadable file, another shape or type, a negative id, or a repeated row.
    """
    names = [f"{part}_list.npy" for part in PARTS]
    require_files(folder, names, "integer arrays [n, 2] of (user, item)")
    return {part: _read_pairs(folder / name) for part, name in zip(PARTS, names, strict=True)}


def read_lightgcn(folder: Path) -> tuple[dict[str, np.ndarray[Any, Any]], int]:
    """Reads ``{train,valid,test}.txt``, lines of ``user item item ...``; ``valid.txt`` may be missing.

    Returns:
        For each part an int64 array ``[n, 2]`` of (user, item), in file order (no row for a missing part), and the
        number of users that have a line but no item in any part.

    Raises:
        ValueError: a missing or empty file, anything but non-negative integers, a user on two lines of a file, or an
            item twice on a line.
    """
    require_files(folder, ["train.txt", "test.txt"], "and optionally valid.txt, lines of `user item item ...`")
    parts, users = {}, []
    for part in PARTS:
        file = folder / f"{part}.txt"
        if not file.exists():
            parts[part] = np.empty((0, 2), dtype=np.int64)
            continue
        lines = _Lines(file)
        lines.refuse_repeated_items()
        parts[part] = lines.pairs()
        users.append(lines.users)
    with_items = np.unique(np.concatenate([pairs[:, 0] for pairs in parts.values()]))
    return parts, len(np.setdiff1d(np.concatenate(users), with_items))


def read_s3rec(file: Path) -> np.ndarray[Any, Any]:
    """Reads one file of lines ``user item item ...``, items in time order; an item may repeat.

    Returns:
        int64 array ``[n, 2]`` of (user, item), in file order.

    Raises:
        ValueError: a missing or empty file, anything but integers from 1, a user on two lines, or a user without items.
    """
    if not file.is_file():
        beside = sorted(path.name for path in file.glob("*.txt")) if file.is_dir() else []
        hint = f"is a folder; name one of its files ({', '.join(beside)})" if beside else "no such file"
        raise ValueError(f"{file}: {hint}; expected one text file, lines of `user item item ...`")
    lines = _Lines(file)
    lines.refuse(lines.counts == 0, "user {user} has no item")
    lines.refuse(lines.users == 0, "user 0, but ids start at 1 in this format")
    pairs = lines.pairs()
    zero = np.flatnonzero(pairs[:, 1] == 0)
    if len(zero):
        line = np.repeat(np.arange(len(lines.users)), lines.counts)[zero[0]]
        raise ValueError(f"{file}: line {line + 1}: item 0, but ids start at 1 in this format (0 is padding)")
    return pairs


def require_files(folder: Path, names: Sequence[str], content: str) -> None:
    """Refuses a source folder that lacks a file.

    Raises:
        ValueError: names what is missing and what was expected.
    """
    expected = f"expected {', '.join(names)}: {content}"
    if not folder.is_dir():
        raise ValueError(f"{folder}: {'not a' if folder.exists() else 'no such'} folder; {expected}")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder}: no {', '.join(missing)}; {expected}")


def refuse_rows(file: Path, bad: np.ndarray[Any, Any], reason: str, **columns: np.ndarray[Any, Any]) -> None:
    """Refuses a table for its first bad row.

    Args:
        file: where the table is from.
        bad: boolean ``[n]``.
        reason: why; ``{name}`` stands for that row's value of the column ``name``.

    Raises:
        ValueError: some row is bad.
    """
    rows = np.flatnonzero(bad)
    if len(rows):
        values = {name: column[rows[0]] for name, column in columns.items()}
        raise ValueError(f"{file}: row {rows[0]}: {reason.format(**values)}")


def _read_pairs(file: Path) -> np.ndarray[Any, Any]:
    try:
        pairs = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise ValueError(f"{file}: not a readable .npy array: {' '.join(str(error).split())}") from error
    if not isinstance(pairs, np.ndarray) or pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu":
        found = f"{pairs.dtype} {list(pairs.shape)}" if isinstance(pairs, np.ndarray) else "an archive of arrays"
        raise ValueError(f"{file}: expected an integer array [n, 2] of (user, item), found {found}")
    if not len(pairs):
        raise ValueError(f"{file}: holds no row")
    pairs = pairs.astype(np.int64)
    user, item = pairs.T
    refuse_rows(file, user < 0, "negative user id {user}", user=user)
    refuse_rows(file, item < 0, "negative item id {item}", item=item)
    repeated = pd.DataFrame(pairs).duplicated().to_numpy()
    refuse_rows(file, repeated, "user {user}, item {item} occurs a second time", user=user, item=item)
    return pairs


class _Lines:
    """A text file with one line per user: ``user item item ...``.

    Attributes:
        users: int64 ``[lines]``.
        counts: int64 ``[lines]``, number of items on each line.
        items: int64 ``[sum(counts)]``, all items in file order.

    Raises:
        ValueError: empty or unreadable file, a blank line, anything but non-negative integers, a user on two lines.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            text = file.read_bytes()
        except OSError as error:
            raise ValueError(f"{file}: {error.strerror or error}") from error
        # 18 digits always fit int64.
        bad = re.search(rb"[0-9]*[^0-9 \t\r\n][^ \t\r\n]*|[0-9]{19,}", text)
        if bad:
            line = text.count(b"\n", 0, bad.start()) + 1
            shown = bad.group()[:20].decode(errors="replace")
            raise ValueError(f"{file}: line {line}: {shown!r} is not a non-negative integer of at most 18 digits")
        rows = [line.split() for line in text.rstrip().split(b"\n")]
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        if not lengths.any():
            raise ValueError(f"{file}: is empty")
        if not lengths.all():
            raise ValueError(f"{file}: line {lengths.argmin() + 1}: blank line")
        self.counts = lengths - 1
        numbers = np.fromiter(map(int, itertools.chain.from_iterable(rows)), dtype=np.int64, count=lengths.sum())
        starts = np.cumsum(lengths) - lengths
        self.users, self.items = numbers[starts], np.delete(numbers, starts)
        self.refuse(pd.Series(self.users).duplicated().to_numpy(), "user {user} has a line already")

    def refuse(self, bad: np.ndarray[Any, Any], reason: str) -> None:
        """Refuses the file for its first bad line; ``{user}`` in the reason stands for the user of that line."""
        lines = np.flatnonzero(bad)
        if len(lines):
            raise ValueError(f"{self.file}: line {lines[0] + 1}: {reason.format(user=self.users[lines[0]])}")

    def refuse_repeated_items(self) -> None:
        """Refuses an item that occurs twice on a line."""
        pairs = self.pairs()
        repeated = np.flatnonzero(pd.DataFrame(pairs).duplicated().to_numpy())
        if len(repeated):
            user, item = pairs[repeated[0]]
            line = np.flatnonzero(self.users == user)[0] + 1
            raise ValueError(f"{self.file}: line {line}: item {item} occurs twice for user {user}")

    def pairs(self) -> np.ndarray[Any, Any]:
        """int64 ``[n, 2]`` of (user, item), in file order."""
        return np.column_stack([np.repeat(self.users, self.counts), self.items])
