"""Puts a finished folder of RecBole atomic files in place, whole or not at all."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

# RecBole has files of its own under these names: a data set in its package, and YAML files that it reads as settings.
_RESERVED = ("ml-100k", "sample", "url", "kg_url")


def check_name(name: str) -> None:
    """Refuses a data set name that does not work as a folder name or with RecBole.

    Raises:
        ValueError: anything but letters, digits, dots, underscores and hyphens, or a name that RecBole uses itself.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        raise ValueError(
            f"name = {name!r}: must be letters, digits, '.', '_' and '-', and start with a letter, a digit or '_'"
        )
    if name in _RESERVED:
        raise ValueError(f"name = {name!r}: RecBole reads a file of its own under this name; choose another")


def check_target(folder: Path, force: bool) -> None:
    """Refuses a target folder that is in the way.

    Raises:
        ValueError: the folder exists and ``force`` is off, or it holds anything that :func:`write_folder` would not
            have written there, so that ``force`` cannot delete a wrong folder.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ValueError(f"{folder}: exists and is not a folder")
    if not folder.exists():
        return
    if not force:
        raise ValueError(f"{folder}: exists already; --force replaces it")
    written = re.compile(
        rf"{re.escape(folder.name)}(\.(train|valid|test))?\.inter|{re.escape(folder.name)}\.(item|yaml)"
    )
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not path.is_file() or not written.fullmatch(path.name):
            raise ValueError(
                f"{folder}: not replaced, because {path.name} in it is not a converted file; remove it yourself"
            )


def write_folder(folder: Path, tables: Mapping[str, pd.DataFrame], settings: str, force: bool) -> None:
    """Writes ``folder`` with one tab-separated file per table and the YAML settings.

    Everything goes into a hidden folder beside the target, which is then renamed. A process that is killed leaves the
    target as it was (and the hidden folder); an error leaves nothing.

    Args:
        folder: the target; its name is the data set's name.
        tables: for each file ending (``train.inter``, ``item``) its table, with typed RecBole headers as columns.
        settings: content of the YAML file.
        force: replace an existing target.

    Raises:
        ValueError: see :func:`check_target`.
        OSError: the disk's own errors.
    """
    check_target(folder, force)
    folder.parent.mkdir(parents=True, exist_ok=True)
    stem = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:12]}"
    new, old = Path(f"{stem}.new"), Path(f"{stem}.old")
    try:
        new.mkdir()
        for ending, table in tables.items():
            table.to_csv(new / f"{folder.name}.{ending}", sep="\t", index=False, lineterminator="\n", encoding="utf-8")
        (new / f"{folder.name}.yaml").write_text(settings, encoding="utf-8")
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(new, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
