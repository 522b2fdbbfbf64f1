"""Reads files of ratings, one interaction per line: ``user item [rating [time]]``."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_diffusion.convert.formats import PARTS, require_files

COLUMNS = ("user", "item", "rating", "time")


def read_ratings(src: Path) -> dict[str, pd.DataFrame]:
    """Reads one file, or a folder with ``train.txt``, ``test.txt`` and optionally ``valid.txt``.

    Columns are separated by commas, or else by blanks or tabs. Ids may be any text.

    Returns:
        The part ``all``, or the parts train, valid (no row without its file) and test. Each is a table of text, in file
        order, with the first two, three or four of :data:`COLUMNS`; all parts have the same columns.

    Raises:
        ValueError: a missing or empty file, a line with another number of columns than the first one, an empty cell, a
            rating or time that is not a finite number, or a heading; names the file and the line (from 1).
    """
    if not src.is_dir():
        return {"all": _read_file(src)}
    require_files(src, ["train.txt", "test.txt"], "and optionally valid.txt, lines of `user item [rating [time]]`")
    files = {part: src / f"{part}.txt" for part in PARTS}
    tables = {part: _read_file(file) for part, file in files.items() if file.is_file()}
    train = tables["train"]
    for part, table in tables.items():
        if table.shape[1] != train.shape[1]:
            raise ValueError(
                f"{files[part]}: line 1: {table.shape[1]} columns, but {files['train'].name} has {train.shape[1]}"
            )
    return {part: tables.get(part, train.iloc[:0]) for part in PARTS}


def at_least(parts: dict[str, pd.DataFrame], min_rating: float, src: Path) -> dict[str, pd.DataFrame]:
    """The lines whose rating is at least ``min_rating``.

    Raises:
        ValueError: ``min_rating`` is not finite, there are no ratings, or none is high enough.
    """
    if not math.isfinite(min_rating):
        raise ValueError(f"min_rating = {min_rating}: must be a finite number")
    if any("rating" not in table for table in parts.values()):
        raise ValueError(f"min_rating = {min_rating:g}: {src} has no ratings; its lines are `user item`")
    kept = {part: table[table["rating"].astype(float) >= min_rating] for part, table in parts.items()}
    for part in ("all", "train", "test"):
        if part in kept and not len(kept[part]):
            raise ValueError(f"min_rating = {min_rating:g}: {src} has no rating as high (part {part})")
    return kept


def _read_file(file: Path) -> pd.DataFrame:
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror or error}; expected lines of `user item [rating [time]]`") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{file}: line {line}: is not UTF-8 text") from error
    lines = text.rstrip().split("\n")
    comma = "," in lines[0]
    rows = [line.split(",") if comma else line.split() for line in lines]
    _check_widths(file, rows)
    table = pd.DataFrame(rows, columns=COLUMNS[: len(rows[0])], dtype=object)
    for column in table.columns:
        cells = table[column] = table[column].str.strip()
        if column in ("user", "item"):
            bad, why = ~cells.str.fullmatch(r"\S+").to_numpy(dtype=bool), "is empty or holds a blank"
        else:
            bad, why = ~np.isfinite(pd.to_numeric(cells, errors="coerce").to_numpy(dtype=float)), "is not a finite number"
        if bad.any():
            raise ValueError(f"{file}: line {bad.argmax() + 1}: {column} {cells.iloc[bad.argmax()]!r:.40} {why}")
    if re.fullmatch(r"user\D*|uid", table["user"].iloc[0], flags=re.IGNORECASE):
        raise ValueError(f"{file}: line 1: {table['user'].iloc[0]!r} is a heading, not a user; remove this line")
    return table


def _check_widths(file: Path, rows: list[list[str]]) -> None:
    """Refuses the first line that has another number of columns than line 1, or a line 1 that has not 2 to 4."""
    if not any(rows[0]):
        raise ValueError(f"{file}: {'line 1: blank line' if len(rows) > 1 else 'is empty'}")
    expected = len(rows[0])
    widths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    bad = (widths != expected) | (not 2 <= expected <= 4)
    if bad.any():
        line = int(bad.argmax())
        wanted = f"{expected} as on line 1" if line else "2 to 4: `user item [rating [time]]`"
        found = f"{widths[line]} columns, expected {wanted}" if any(rows[line]) else "blank line"
        raise ValueError(f"{file}: line {line + 1}: {found}")
