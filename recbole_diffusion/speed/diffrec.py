"""What is timed of DiffRec."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from recbole.data.interaction import Interaction

from recbole_diffusion.speed import floor
from recbole_diffusion.speed.data import Loaded, epoch, load
from recbole_diffusion.speed.measure import Variant, compare
from recbole_diffusion.speed.peers import copy_weights
from recbole_diffusion.speed.sizes import Task

ALLOWED_DIFFERENCE = 1e-5

# What RecBole's DiffRec reads of ours, so that both are the same model on the same data with the same optimiser.
_SHARED = (
    "steps", "noise_schedule", "noise_scale", "noise_min", "noise_max", "beta_fixed", "mean_type", "reweight",
    "history_num_per_term", "sampling_steps", "sampling_noise", "dims_dnn", "embedding_size", "mlp_act_func",
    "learner", "learning_rate", "weight_decay", "train_batch_size",
)  # fmt: skip


def measure(task: Task) -> dict[str, Any]:
    """Times DiffRec against RecBole's DiffRec with the same weights.

    Returns:
        ``rows`` of the table, ``agreement`` (what must be equal, how far it is from it, and what is allowed), ``data``.
    """
    ours = load("DiffRec", task.settings, task.device)
    shared = {key: ours.config[key] for key in _SHARED} | {"train_neg_sample_args": None}
    stock = load("StockDiffRec", {**task.settings, **shared}, task.device)
    rows = _training(task, ours, stock) if "training" in task.parts else []
    if "scoring" not in task.parts:
        return {"rows": rows, "agreement": [], "data": ours.counts()}
    copy_weights(ours.model.network, stock.model.mlp)
    users = torch.arange(1, min(ours.config["eval_batch_size"], task.users) + 1, device=ours.model.device)
    batch = Interaction({"user_id": users})
    with torch.no_grad():
        rows += _scoring(task, ours.model.eval(), stock.model.eval(), batch)
        agreement = _agreement(ours.model, stock.model, batch)
    return {"rows": rows, "agreement": agreement, "data": ours.counts()}


def plain_loop(model: torch.nn.Module) -> torch.nn.Module:
    """The same model, sharing its weights, that scores step by step in item space."""
    plain = copy.copy(model)
    plain.settings = dataclasses.replace(model.settings, sampler="ancestral")
    return plain


def _training(task: Task, ours: Loaded, stock: Loaded) -> list[dict[str, Any]]:
    batches = [len(batch) for batch in ours.train]
    n_items, hidden = ours.model.n_items - 1, ours.model.settings.dims_dnn
    products = [product for size in batches for product in floor.training_step(size, n_items, hidden)]
    variants = [
        Variant("DiffRec", epoch(ours, resumable=True), floor.work(products)),
        Variant("StockDiffRec", epoch(stock)),
        floor.bare("its matrix products alone", products, task.device),
    ]
    return compare("training epoch", max(batches), variants, task.repeats, task.device)


def _scoring(task: Task, ours: Any, stock: Any, batch: Interaction) -> list[dict[str, Any]]:
    n_items, hidden, steps = ours.n_items - 1, ours.settings.dims_dnn, ours.settings.steps
    plain = plain_loop(ours)

    def forget() -> None:
        ours._composed = None

    products = floor.hidden_chain(len(batch), n_items, hidden, steps)
    in_item_space = floor.work(floor.network(len(batch), n_items, hidden) * steps)
    composed = floor.work([*products, *floor.composition(n_items, hidden)])
    variants = [
        Variant("DiffRec, in hidden space (default)", lambda: ours.full_sort_predict(batch), floor.work(products)),
        Variant("DiffRec, first batch: composes K too", lambda: ours.full_sort_predict(batch), composed, forget),
        Variant("DiffRec, plain loop (sampler: ancestral)", lambda: plain.full_sort_predict(batch), in_item_space),
        Variant("StockDiffRec", lambda: stock.full_sort_predict(batch), in_item_space),
        floor.bare("default's matrix products alone", products, task.device),
    ]
    return compare("scoring", len(batch), variants, task.repeats, task.device)


def _agreement(ours: Any, stock: Any, batch: Interaction) -> list[dict[str, Any]]:
    scores = ours.full_sort_predict(batch)[:, 1:]
    others = {"the plain loop": plain_loop(ours), "StockDiffRec": stock}
    return [
        {
            "what": f"largest score difference from {name}",
            "value": float((scores - other.full_sort_predict(batch)[:, 1:]).abs().max()),
            "allowed": ALLOWED_DIFFERENCE,
        }
        for name, other in others.items()
    ]
