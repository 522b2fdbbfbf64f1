"""Keeps RecBole from running what data, settings and checkpoints point to: a pickle is read only when the user says so.

RecBole 1.2.1 unpickles a data set or data loaders that ``dataset_save_path`` and ``dataloaders_save_path`` name, or that lie in
``checkpoint_dir`` under the names it gives them, and some of its models unpickle a pretrained model or item embeddings. Whoever
writes such a file, or the settings that name it, runs code on the reader's machine. :func:`install` guards these places for
every entry, RecBole's own scripts included. :func:`trust_pickles` is the one way past it, and no setting is: settings come with
data sets and checkpoints.

A pickled data set that RecBole finds by itself is passed over with a warning and made again from the atomic files; a pickle
that a setting names is an error.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from logging import getLogger
from typing import Any

import numpy as np
import recbole.data.utils
import recbole.model.general_recommender.ldiffrec as stock_ldiffrec  # before ours takes its place in sys.modules
import torch

from recbole_diffusion.adapter.patch import ChangedModule, replace
from recbole_diffusion.settings import SettingsError

_trusted: ContextVar[bool] = ContextVar("trusted", default=False)
_NOWHERE = os.path.join(os.devnull, "none")
_READS_TORCH = (
    "context_aware_recommender.kd_dagfm",
    "general_recommender.convncf",
    "general_recommender.nais",
    "general_recommender.neumf",
    "general_recommender.ract",
    "sequential_recommender.s3rec",
)


@contextlib.contextmanager
def trust_pickles(trust: bool = True) -> Iterator[None]:
    """Reads pickles inside the ``with`` block, which **can run any code** that their writers put into them."""
    token = _trusted.set(trust or _trusted.get())
    try:
        yield
    finally:
        _trusted.reset(token)


def install() -> None:
    """Guards every place where RecBole reads a pickle; a second call changes nothing."""
    utils = recbole.data.utils
    replace(utils, "pickle", lambda original: ChangedModule(original, load=_load_pickle))
    for name, key in (("create_dataset", "dataset_save_path"), ("load_split_dataloaders", "dataloaders_save_path")):
        replace(utils, name, lambda original, key=key: _passing_over(original, key), everywhere=True)
    for path in _READS_TORCH:
        module = importlib.import_module(f"recbole.model.{path}")
        replace(module, "torch", lambda original: ChangedModule(original, load=_load_torch))
    replace(stock_ldiffrec, "np", lambda original: ChangedModule(original, load=_load_array))


def kind_of(path: str) -> str | None:
    """What a file looks like: a torch ``"archive"``, a bare ``"pickle"``, or None.

    Only an archive may go to ``torch.load`` unasked: for TorchScript archives and tar files, torch before 2.6 forgets
    that it was told ``weights_only=True`` (CVE-2025-32434).
    """
    with open(path, "rb") as file:
        start = file.read(4)
    if start != b"PK\x03\x04":
        return "pickle" if start[:1] == b"\x80" else None
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()}
    except Exception:  # what zipfile raises for a damaged directory depends on where the damage is
        return None
    return "archive" if "data.pkl" in names and "constants.pkl" not in names else None


class _Untrusted(Exception):
    """A pickle that nobody has said to trust; the argument is its path."""


def _refusal(path: Any, key: str = "") -> SettingsError:
    named = f"{key} = " if key else ""
    return SettingsError(
        f"{named}{str(path)!r}: a pickle, and reading one can run any code; if you trust its writer, add --trust-pickle "
        "(in Python: with recbole_diffusion.trust_pickles(): ...)"
    )


def _load_pickle(file: Any) -> Any:
    if not _trusted.get():
        raise _Untrusted(file.name)
    return pickle.load(file)


def _passing_over(original: Callable[[Any], Any], key: str) -> Callable[[Any], Any]:
    """Lets RecBole work without the pickle that it found by itself; refuses one that the setting ``key`` names."""

    def guarded(config: Any) -> Any:
        try:
            return original(config)
        except _Untrusted as found:
            named, path = config[key], found.args[0]
        if named:
            raise _refusal(path, key)
        getLogger().warning(f"{path} is not read: it is a pickle, and reading one can run any code (--trust-pickle reads it)")
        config[key] = _NOWHERE
        try:
            return original(config)
        finally:
            config[key] = named

    return guarded


def _load_torch(file: Any, *args: Any, **kwargs: Any) -> Any:
    if _trusted.get():
        return torch.load(file, *args, **{"weights_only": False} | kwargs)
    if kind_of(file) == "archive":
        with contextlib.suppress(pickle.UnpicklingError):  # holds more than tensors and plain data
            return torch.load(file, *args, **kwargs | {"weights_only": True})
    raise _refusal(file)


def _load_array(file: Any, **kwargs: Any) -> Any:
    if _trusted.get():
        return np.load(file, **kwargs)
    try:
        return np.load(file, **kwargs | {"allow_pickle": False})
    except ValueError as error:
        raise _refusal(file) from error
