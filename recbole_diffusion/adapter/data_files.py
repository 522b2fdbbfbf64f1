"""RecBole's atomic files, checked before RecBole reads them.

RecBole reads a row with a missing column as one with an empty cell, shifts all columns where each row has one too many, and
fails on the rest with an error of pandas' that names no file. Each error here names file and line.
"""

from __future__ import annotations

import codecs
import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_diffusion.settings import SettingsError, shortened

_TYPES = ("token", "token_seq", "float", "float_seq")


def check_data_files(config: Any) -> None:
    """Checks the files of a data set that RecBole is about to read.

    Raises:
        SettingsError: the first file that is malformed, with the line, what is wrong and what to do.
    """
    folder, name = Path(config["data_path"]), config["dataset"]
    parts = [f"{part}.inter" for part in config["benchmark_filename"] or ()] or ["inter"]
    for suffix in (*parts, "user", "item", *(config["additional_feat_suffix"] or ())):
        kind = "inter" if suffix in parts else suffix
        file = folder / f"{name}.{suffix}"
        if file.is_file() and (config["load_col"] is None or kind in config["load_col"]):
            _check_file(config, file, kind, may_have_no_rows=[suffix] == parts[1:2])


def check_sizes(config: Any, dataset: Any) -> None:
    """Refuses settings that ask for more items or users than there are.

    Raises:
        SettingsError: the setting, and how many there are.
    """
    items, users = dataset.item_num - 1, dataset.user_num - 1
    if max(config["topk"]) > items:
        raise SettingsError(f"topk = {config['topk']}: must be at most the number of items, {items}")
    rank, most = config.external_config_dict.get("svd_rank"), min(users, items) - 1
    if rank is not None and config["item_embeddings"] is None and config["svd_rank"] > max(most, 1):
        raise SettingsError(f"svd_rank = {rank}: must be at most {most}, one less than there are items or users")


def _check_file(config: Any, file: Path, kind: str, may_have_no_rows: bool) -> None:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise SettingsError(f"{file}: cannot be read: {error.strerror}") from error
    text = _decoded(file, content, config["encoding"] or "utf-8")
    # RecBole's reader takes every kind of line end.
    lines = io.StringIO(text, newline=None)
    head = lines.readline().rstrip("\n")
    separator = config["field_separator"]
    columns = _columns(file, head, separator)
    _check_columns(config, file, kind, columns)
    if not lines.read().strip():
        if may_have_no_rows:  # a validation part: nothing is selected then
            return
        raise SettingsError(f"{file}: has no rows below its first line")
    if len(separator) == 1:
        _check_widths(file, text, separator, len(columns))
    _check_numbers(config, file, kind, text, separator, columns)


def _decoded(file: Path, content: bytes, encoding: str) -> str:
    if not content.strip():
        raise SettingsError(f"{file}: is empty; its first line must name the columns, such as 'user_id:token'")
    is_utf8 = codecs.lookup(encoding).name == "utf-8"
    if is_utf8 and content.startswith(codecs.BOM_UTF8):
        raise SettingsError(
            f"{file}: line 1 begins with a byte order mark; save as UTF-8 without it, or set encoding='utf-8-sig'"
        )
    try:
        text = content.decode(encoding)
    except (UnicodeError, LookupError) as error:
        before = content[: error.start] if isinstance(error, UnicodeDecodeError) else b""
        line = before.count(b"\n") + 1
        raise SettingsError(f"{file}: line {line} is not {encoding}; save the file as UTF-8, or set encoding") from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise SettingsError(f"{file}: line {line} holds a NUL byte, so this is no text file")
    return text


def _columns(file: Path, head: str, separator: str) -> dict[str, str]:
    """The types of the columns by their names, from the first line."""
    fields = head.split(separator)
    columns: dict[str, str] = {}
    for field in fields:
        name, colon, kind = field.rpartition(":")
        if not colon or kind not in _TYPES or not name or ":" in name:
            hint = next((mark for mark in (",", "\t", ";", "|", " ") if mark != separator and mark in field), None)
            told = f"; it is separated by {hint!r}, not by field_separator = {separator!r}" if hint else ""
            raise SettingsError(
                f"{file}: line 1: column {shortened(field)}: must be name:type, of type {', '.join(_TYPES)}{told}"
            )
        if name in columns:
            raise SettingsError(f"{file}: line 1: column {name!r} is there twice")
        columns[name] = kind
    return columns


