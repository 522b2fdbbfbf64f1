"""What RecBole looks up by a model's name: the class and its data loaders. The plugin's models come first."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import recbole.data.utils
import recbole.quick_start.quick_start
import recbole.utils

from recbole_diffusion.adapter import loaders, sequences
from recbole_diffusion.registry import MODELS, Model, closest, find, model_of, stock_models
from recbole_diffusion.settings import SettingsError

_TASKS = ("general_recommender", "sequential_recommender", "context_aware_recommender", "knowledge_aware_recommender")

# RecBole's own, taken before anything replaces them.
_stock_get_dataloader = recbole.data.utils.get_dataloader
_stock_run_recboles = recbole.quick_start.quick_start.run_recboles


def get_model(name: str) -> type:
    """The class of a model, the plugin's first; replaces RecBole's lookup.

    RecBole's own answers an unknown name with ``No module named 'lightgbm'`` (RecBole #2172).

    Raises:
        SettingsError: unknown name; the text holds the closest matches.
    """
    model = find(name)
    if model:
        return model.load()
    for task in (*_TASKS, "exlib_recommender") if name in ("lightgbm", "xgboost") else _TASKS:
        path = f"recbole.model.{task}.{name.lower()}"
        if importlib.util.find_spec(path) is not None:
            found = getattr(importlib.import_module(path), name, None)
            if found is not None:
                return found
    raise SettingsError(
        f"unknown model {name!r}{closest(name, [*MODELS, *stock_models()])}; `recbole-diffusion models` lists them all"
    )


def get_dataloader(config: Any, phase: str) -> Any:
    """The class of a model's data loader; RecBole's own table is keyed by the names of its models."""
    model = model_of(config.model_class)
    if model is None:
        return _stock_get_dataloader(config, phase)
    if phase == "train" and model.stock_yaml:
        return recbole.data.utils.UserDataLoader
    if phase == "train" and model.reads_history:
        return loaders.HistoryDataLoader
    if phase == "train" and model.packs and config["train_positions"] == "all":
        return sequences.SequenceDataLoader
    if phase != "train" and model.reads_history and config["eval_args"]["mode"][phase] == "full":
        return loaders.UserBatchEvalDataLoader
    return _stock_get_dataloader(config, phase)


def trainer_of(config: Any) -> type:
    """The trainer's class of a model: the plugin's, or what RecBole chooses."""
    model = model_of(config.model_class)
    own = model.load_trainer() if model else None
    # No trainer of RecBole's is called "-Trainer", so that it goes by the kind of the model.
    return own or recbole.utils.get_trainer(config["MODEL_TYPE"], "-" if find(config["model"]) else config["model"])


def named_trainer(model: Model) -> type | None:
    """The trainer's class that RecBole's ``get_trainer`` finds by the name of a model; None for a model without its own.

    A user's own class may bear the name of one of ours; it gets RecBole's trainer from ``__new__``, since the name is all
    that ``get_trainer`` is told.
    """
    own, cls = model.load_trainer(), model.load()
    if own is None:
        return None

    def __new__(trainer: type, config: Any, network: Any) -> Any:
        return object.__new__(trainer) if isinstance(network, cls) else trainer_of(config)(config, network)

    return type(own.__name__, (own,), {"__new__": __new__, "__module__": own.__module__, "__doc__": own.__doc__})


def run_recboles(rank: int, *args: Any) -> None:
    """RecBole's worker of a multi-process run. A spawned process imports this module, hence the plugin, to find it."""
    _stock_run_recboles(rank, *args)
