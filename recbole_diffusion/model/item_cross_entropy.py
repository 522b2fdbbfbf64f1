"""Cross-entropy over all items, for models that score an item by its embedding's product with a vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Term = Callable[[slice, torch.Tensor], torch.Tensor]
"""For some rows, and their scores ``[rows, n_items]``: a table of that shape that is to be added to them, times a number for
each row. Constants it may add to the scores itself, in place."""

# Scores that are computed at a time: on a CPU they should stay in its cache (3 MB), on a GPU fill it.
_SCORES = {"cpu": 800_000, "other": 100_000_000}
_LEAST_ROWS = 32


def item_cross_entropy(
    query: torch.Tensor,
    items: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    term: Term | None = None,
    multiple: torch.Tensor | None = None,
) -> torch.Tensor:
    """The sum over rows of ``weight * -log softmax(query @ items.T + multiple * term)[target]``.

    The same as ``torch.nn.functional.cross_entropy`` of the scores, but some rows at a time, each with its gradient while its
    scores are at hand: a ``[N, n_items]`` tensor is never stored, read or written. On a CPU that takes half the time.

    Args:
        query: ``[N, d]``.
        items: ``[n_items, d]``.
        target: ``[N]``, indices of rows of ``items``.
        weight: ``[N]``, constants; None gives the mean, 1 / N each.
        term: what is known of the scores of some rows; no gradient goes through it.
        multiple: ``[N]``, of the term's table; None: the term has constants alone.

    Returns:
        A scalar.
    """
    query = query.to(items.dtype)
    weight = query.new_full((len(query),), 1 / max(len(query), 1)) if weight is None else weight.detach().to(items.dtype)
    # Autocast leaves products alone that are written in place, as all of them are below.
    loss: torch.Tensor = _ItemCrossEntropy.apply(query, items, target, weight, term, multiple)
    return loss


class _ItemCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        items: torch.Tensor,
        target: torch.Tensor,
        weight: torch.Tensor,
        term: Term | None,
        multiple: torch.Tensor | None,
    ) -> torch.Tensor:
        of_query = torch.empty_like(query) if ctx.needs_input_grad[0] else None
        of_items = torch.zeros_like(items) if ctx.needs_input_grad[1] else None
        of_multiple = None if multiple is None else torch.zeros_like(multiple)
        n_rows = max(_SCORES.get(query.device.type, _SCORES["other"]) // len(items), _LEAST_ROWS)
        buffer = query.new_empty(min(n_rows, len(query)), len(items))
        loss = query.new_zeros(())
        for first in range(0, len(query), n_rows):
            rows = slice(first, first + n_rows)
            of_target = target[rows, None]
            scores = torch.mm(query[rows], items.T, out=buffer[: len(of_target)])
            table = None if term is None else term(rows, scores)
            if multiple is not None:
                scores.addcmul_(multiple[rows, None], table)
            scores.sub_(scores.amax(1, keepdim=True))
            of_row = weight[rows, None]
            own = scores.gather(1, of_target)
            total = scores.exp_().sum(1, keepdim=True)
            loss += (of_row * (total.log() - own)).sum()
            # The gradient of the scores, in their place: weight * (softmax - one-hot).
            slope = scores.mul_(of_row / total).scatter_add_(1, of_target, -of_row)
            if of_query is not None:
                torch.mm(slope, items, out=of_query[rows])
            if of_multiple is not None:
                of_multiple[rows] = torch.linalg.vecdot(slope, table)
            if of_items is not None:
                of_items.addmm_(slope.T, query[rows])
        ctx.save_for_backward(of_query, of_items, of_multiple)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        of_query, of_items, of_multiple = (None if slope is None else slope * grad for slope in ctx.saved_tensors)
        return of_query, of_items, None, None, None, of_multiple
