"""A nearest-neighbour model of sequences in closed form: what follows what, counted and decayed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import scipy.sparse
import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType

from recbole_diffusion.settings import Settings, setting

# Items with equal scores are ordered by popularity: this much is added per training occurrence, far less than any other
# difference that matters.
TIE_BREAK = 1e-12
# Pairs that are held at once while they are counted (some 20 bytes each).
_PAIRS_AT_ONCE = 1 << 24


@dataclasses.dataclass(frozen=True)
class SequentialKNNSettings(Settings):
    """Types and ranges; meanings and defaults are in ``properties/model/SequentialKNN.yaml``."""

    window: int = setting(ge=1)
    alpha: float = setting(ge=0)
    decay: float = setting(gt=0, le=1)
    history_length: int = setting(ge=1)


class SequentialKNN(SequentialRecommender):
    """A decayed co-occurrence kNN over items in order, in closed form.

    Of no paper: it is what any sequential model has to beat. From the training sequences,

        C[i, j] = sum over users and positions a < b <= a + window, item i at a and j at b, of 1 / (b - a)
        N = D^-alpha C D^-alpha,    D[i] = how often item i stands in the training sequences
        score[j] = sum over the latest history_length items h, the latest having age 0, of decay^age N[h, j]

    C counts forward only. Equal scores, among them those of items that never follow an item of the history, are in order
    of popularity, which is D.

    The sequences are read from RecBole's training rows, each a target with its history: a pair is counted in the row whose
    target is its later item. So every pair is counted once, whatever the order of the rows, for every split and for given parts
    whose rows are prefixes of each other; pairs further apart than ``MAX_ITEM_LIST_LENGTH`` are in no row. D counts targets,
    and the history of each user's shortest row, whose items are no targets.

    RecBole's ``TraditionalTrainer`` trains it, so one pass over the data changes nothing. Its ``type`` stays ``SEQUENTIAL``:
    RecBole would give a ``TRADITIONAL`` model no histories.
    """

    input_type = InputType.POINTWISE
    settings_class = SequentialKNNSettings
    other_parameter_name = ("similarity", "popularity")

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.settings = self.settings_class.read(config)
        self.fake_loss = torch.nn.Parameter(torch.zeros(1))  # RecBole's optimizer wants a parameter
        rows = dataset.inter_feat
        histories, lengths = rows[self.ITEM_SEQ].numpy(), rows[self.ITEM_SEQ_LEN].numpy()
        users, targets = rows[dataset.uid_field].numpy(), rows[self.ITEM_ID].numpy()
        counts = cooccurrences(histories, lengths, targets, self.settings.window, self.n_items)
        order = np.lexsort(((histories > 0).sum(1), users))
        shortest = order[np.unique(users[order], return_index=True)[1]]
        occurrences = np.concatenate([targets, histories[shortest].ravel()])
        self.popularity = np.bincount(occurrences[occurrences > 0], minlength=self.n_items)
        weights = scipy.sparse.diags_array(np.maximum(self.popularity, 1.0) ** -self.settings.alpha)
        self.similarity = (weights @ counts @ weights).tocsr()

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """Zero: there is nothing to learn."""
        return 0 * self.fake_loss.sum()

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        """Scores ``[B, n_items]``, float64; the padding item's is -inf."""
        scores = (self._weights(interaction) @ self.similarity).toarray()
        scores += TIE_BREAK * self.popularity
        scores[:, 0] = -np.inf
        return torch.from_numpy(scores).to(interaction[self.ITEM_SEQ].device)

    def predict(self, interaction: Any) -> torch.Tensor:
        """Scores of history-item pairs ``[B]``, float32, which RecBole's sampled evaluation wants.

        Each history is multiplied once, however many items are asked for.
        """
        items = interaction[self.ITEM_ID].cpu().numpy().copy()  # scipy wants memory of numpy's own
        weights = self._weights(interaction)
        parts = zip(weights.indptr[:-1], weights.indptr[1:], strict=True)
        keys: dict[bytes, int] = {}
        row = [keys.setdefault(weights.indices[a:b].tobytes() + weights.data[a:b].tobytes(), len(keys)) for a, b in parts]
        _, first = np.unique(row, return_index=True)
        scores = np.asarray((weights[first] @ self.similarity)[row, items]).ravel() + TIE_BREAK * self.popularity[items]
        return torch.from_numpy(scores).float().to(interaction[self.ITEM_SEQ].device)

    def _weights(self, interaction: Any) -> scipy.sparse.csr_array:
        """``decay^age`` of each history's items, ``[B, n_items]``; an item that occurs several times has the sum."""
        history = interaction[self.ITEM_SEQ].cpu().numpy()
        age = interaction[self.ITEM_SEQ_LEN].cpu().numpy()[:, None] - 1 - np.arange(history.shape[1])
        row, place = np.nonzero((age >= 0) & (age < self.settings.history_length) & (history > 0))
        values = self.settings.decay ** age[row, place].astype(float)
        return scipy.sparse.csr_array((values, (row, history[row, place])), shape=(len(history), self.n_items))


def cooccurrences(
    histories: np.ndarray, lengths: np.ndarray, targets: np.ndarray, window: int, n_items: int
) -> scipy.sparse.csr_array:
    """Counts the pairs of a target and an item before it, each with the inverse of their distance.

    Args:
        histories: items before the target, ``[n, L]``, oldest first, then padding 0.
        lengths: of the histories, ``[n]``; an empty one may have length 1.
        targets: ``[n]``.
        window: the largest distance of a pair.
        n_items: the padding item included.

    Returns:
        ``[n_items, n_items]``: earlier item by later item; the padding item has no pair.
    """

    def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for distance in range(1, min(window, histories.shape[1]) + 1):
            rows = np.flatnonzero(lengths >= distance)
            earlier = histories[rows, lengths[rows] - distance]
            yield earlier[earlier > 0], targets[rows[earlier > 0]]

    return count_pairs(pairs(), n_items)


def count_pairs(pairs: Iterable[tuple[np.ndarray, np.ndarray]], n_items: int) -> scipy.sparse.csr_array:
    """Adds up pairs of an earlier and a later item, each with the inverse of their distance.

    Args:
        pairs: the earlier and the later items of all pairs at distance 1, at distance 2, and so on.
        n_items: the padding item included.

    Returns:
        ``[n_items, n_items]``: earlier item by later item.
    """
    total = scipy.sparse.csr_array((n_items, n_items))
    held: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add() -> scipy.sparse.csr_array:
        row, column, value = (np.concatenate(parts) for parts in zip(*held, strict=True))
        return total + scipy.sparse.csr_array((value, (row, column)), shape=(n_items, n_items))

    for distance, (earlier, later) in enumerate(pairs, 1):
        held.append((earlier, later, np.full(len(earlier), 1.0 / distance)))
        if sum(len(part[0]) for part in held) > _PAIRS_AT_ONCE:
            total, held = add(), []
    return add() if held else total
