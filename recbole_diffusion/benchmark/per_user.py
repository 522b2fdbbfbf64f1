"""The metrics of each test user, in a compressed file beside the record of the run.

Users are in the order of their names (RecBole's tokens), so that two files of the same users can be compared value by value;
the names themselves would be most of the file, and the record has their hash. A user may have several rows (targets of a
sequential model): ``rows`` counts them, and all other arrays have a value for each row.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_diffusion.benchmark.record import write_record
from recbole_diffusion.settings import SettingsError


def users_file(record_file: str | Path) -> Path:
    """The file of the users' values beside a record; a record under way (``.running``) has that of the finished one."""
    path = Path(record_file)
    name = path.name.removesuffix(".json").removesuffix(".running")
    return path.with_name(f"{name}.users.npz")


def write_users(file: Path, tokens: Sequence[str], values: dict[str, np.ndarray]) -> dict[str, Any]:
    """Writes the values of each user, whole or not at all; the bytes depend on nothing else.

    Args:
        file: ``*.users.npz``.
        tokens: name of each row's user.
        values: of each row, by metric.

    Returns:
        For the record: ``file`` (its name), its ``sha256``, ``users`` (how many) and ``users_sha256`` (of their names).
    """
    named = np.asarray(tokens, dtype=str)
    order = np.argsort(named, kind="stable")
    users, rows = np.unique(named, return_counts=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as target:
            np.savez_compressed(target, rows=rows.astype(np.int32), **{name: of_row[order] for name, of_row in values.items()})
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)
    names = hashlib.sha256("\n".join(users).encode()).hexdigest()
    return {"file": file.name, "sha256": _sha256(file), "users": len(users), "users_sha256": names}


def read_users(record: dict[str, Any], folder: Path) -> dict[str, np.ndarray]:
    """The mean of each user's rows, ``[users]`` by metric, in the order of the users' names; empty without a file.

    Args:
        record: of a run, of any age.
        folder: of the record.

    Raises:
        SettingsError: the file is gone, or not the one that the record names by its hash.
    """
    about = record.get("per_user")
    if about is None:
        return {}
    file = folder / about["file"]
    if not file.is_file():
        raise SettingsError(f"{file}: not there, and its record says that it is; run again, or restore it")
    if _sha256(file) != about["sha256"]:
        raise SettingsError(f"{file}: not the file that its record names (sha256); run again, or restore it")
    with np.load(file) as arrays:
        rows = arrays["rows"]
        first = np.cumsum(rows) - rows
        return {name: np.add.reduceat(arrays[name].astype(np.float64), first) / rows for name in arrays.files if name != "rows"}


def drop_trials(folder: Path) -> None:
    """Removes the users' values of trials that were not chosen: rows of pages are tested, trials are not.

    The chosen trial is the run of its row with that seed, and says so; until it does, its row's trials keep theirs.
    """
    records = {file: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))}
    labelled = {file: record | record["benchmark"] for file, record in records.items() if "benchmark" in record}
    chosen = {(run["name"], run["row"], run["seed"]) for run in labelled.values() if run["role"] == "seed"}
    for file, run in labelled.items():
        if run["role"] == "trial" and run.get("per_user") and (run["name"], run["row"], run["seed"]) in chosen:
            write_record(records[file] | {"per_user": None}, file)
            (folder / run["per_user"]["file"]).unlink(missing_ok=True)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
