"""How much of the catalogue a model recommends: a generator that has collapsed gives everybody the same few items."""

from __future__ import annotations

from typing import Any

import torch
from recbole.data.interaction import Interaction

from recbole_diffusion.model.interaction_rows import InteractionRows


@torch.no_grad()
def item_coverage(model: Any, rows: InteractionRows, k: int = 10, batch_size: int = 1024) -> dict[str, float]:
    """How the users' top ``k`` items are spread over the catalogue.

    Asked are the users that have a training interaction; their training items are left out of their lists.

    Args:
        model: a RecBole general recommender; scored in evaluation mode, and left in the mode it was in.
        rows: the training interactions, users by items.
        k: length of a list; a smaller catalogue shortens it.
        batch_size: users scored at a time.

    Returns:
        ``item_coverage@k``, the share of the catalogue that is in at least one list, in (0, 1]; ``item_gini@k``, the Gini
        coefficient of how often the items are recommended: 0 all equally often, towards 1 few items have it all.
    """
    length, training = min(k, rows.n_items), model.training
    model.eval()
    counts = torch.zeros(rows.n_items, dtype=torch.long, device=rows.crow.device)
    for users in rows.occupied().split(batch_size):
        scores = model.full_sort_predict(Interaction({model.USER_ID: users}))[:, 1:]
        scores = scores.masked_fill(rows.dense(users) != 0, -torch.inf)
        best, items = scores.topk(length, 1)
        counts += torch.bincount(items[best > -torch.inf], minlength=rows.n_items)
    model.train(training)
    return {f"item_coverage@{k}": float((counts > 0).double().mean()), f"item_gini@{k}": gini(counts)}


def gini(counts: torch.Tensor) -> float:
    """Gini coefficient of counts ``[n]``: mean absolute difference of two of them over twice their mean; 0 if all are 0."""
    ordered = counts.double().sort().values
    n, total = len(ordered), ordered.sum()
    if total == 0:
        return 0.0
    rank = torch.arange(1, n + 1, dtype=torch.double, device=counts.device)
    return float(((2 * rank - n - 1) * ordered).sum() / (n * total))
