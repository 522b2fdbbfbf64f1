"""Reads DreamRec's files: rows of a padded history and its next item."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_diffusion.convert.formats import PARTS, refuse_rows, require_files
from recbole_diffusion.convert.safe_pickle import read_dataframe

_FILES = {"train": "train_data.df", "valid": "val_data.df", "test": "test_data.df"}
# The official data sets spell the columns of length and target in two ways.
_SPELLINGS = (("seq", "len_seq", "next"), ("seq", "seq_len", "tgt"))


@dataclasses.dataclass(frozen=True)
class Histories:
    """One part of DreamRec's data.

    Attributes:
        items: int64 ``[n, width]``, the latest items of each row, oldest first, right-padded.
        lengths: int64 ``[n]``, how many of them are items; 0 for an empty history.
        targets: int64 ``[n]``, the item that follows.
    """

    items: np.ndarray[Any, Any]
    lengths: np.ndarray[Any, Any]
    targets: np.ndarray[Any, Any]

    def sessions(self) -> np.ndarray[Any, Any]:
        """Number of each row's session, int64 ``[n]`` from 0.

        A row continues the session of the row before it when its history is that row's history plus that row's target
        (without the oldest item, if the history was full).
        """
        after = self.items.copy()
        full = self.lengths == after.shape[1]
        after[full, :-1] = self.items[full, 1:]
        after[np.arange(len(after)), np.minimum(self.lengths, after.shape[1] - 1)] = self.targets
        continues = (after[:-1] == self.items[1:]).all(axis=1)
        return np.concatenate([[0], np.cumsum(~continues)])


def read_dreamrec(folder: Path) -> tuple[dict[str, Histories], int]:
    """Reads ``data_statis.df`` and ``{train,val,test}_data.df``.

    Returns:
        The parts train, valid and test, and the number of items of the catalogue; items are 0 to that number - 1.

    Raises:
        ValueError: a missing or refused file, missing columns, or a row that is not a right-padded history of catalogue
            items with its length and a target from the catalogue.
    """
    content = f"pandas pickles with columns {' or '.join(', '.join(spelling) for spelling in _SPELLINGS)}"
    require_files(folder, ["data_statis.df", *_FILES.values()], content)
    width, item_num = _read_sizes(folder / "data_statis.df")
    return {part: _read_part(folder / _FILES[part], width, item_num) for part in PARTS}, item_num


def _read_sizes(file: Path) -> tuple[int, int]:
    frame = read_dataframe(file)
    if not _has(frame, ("seq_size", "item_num")) or len(frame) != 1:
        raise ValueError(
            f"{file}: expected one row with the columns seq_size, item_num; found {len(frame)} rows with "
            f"{', '.join(map(str, frame.columns))}"
        )
    sizes = [_integers(file, frame, column) for column in ("seq_size", "item_num")]
    for column, size in zip(("seq_size", "item_num"), sizes, strict=True):
        refuse_rows(file, size < 1, f"{column} is {{size}}, must be at least 1", size=size)
    return int(sizes[0][0]), int(sizes[1][0])


def _read_part(file: Path, width: int, item_num: int) -> Histories:
    frame = read_dataframe(file)
    names = next((names for names in _SPELLINGS if _has(frame, names)), None)
    if names is None:
        spellings = " or ".join(", ".join(spelling) for spelling in _SPELLINGS)
        raise ValueError(f"{file}: expected the columns {spellings}; found {', '.join(map(str, frame.columns))}")
    if not len(frame):
        raise ValueError(f"{file}: holds no row")
    seq, length, target = names
    items = _matrix(file, frame[seq].tolist(), width)
    stated, targets = _integers(file, frame, length), _integers(file, frame, target)

    outside = (items < 0) | (items > item_num)
    first = items[np.arange(len(items)), outside.argmax(axis=1)]
    refuse_rows(
        file, outside.any(axis=1), f"item {{item}} is outside 0..{item_num} ({item_num} is padding)", item=first
    )
    is_item = items != item_num
    refuse_rows(file, (is_item[:, 1:] & ~is_item[:, :-1]).any(axis=1), f"an item after padding in {seq}")
    lengths = is_item.sum(axis=1)
    # The official files state length 1 for an empty history: their model reads the padding at position 0.
    refuse_rows(
        file,
        stated != np.maximum(lengths, 1),
        f"{length} is {{stated}}, but {seq} holds {{items}} items (an empty history has length 1)",
        stated=stated,
        items=lengths,
    )
    bad = (targets < 0) | (targets >= item_num)
    refuse_rows(file, bad, f"{target} is {{target}}, outside 0..{item_num - 1}", target=targets)
    return Histories(items, lengths, targets)


def _has(frame: pd.DataFrame, names: tuple[str, ...]) -> bool:
    return all(list(frame.columns).count(name) == 1 for name in names)


def _matrix(file: Path, cells: list[Any], width: int) -> np.ndarray[Any, Any]:
    """The lists of a column as an int64 matrix ``[n, width]``."""
    for row, cell in enumerate(cells):
        if not isinstance(cell, (list, tuple, np.ndarray)):
            raise ValueError(f"{file}: row {row}: seq is {cell!r:.40}, expected a list of {width} items")
        if len(cell) != width:
            raise ValueError(
                f"{file}: row {row}: seq holds {len(cell)} entries, expected {width} (seq_size, right-padded)"
            )
    with contextlib.suppress(ValueError):  # numpy makes no matrix of entries that are lists themselves
        matrix = np.array(cells)
        # The official YooChoose and KuaiRec files hold floats (6325.0) among integer padding.
        if matrix.ndim == 2 and matrix.dtype.kind in "iuf" and (abs(matrix) < 2.0**63).all():
            integers = matrix.astype(np.int64)
            if (integers == matrix).all():
                return integers
    for row, cell in enumerate(cells):
        for entry in cell:
            if not _is_whole(entry):
                raise ValueError(f"{file}: row {row}: {entry!r:.40} in seq is not an integer of at most 63 bits")
    return np.array([[int(entry) for entry in cell] for cell in cells])


def _integers(file: Path, frame: pd.DataFrame, column: str) -> np.ndarray[Any, Any]:
    """A column of integers, which may be stored as floats, as int64 ``[n]``."""
    values = frame[column].to_numpy()
    bad = np.array([not _is_whole(value) for value in values])
    refuse_rows(file, bad, f"{column} is {{value}}, not an integer", value=values)
    return values.astype(np.int64)


def _is_whole(value: Any) -> bool:
    """Whether a value is an integer that int64 holds, be it stored as a float."""
    is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    return bool(is_number and abs(value) < 2**63 and value == int(value))
