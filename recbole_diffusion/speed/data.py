"""The sizes that are timed, and models on data that are generated for them and read by RecBole."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import init_seed

from recbole_diffusion.adapter.config import build_config
from recbole_diffusion.adapter.lookup import get_model, trainer_of
from recbole_diffusion.adapter.trainer import tracked
from recbole_diffusion.speed.sizes import Size

NAME = "generated"
SEED = 2020


@dataclasses.dataclass
class Loaded:
    """A model with the data loaders and the configuration that RecBole made for it."""

    config: Config
    model: Any
    train: Any
    test: Any

    def counts(self) -> dict[str, float]:
        """What the training part holds."""
        lengths = np.bincount(self.train._dataset.inter_feat["user_id"].numpy())[1:]
        return {
            "items": self.model.n_items - 1,
            "users": len(lengths),
            "training rows": int(lengths.sum()),
            "batches of an epoch": len(self.train),
            "parameters": sum(p.numel() for p in self.model.parameters()),
        }


def interactions(n_items: int, n_users: int, mean_length: float, repetitions: bool = False, seed: int = SEED) -> pd.DataFrame:
    """Generated interactions, in time order for each user: long-tailed in users and in items.

    Lengths are log-normal with sigma = 1 (the mean is e^(1/2) times the median, and one user in 40 has more than seven times
    the median), at least 3. Items are drawn with probability proportional to 1 / (rank + 10), Zipf's law with a flat head.
    Without ``repetitions``, lengths are at most a quarter of the items before a user's repetitions are dropped.
    """
    rng = np.random.default_rng(seed)
    longest = None if repetitions else max(n_items // 4, 3)
    lengths = rng.lognormal(np.log(mean_length) - 0.5, 1.0, n_users).round().clip(3, longest).astype(int)
    popularity = np.cumsum(1.0 / (np.arange(n_items) + 10.0))
    items = np.searchsorted(popularity, rng.random(lengths.sum()) * popularity[-1], side="right").clip(max=n_items - 1)
    table = pd.DataFrame({"user_id:token": np.repeat(np.arange(n_users), lengths), "item_id:token": items})
    if not repetitions:
        table = table.drop_duplicates(ignore_index=True)
    table["timestamp:float"] = np.arange(len(table))
    return table


def write(folder: Path, size: Size, users: int) -> dict[str, Any]:
    """Writes the generated data as RecBole's atomic files into ``folder/generated``; returns the settings that read them.

    DiffRec's come as three given parts, of which the training part is what counts; those of sequential models as one file,
    which RecBole augments and splits.
    """
    target = folder / NAME
    target.mkdir(parents=True)
    table = interactions(size.n_items, users, size.mean_length, size.repetitions)
    # Every item is in the item file, so that the catalogue is whole however few users there are.
    pd.DataFrame({"item_id:token": np.arange(size.n_items)}).to_csv(target / f"{NAME}.item", sep="\t", index=False)
    settings = {
        "data_path": str(folder),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id"]},
    }
    if size.model != "DiffRec":
        table.to_csv(target / f"{NAME}.inter", sep="\t", index=False)
        return settings
    held_out = table.drop_duplicates("user_id:token")
    for part, rows in {"train": table, "valid": held_out, "test": held_out}.items():
        rows.to_csv(target / f"{NAME}.{part}.inter", sep="\t", index=False)
    return settings | {"benchmark_filename": ["train", "valid", "test"]}


def load(model: str, settings: Mapping[str, Any], device: str) -> Loaded:
    """Has RecBole read generated data and build a model on them."""
    quiet = {"state": "ERROR", "show_progress": False, "seed": SEED, "use_gpu": device == "cuda"}
    config = build_config(model, NAME, None, {**settings, **quiet})
    init_seed(SEED, config["reproducibility"])
    train, _, test = data_preparation(config, create_dataset(config))
    return Loaded(config, get_model(model)(config, train._dataset).to(config["device"]), train, test)


def epoch(loaded: Loaded, resumable: bool = False, batches: int | None = None) -> Callable[[], Any]:
    """One training epoch, or the next ``batches``, by RecBole's trainer.

    Ours (``resumable``) is RecBole's with what our command line adds.
    """
    trainer = _trainer(loaded, resumable)
    if batches is None:
        return lambda: trainer._train_epoch(loaded.train, 0, show_progress=False)
    of_all_epochs = itertools.chain.from_iterable(itertools.repeat(loaded.train))
    return lambda: trainer._train_epoch(itertools.islice(of_all_epochs, batches), 0, show_progress=False)


def first_histories(loaded: Loaded, n: int) -> Any:
    """The test part's loader with its first ``n`` rows."""
    dataset = loaded.test.dataset
    return type(loaded.test)(loaded.config, dataset.copy(dataset.inter_feat[:n]), loaded.test._sampler, shuffle=False)


def evaluation(loaded: Loaded, test: Any, resumable: bool = False) -> Callable[[], Any]:
    """One evaluation on a loader's rows, by the same trainers."""
    trainer = _trainer(loaded, resumable)
    return lambda: trainer.evaluate(test, load_best_model=False, show_progress=False)


def _trainer(loaded: Loaded, resumable: bool) -> Any:
    trainer_class = trainer_of(loaded.config)
    return (tracked(trainer_class) if resumable else trainer_class)(loaded.config, loaded.model)
