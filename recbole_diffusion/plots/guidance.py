"""What guidance buys and costs: accuracy and coverage of DreamRec's lists against the guidance scale w."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from recbole.utils import get_trainer
from tqdm import tqdm

from recbole_diffusion.plots.figure import new_figure
from recbole_diffusion.settings import SettingsError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def guidance_curve(
    config: Any, model: Any, train: Any, data: Any, scales: Sequence[float], k: int = 10
) -> list[dict[str, float]]:
    """Evaluates a trained DreamRec at several guidance scales; nothing is trained.

    Args:
        config: RecBole ``Config`` of the run.
        model: a trained model with a setting ``guidance_scale``.
        train: RecBole's loader of the training part, whose items coverage is a share of.
        data: its loader of the part to evaluate.
        scales: values of w, >= 0.
        k: length of the lists.

    Returns:
        For each w: ``guidance_scale``, ``ndcg`` at k, and ``coverage``, the share of all items that are in at least one list.

    Raises:
        SettingsError: a model without guidance.
    """
    if not hasattr(model.settings, "guidance_scale"):
        raise SettingsError(f"{config['model']} has no guidance scale; DreamRec has")
    rows = []
    with _settings_kept(config, model):
        config["metrics"], config["topk"], config["valid_metric"] = ["NDCG", "ItemCoverage"], [k], f"NDCG@{k}"
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
        trainer.eval_collector.data_collect(train)
        for scale in tqdm(scales, leave=False, disable=None):
            model.settings = dataclasses.replace(model.settings, guidance_scale=float(scale))
            result = trainer.evaluate(data, load_best_model=False)
            # RecBole counts the padding item as one that could have been recommended.
            coverage = result[f"itemcoverage@{k}"] * model.n_items / (model.n_items - 1)
            rows.append({"guidance_scale": scale, "ndcg": result[f"ndcg@{k}"], "coverage": coverage})
    return rows


@contextlib.contextmanager
def _settings_kept(config: Any, model: torch.nn.Module) -> Iterator[None]:
    kept, settings = {key: config[key] for key in ("metrics", "topk", "valid_metric")}, model.settings
    try:
        yield
    finally:
        model.settings = settings
        for key, value in kept.items():
            config[key] = value


def plot_guidance(rows: Sequence[dict[str, float]], title: str, k: int = 10) -> Figure:
    """Draws accuracy and coverage against w, and one against the other.

    Args:
        rows: of :func:`guidance_curve`.
        title: says model, data, part and settings.
        k: length of the lists, for the labels.
    """
    scale, ndcg, coverage = ([row[key] for row in rows] for key in ("guidance_scale", "ndcg", "coverage"))
    figure, axes = new_figure(title, 1, 2, 10, 4)
    left, right = axes[0]
    left.plot(scale, ndcg, "o-", color="tab:blue")
    left.set(xlabel="guidance scale w")
    left.set_ylabel(f"NDCG@{k}", color="tab:blue")
    other = left.twinx()
    other.plot(scale, coverage, "s--", color="tab:orange")
    other.set_ylabel(f"share of items in some top {k}", color="tab:orange")
    right.plot(coverage, ndcg, "o-")
    for w, x, y in zip(scale, coverage, ndcg, strict=True):
        right.annotate(f"w = {w:g}", (x, y), textcoords="offset points", xytext=(5, 5), fontsize=8)
    right.set(xlabel=f"share of items in some top {k}", ylabel=f"NDCG@{k}")
    return figure
