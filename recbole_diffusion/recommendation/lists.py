"""Recommended lists, and the files that they are written to."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from recbole_diffusion.settings import SettingsError

SUFFIXES = (".csv", ".parquet", ".jsonl")
STDOUT = "-"


@dataclasses.dataclass(frozen=True)
class Lists:
    """Lists of B users or histories, in original ids.

    Attributes:
        label: what they are of, ``user`` or ``history``.
        ids: ``[B]``.
        items: ``[B, k]``, best first.
        scores: ``[B, k]``.
        listed: bool ``[B, k]``, False where there were fewer than k items to recommend.
        names: of the items, ``[B, k]``, or None.
    """

    label: str
    ids: np.ndarray[Any, Any]
    items: np.ndarray[Any, Any]
    scores: np.ndarray[Any, Any]
    listed: np.ndarray[Any, Any]
    names: np.ndarray[Any, Any] | None = None

    def frame(self) -> pd.DataFrame:
        """A row for every item: the user or history, the rank from 1, the item, its score and name."""
        row, column = np.nonzero(self.listed)
        columns = {self.label: self.ids[row], "rank": column + 1, "item": self.items[row, column]}
        columns["score"] = self.scores[row, column]
        if self.names is not None:
            columns["name"] = self.names[row, column]
        return pd.DataFrame(columns)

    def json_lines(self) -> str:
        """A line for every user or history."""
        return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in self._records())

    def _records(self) -> Iterator[dict[str, Any]]:
        for row, (number, listed) in enumerate(zip(self.ids.tolist(), self.listed, strict=True)):
            # The shortest decimal that is the score again; a float32 as a float has twice the digits.
            scores = [float(str(score)) for score in self.scores[row, listed]]
            record = {self.label: number, "items": self.items[row, listed].tolist(), "scores": scores}
            if self.names is not None:
                record["names"] = self.names[row, listed].tolist()
            yield record


def check_file(out: str | Path) -> None:
    """Refuses a file that cannot be written.

    Raises:
        SettingsError: an unknown suffix, no pyarrow for Parquet, or a folder that cannot be made.
    """
    if str(out) == STDOUT:
        return
    suffix = Path(out).suffix
    if suffix not in SUFFIXES:
        raise SettingsError(f"--out {out}: must end in one of {', '.join(SUFFIXES)}")
    if suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise SettingsError(f"--out {out}: Parquet files need the package pyarrow: pip install pyarrow") from error
    try:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"--out {out}: {error.strerror}") from error


@contextmanager
def writing(out: str | Path) -> Iterator[Callable[[Lists], None]]:
    """Opens a file for lists, which are written as they come; the file appears when the block has ended without an error.

    Args:
        out: the file; its suffix is the format. ``-`` is CSV on standard output.
    """
    if str(out) == STDOUT:
        yield _csv(sys.stdout)
        return
    file = Path(out)
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        if file.suffix == ".parquet":
            with _parquet(partial) as write:
                yield write
        else:
            with partial.open("w", encoding="utf-8", newline="") as stream:
                yield _csv(stream) if file.suffix == ".csv" else lambda lists: _write(stream, lists.json_lines())
        os.replace(partial, file)
    except OSError as error:
        raise SettingsError(f"--out {out}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _write(stream: IO[str], text: str) -> None:
    stream.write(text)


def _csv(stream: IO[str]) -> Callable[[Lists], None]:
    header = [True]

    def write(lists: Lists) -> None:
        lists.frame().to_csv(stream, index=False, header=header[0], lineterminator="\n")
        header[0] = False

    return write


@contextmanager
def _parquet(file: Path) -> Iterator[Callable[[Lists], None]]:
    import pyarrow
    import pyarrow.parquet

    writer: list[Any] = []  # made when the first lists say what the columns are

    def write(lists: Lists) -> None:
        table = pyarrow.Table.from_pandas(lists.frame(), preserve_index=False)
        if not writer:
            writer.append(pyarrow.parquet.ParquetWriter(file, table.schema))
        writer[0].write_table(table.cast(writer[0].schema))

    try:
        yield write
    finally:
        for opened in writer:
            opened.close()
