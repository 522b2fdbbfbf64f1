"""Distributions over the next item in closed form, which a model takes for its prior."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import nn

from recbole_diffusion.model.sequential_recommender.sequentialknn import count_pairs

DENSE_ITEMS = 5_000  # up to so many items the counts are a dense matrix, of at most 100 MB

PRIORS = ("none", "knn", "pop")


class NextItemPrior(nn.Module):
    """The probability of every item after a history, by counting; in training without what the user's own future has added.

    ``pop``: an item's count in the training sequences, plus one. ``knn``: a mixture of that, with weight ``smoothing``, and
    :class:`~.sequentialknn.SequentialKNN`'s scores, normalised; the first alone where all scores are 0. ``none``: all alike.

    **In training** the counts contain what is to be predicted: the pair of a history's last item and the target has been
    counted because this user went from one to the other. A multiple that is learnt on such scores trusts them too much. So
    the scores of a target are those of the counts that there would be if its user's sequence had ended before it: pairs whose
    later item is the target or comes after it, in the same sequence, are subtracted. Subtracting the target's alone would be
    no remedy, it would mark the target as the only one of the user's next items whose pairs are missing. At test the counts
    hold the history's own pairs, so in training they do too. On ml-100k the mean of log p(target) is -6.07 so, over the last
    targets of the training part, and -6.06 over those of validation; without it, -5.40. The user's later items are looked for
    up to ``window`` places ahead, and so for popularity.

    Args:
        kind: one of ``PRIORS``.
        dataset: the training part, with ``sequences()``.
        n_items: the padding item included.
        max_length: longest history, in training and in evaluation.
        smoothing: weight of popularity in ``knn``, in (0, 1].
        window, decay, history_length: as ``SequentialKNN`` has them.
    """

    line: torch.Tensor
    begin: torch.Tensor
    stop: torch.Tensor
    is_target: torch.Tensor
    popularity: torch.Tensor
    weights: torch.Tensor
    by_distance: torch.Tensor

    def __init__(
        self,
        kind: str,
        dataset: Any,
        n_items: int,
        max_length: int,
        smoothing: float,
        window: int,
        decay: float,
        history_length: int,
    ) -> None:
        super().__init__()
        self.kind, self.smoothing, self.n_items = kind, smoothing, n_items
        self.window = w = min(window, max_length)
        sequences = dataset.sequences()
        place = torch.arange(len(sequences.items))
        sequence = (torch.searchsorted(sequences.start, place, right=True) - 1).clamp(min=0)
        begin, stop = (sequences.start[sequence], sequences.end[sequence]) if len(place) else (place, place)
        counted = (place >= begin) & (place < stop) & (sequences.is_target | (place < sequences.first_target[sequence]))
        # Padding on both sides, so that no slice around a target reaches past the ends.
        self._buffer("line", nn.functional.pad(sequences.items, (w, w)))
        self._buffer("is_target", nn.functional.pad(sequences.is_target, (w, w)))
        self._buffer("begin", begin)
        self._buffer("stop", stop)
        popularity = torch.bincount(sequences.items[counted], minlength=n_items)[1:].float() + 1
        self._buffer("popularity", popularity)
        self._buffer("weights", decay ** torch.arange(min(history_length, max_length)).float())
        distance = torch.arange(w) + w - torch.arange(2 * w)[:, None]  # of w places before and w after a target to the latter
        self._buffer("by_distance", torch.where((distance > 0) & (distance <= w), 1 / distance, 0.0))
        if kind == "knn":
            counts = count_pairs(self._pairs(sequences.items.numpy(), sequences.is_target.numpy(), begin.numpy()), n_items)
            self.counts = counts.tocsr()[:, 1:].astype(np.float32)
            self._buffer("dense", torch.from_numpy(self.counts.toarray()) if n_items <= DENSE_ITEMS else None)

    def _buffer(self, name: str, value: torch.Tensor | None) -> None:
        self.register_buffer(name, value, persistent=False)

    def _pairs(self, items: np.ndarray, is_target: np.ndarray, begin: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The pairs that ``SequentialKNN`` counts, at distance 1, 2, ..."""
        targets = np.flatnonzero(is_target)
        for distance in range(1, self.window + 1):
            later = targets[targets - distance >= begin[targets]]
            yield items[later - distance], items[later]

    def forward(self, items: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        """Probabilities of items 1, 2, ... after histories ``[B, L]``, padding on the right, of lengths ``[B]``.

        Returns:
            ``[B, n_items - 1]``; for ``pop`` and ``none``, one row for all.
        """
        if self.kind != "knn":
            return self._everywhere()[None]
        index = length[:, None] - 1 - torch.arange(len(self.weights), device=items.device)
        latest = items.gather(1, index.clamp(min=0)) * (index >= 0)
        return self._mixture(self._scores(latest), self.popularity)

    def of_targets(self, place: torch.Tensor) -> torch.Tensor:
        """The same before training targets at ``place`` ``[N]`` of the sequences, their users' later items not counted."""
        if self.kind == "none":
            return self._everywhere()[None]
        w, device = self.window, place.device
        around = place[:, None] + torch.arange(-w, w, device=device)
        inside = (around >= self.begin[place][:, None]) & (around < self.stop[place][:, None])
        around_items = self.line[around + w] * inside
        later = around_items[:, w:] * self.is_target[around[:, w:] + w]
        counted = (later > 0).float()
        later = (later - 1).clamp(min=0)
        popularity = self.popularity.repeat(len(place), 1).scatter_add_(1, later, -counted)
        if self.kind == "pop":
            return popularity / popularity.sum(1, keepdim=True)
        before = place[:, None] - 1 - torch.arange(len(self.weights), device=device)
        latest = self.line[(before + w).clamp(min=0)] * (before >= self.begin[place][:, None])
        history = popularity.new_zeros(len(place), self.n_items).scatter_add_(1, latest, self.weights.expand(latest.shape))
        history[:, 0] = 0
        own = history.gather(1, around_items) @ self.by_distance
        return self._mixture(self._scores(latest).scatter_add_(1, later, -own * counted).clamp_(min=0), popularity)

    def _everywhere(self) -> torch.Tensor:
        counts = self.popularity if self.kind == "pop" else torch.ones_like(self.popularity)
        return counts / counts.sum()

    def _scores(self, latest: torch.Tensor) -> torch.Tensor:
        """Decayed sums of the counts' rows of histories ``[N, H]``, the latest item first, 0 where there is none."""
        weights = self.weights * (latest > 0)
        if self.dense is not None:
            return nn.functional.embedding_bag(latest, self.dense, mode="sum", per_sample_weights=weights)
        row, column = latest.nonzero(as_tuple=True)
        entries = weights[row, column].cpu().numpy(), (row.cpu().numpy(), latest[row, column].cpu().numpy())
        rows = scipy.sparse.csr_array(entries, shape=(len(latest), self.n_items))
        return torch.from_numpy((rows @ self.counts).toarray()).to(latest.device)

    def _mixture(self, scores: torch.Tensor, popularity: torch.Tensor) -> torch.Tensor:
        total = scores.sum(1, keepdim=True)
        weight = torch.where(total > 0, self.smoothing, 1.0)
        scores = scores.mul_((1 - weight) / total.clamp(min=torch.finfo(total.dtype).tiny))
        return scores.addcmul_(popularity, weight / popularity.sum(-1, keepdim=True))


def draw(p: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """A column of each row of probabilities ``[N, n]`` or ``[1, n]``, by uniform numbers ``u`` ``[N]``."""
    cumulated = p.cumsum(1)
    if len(p) == 1:
        return torch.searchsorted(cumulated[0], u * cumulated[0, -1]).clamp(max=p.shape[1] - 1)
    return torch.searchsorted(cumulated, (u * cumulated[:, -1])[:, None]).squeeze(1).clamp(max=p.shape[1] - 1)
