"""Converts the papers' own data files to RecBole atomic files with the YAML settings that read them.

``convert("diffrec", "datasets/ml-1m_clean", "dataset")`` writes ``dataset/ml-1m_clean/``; after that
``--dataset=ml-1m_clean --data_path=dataset`` runs on it. The source's ids stay as RecBole's tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_diffusion.convert import dataset_yaml, formats, ratings, sessions
from recbole_diffusion.convert.atomic import check_name, check_target, write_folder
from recbole_diffusion.convert.report import PartCount, Report, count, count_pairs, overlaps


@dataclasses.dataclass(frozen=True)
class _Converted:
    """A data set before it is written: tables by file ending, YAML settings, and the report's content."""

    tables: Mapping[str, pd.DataFrame]
    settings: str
    parts: tuple[PartCount, ...]
    total: PartCount
    notes: tuple[str, ...] = ()


def convert(
    kind: str,
    src: str | Path,
    dst: str | Path,
    name: str | None = None,
    force: bool = False,
    min_rating: float | None = None,
) -> Report:
    """Converts one data set to ``dst/name/``.

    Args:
        kind: the source's format, one of :data:`KINDS`.
        src: folder with the source's files; for ``s3rec`` the file; for ``ratings`` either.
        dst: folder of data sets, RecBole's ``data_path``; created if need be.
        name: the data set's name; that of ``src`` if not given.
        force: replace what an earlier conversion wrote there.
        min_rating: keep only the interactions with at least this rating (``ratings`` only).

    Returns:
        What was written.

    Raises:
        ValueError: unknown kind or name, a target that exists, or a malformed source; one line that names the file and
            the row. Nothing is written then.
        OSError: the disk's own errors while writing; nothing is left then.
    """
    if kind not in KINDS:
        raise ValueError(f"kind = {kind!r}: must be one of {', '.join(KINDS)}")
    if min_rating is not None and kind != "ratings":
        raise ValueError(f"min_rating = {min_rating:g}: only ratings have a threshold, kind = {kind!r} has no ratings")
    src, resolved = Path(src), Path(src).resolve()
    if name is None:
        name = resolved.stem if resolved.is_file() else resolved.name
    check_name(name)
    folder = Path(dst) / name
    check_target(folder, force)
    converted = _ratings(src, name, min_rating) if kind == "ratings" else KINDS[kind](src, name)
    write_folder(folder, converted.tables, converted.settings, force)
    return Report(name, folder, converted.parts, converted.total, converted.notes)


# ----------------------------------------------------------------------------------------------- one function per kind


def _diffrec(src: Path, name: str) -> _Converted:
    parts = formats.read_diffrec(src)
    tables = _timed(parts)
    # Sequential models take no parts without histories; they get the same interactions as one file.
    tables["inter"] = pd.concat(tables.values(), ignore_index=True)
    settings = dataset_yaml.DIFFREC.format(name=name)
    return _Converted(tables, settings, *count_pairs(parts), notes=overlaps(parts))


def _lightgcn(src: Path, name: str) -> _Converted:
    parts, without_items = formats.read_lightgcn(src)
    notes = list(overlaps(parts))
    validation = "RecBole selects on its validation part."
    if without_items:
        notes.append(f"{without_items:,} users have a line but no item in any part, and get no id")
    if not len(parts["valid"]):
        # Cutting a validation part out of the training part would be another data set under the same name.
        validation = "It has no validation part: RecBole trains for all epochs and tests the last."
        notes.append(
            "no valid.txt: the validation part is empty, so training runs for all epochs and the last is tested"
        )
    tables = {f"{part}.inter": _pair_table(pairs) for part, pairs in parts.items()}
    settings = dataset_yaml.LIGHTGCN.format(name=name, validation=validation)
    return _Converted(tables, settings, *count_pairs(parts), notes=tuple(notes))


def _s3rec(src: Path, name: str) -> _Converted:
    parts = {"all": formats.read_s3rec(src)}
    tables = {"inter": _timed(parts)["all.inter"]}
    return _Converted(tables, dataset_yaml.S3REC.format(name=name), *count_pairs(parts))


