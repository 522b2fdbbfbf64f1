"""Hangs the plugin into RecBole: repairs, models, data loaders, settings, checkpoints, trainers, metrics."""

from __future__ import annotations

import sys

from recbole_diffusion.adapter import repairs

# RecBole's modules do not import on today's numpy, ray and setuptools until they are repaired.
repairs.apply()

import recbole.data.dataset  # noqa: E402
import recbole.data.utils  # noqa: E402
import recbole.model.general_recommender  # noqa: E402
import recbole.model.sequential_recommender  # noqa: E402
import recbole.quick_start.quick_start  # noqa: E402
import recbole.trainer  # noqa: E402
import recbole.utils.utils  # noqa: E402

from recbole_diffusion.adapter import (  # noqa: E402
    checkpoint,
    config,
    corrections,
    eval_input,
    given_histories,
    lookup,
    metrics,
    parts,
    pickles,
    precision,
    prefixes,
    processes,
    seen_items,
    time_order,
    time_split,
)
from recbole_diffusion.adapter.patch import replace  # noqa: E402
from recbole_diffusion.registry import MODELS, Model  # noqa: E402


def install() -> None:
    """Makes RecBole find our models, settings, data loaders and checkpoints; a second call changes nothing."""
    replace(recbole.data.utils, "get_dataloader", lambda original: lookup.get_dataloader, everywhere=True)
    replace(recbole.utils.utils, "get_model", lambda original: lookup.get_model, everywhere=True)
    replace(recbole.quick_start.quick_start, "run_recboles", lambda original: lookup.run_recboles, everywhere=True)
    pickles.install()
    time_order.install()
    prefixes.install()
    given_histories.install()
    seen_items.install()
    time_split.install()
    config.install()
    parts.install()
    eval_input.install()
    metrics.install()
    checkpoint.install()
    corrections.install()
    precision.install()
    processes.install()
    # RecBole's classes of the same name are loaded before their module names point to ours.
    for model in sorted(MODELS.values(), key=lambda model: not model.stock_yaml):
        _alias(model)
        trainer = lookup.named_trainer(model)
        if trainer is not None and not hasattr(recbole.trainer, trainer.__name__):
            setattr(recbole.trainer, trainer.__name__, trainer)  # where RecBole's get_trainer looks first
        if model.packs:  # where RecBole's create_dataset looks first
            setattr(recbole.data.dataset, f"{model.name}Dataset", lookup.named_dataset(model))


def _alias(model: Model) -> None:
    """Lets ``recbole.model.<task>.<name>`` be our module, for code that looks models up by path."""
    cls = model.load()
    package = sys.modules[f"recbole.model.{model.task}"]
    sys.modules[f"{package.__name__}.{model.name.lower()}"] = sys.modules[cls.__module__]
    setattr(package, model.name, cls)