def _check_columns(config: Any, file: Path, kind: str, columns: dict[str, str]) -> None:
    user, item, time = (config[f"{field}_FIELD"] for field in ("USER_ID", "ITEM_ID", "TIME"))
    asked = (config["load_col"] or {}).get(kind)
    needed = {"inter": [user, item], "user": [user], "item": [item]}.get(kind, [])
    if kind == "inter" and not config["benchmark_filename"] and config["eval_args"]["order"] == "TO":
        needed.append(time)
    for name in filter(None, needed):
        if name not in columns:
            raise SettingsError(f"{file}: line 1: no column {name!r}, only {', '.join(columns)}")
        if isinstance(asked, (list, tuple)) and name not in asked:
            raise SettingsError(
                f"{file}: column {name!r} is needed, but load_col = {config['load_col']}; "
                f"add it: --load_col=\"{config['load_col'] | {kind: [*asked, name]}}\""
            )
        wanted = "float" if name == time else "token"
        if columns[name] != wanted and not (name == time and columns[name] == "token"):
            raise SettingsError(f"{file}: line 1: column {name!r} is of type {columns[name]}; must be {wanted}")
    for name in asked if isinstance(asked, (list, tuple)) else ():
        if name not in columns:
            raise SettingsError(f"{file}: line 1: no column {name!r}, which load_col asks for; only {', '.join(columns)}")


def _check_widths(file: Path, text: str, separator: str, width: int) -> None:
    """Checks that each line has as many cells as the first one."""
    if '"' in text:  # quoted cells may hold separators: slower, but as pandas takes them
        try:
            rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
            wrong = next(((rows.line_num, len(row)) for row in rows if row and len(row) != width), None)
        except csv.Error as error:
            raise SettingsError(f"{file}: line {rows.line_num}: {error}") from error
    else:
        data = np.frombuffer(text.replace("\r\n", "\n").replace("\r", "\n").encode(), dtype=np.uint8)
        ends = np.flatnonzero(np.append(data, 10) == 10)
        cells = np.searchsorted(np.flatnonzero(data == ord(separator)), ends)
        counts = np.diff(cells, prepend=0) + 1
        filled = np.diff(ends, prepend=-1) > 1  # blank lines are skipped
        lines = np.flatnonzero(filled & (counts != width))
        wrong = (int(lines[0]) + 1, int(counts[lines[0]])) if len(lines) else None
    if wrong:
        line, found = wrong
        raise SettingsError(
            f"{file}: line {line} has {found} cell{'s' * (found != 1)}, its first line {width}, "
            f"separated by field_separator = {separator!r}"
        )


def _check_numbers(config: Any, file: Path, kind: str, text: str, separator: str, columns: dict[str, str]) -> None:
    """Checks that the float columns that are loaded hold numbers; an empty cell is RecBole's to fill."""
    asked, left_out = ((config[key] or {}).get(kind) for key in ("load_col", "unload_col"))
    loaded = [name for name in columns if (asked in (None, "*") or name in asked) and name not in (left_out or ())]
    floats = [f"{name}:{columns[name]}" for name in loaded if columns[name] == "float"]
    lists = [f"{name}:float_seq" for name in loaded if columns[name] == "float_seq"]
    if not floats and not lists:
        return
    try:
        frame = pd.read_csv(io.StringIO(text), sep=separator, usecols=floats + lists, dtype=str, skip_blank_lines=False)
    except ValueError as error:
        raise SettingsError(f"{file}: cannot be read: {' '.join(str(error).split())}") from error
    for column in floats:
        cells = frame[column]
        wrong = np.flatnonzero(cells.notna() & pd.to_numeric(cells, errors="coerce").isna())
        _refuse(file, column, wrong, cells)
    for column in lists:
        cells = frame[column].fillna("")
        wrong = np.flatnonzero([not all(map(_is_number, cell.split(config["seq_separator"]))) for cell in cells])
        _refuse(file, column, wrong, cells)


def _is_number(text: str) -> bool:
    try:
        return text == "" or float(text) is not None
    except ValueError:
        return False


def _refuse(file: Path, column: str, wrong: Any, cells: Any) -> None:
    if len(wrong):
        cell = shortened(cells.iloc[wrong[0]])
        raise SettingsError(f"{file}: line {int(wrong[0]) + 2}: column {column} holds {cell}, which is no number")