def _dreamrec(src: Path, name: str) -> _Converted:
    parts, item_num = sessions.read_dreamrec(src)
    longest = max(int(part.lengths.max()) for part in parts.values())
    if longest == 0:
        raise ValueError(f"{src}: every history is empty")
    tables = {f"{part}.inter": _history_table(part, rows) for part, rows in parts.items()}
    users = {part: tables[f"{part}.inter"]["session_id:token"] for part in parts}
    items = {part: np.append(rows.items[rows.items != item_num], rows.targets) for part, rows in parts.items()}
    empty = {part: int((rows.lengths == 0).sum()) for part, rows in parts.items()}
    tables["item"] = pd.DataFrame({"item_id:token": np.arange(item_num)})
    counts, total = count(users, items, empty)
    notes = []
    if total.items < item_num:
        notes.append(
            f"{item_num - total.items:,} of the catalogue's {item_num:,} items occur nowhere; they are ranked too"
        )
    settings = dataset_yaml.DREAMREC.format(name=name, length_line=f"MAX_ITEM_LIST_LENGTH: {longest}".ljust(40))
    return _Converted(tables, settings, counts, total, tuple(notes))


def _ratings(src: Path, name: str, min_rating: float | None = None) -> _Converted:
    parts = ratings.read_ratings(src)
    read = sum(map(len, parts.values()))
    notes = []
    if min_rating is not None:
        parts = ratings.at_least(parts, min_rating, src)
        notes.append(f"{read - sum(map(len, parts.values())):,} of {read:,} ratings are below {min_rating:g} and left out")
    repeated = int(pd.concat(parts.values()).duplicated(["user", "item"]).sum())
    if repeated:
        notes.append(f"{repeated:,} rows repeat an earlier pair of user and item; RecBole keeps them")
    if "valid" in parts and not len(parts["valid"]):
        notes.append("the validation part is empty, so training runs for all epochs and the last is tested")
    names = {"user": "user_id:token", "item": "item_id:token", "rating": "rating:float", "time": "timestamp:float"}
    tables = {f"{part}.inter".removeprefix("all."): table.rename(columns=names) for part, table in parts.items()}
    columns = list(next(iter(parts.values())).columns)
    settings = dataset_yaml.ratings(name, columns, min_rating, given_parts="all" not in parts)
    users, items = ({part: table[column] for part, table in parts.items()} for column in ("user", "item"))
    return _Converted(tables, settings, *count(users, items), notes=tuple(notes))


KINDS: dict[str, Callable[[Path, str], _Converted]] = {
    "diffrec": _diffrec,
    "dreamrec": _dreamrec,
    "s3rec": _s3rec,
    "lightgcn": _lightgcn,
    "ratings": _ratings,
}
"""The known formats: how to read each."""


# -------------------------------------------------------------------------------------------------------- their pieces


def _pair_table(pairs: np.ndarray[Any, Any]) -> pd.DataFrame:
    return pd.DataFrame({"user_id:token": pairs[:, 0], "item_id:token": pairs[:, 1]})


def _timed(parts: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, pd.DataFrame]:
    """Tables of (user, item, position in the user's list); positions go on from one part to the next."""
    pairs = np.concatenate(list(parts.values()))
    whole = _pair_table(pairs)
    whole["timestamp:float"] = whole.groupby("user_id:token", sort=False).cumcount()
    ends = np.cumsum([len(part) for part in parts.values()])
    return {
        f"{part}.inter": whole.iloc[end - len(pairs) : end]
        for (part, pairs), end in zip(parts.items(), ends.tolist(), strict=True)
    }


def _history_table(part: str, histories: sessions.Histories) -> pd.DataFrame:
    session = pd.Series(histories.sessions()).astype(str).radd(f"{part}-session-")
    row = pd.Series(np.arange(len(session))).astype(str).radd(f"{part}-")
    lists = [
        " ".join(map(str, items[:length]))
        for items, length in zip(histories.items.tolist(), histories.lengths.tolist(), strict=True)
    ]
    return pd.DataFrame(
        {
            "user_id:token": session if part == "train" else row,
            "session_id:token": session,
            "item_id_list:token_seq": lists,
            "item_id:token": histories.targets,
        }
    )
