"""What models share that score an item by its product with the encoded history: losses and scoring."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import softplus

from recbole_diffusion.model.accelerate import aligned_rows
from recbole_diffusion.model.item_cross_entropy import item_cross_entropy
from recbole_diffusion.model.sequential_recommender.causal import CausalRecommender, CausalSettings
from recbole_diffusion.model.topk import chunked_topk
from recbole_diffusion.settings import SettingsError, setting

# Below so many items for each negative, a product with all of them takes less time than copying the negatives' embeddings.
_ITEMS_PER_NEGATIVE = 50


@dataclasses.dataclass(frozen=True)
class NextItemSettings(CausalSettings):
    """Which loss, and its settings."""

    loss: str = setting(choices=("ce", "bce", "gbce"))
    negatives: int = setting(ge=1)
    negatives_from: str = setting(choices=("others", "unseen"))
    gbce_t: float = setting(ge=0, le=1)


class EmbeddingScorer(CausalRecommender):
    """Scores an item by its embedding's inner product with one vector for each history, its query."""

    item_embedding: nn.Embedding

    def query(self, interaction: Any) -> torch.Tensor:
        """What every item's embedding is multiplied with ``[B, d]``: the encoded history."""
        return self.condition(interaction)

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        """Scores ``[B, n_items]``; the padding item's is -inf."""
        query = self.query(interaction)
        scores = aligned_rows(len(query), self.n_items, query.device)
        torch.mm(query.detach(), self.item_embedding.weight.detach().T, out=scores)
        scores[:, 0] = -torch.inf
        return scores

    @torch.no_grad()
    def topk(self, interaction: Any, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and ids ``[B, k]`` of the best items, best first, without a ``[B, n_items]`` tensor."""
        scores, rows = chunked_topk(self.query(interaction), self.item_embedding.weight[1:], k)
        return scores, rows + 1  # item 0 is padding

    def predict(self, interaction: Any) -> torch.Tensor:
        """Scores of history-item pairs ``[B]``; each history is encoded once, however many items are asked for."""
        histories, row = self.distinct(interaction)
        return (self.query(histories)[row] * self.item_embedding(interaction[self.ITEM_ID])).sum(1)


class NextItemRecommender(EmbeddingScorer):
    """Scores an item by its embedding's inner product with the encoded history.

    Losses, averaged over targets; s is the target's score, s_1 .. s_k those of k sampled negatives, n the number of items:

    * ``ce``: -log softmax of s among all items. The padding item's score is one of them, as in RecBole's models.
    * ``bce``: -(log sigmoid(s) + sum_j log(1 - sigmoid(s_j))) / (k + 1). With k = 1, half of SASRec's loss (Kang and
      McAuley, ICDM 2018, section 3.5).
    * ``gbce``: as ``bce``, with beta log sigmoid(s) for the target, beta = a (t (1 - 1/a) + 1/a), a = k / (n - 1) (Petrov and
      Macdonald, "gSASRec", RecSys 2023): it undoes the overconfidence that comes of sampling negatives.

    Negatives are drawn for each target anew and uniformly: ``negatives_from: others`` over all items but the target, as RecBole
    does for sequential models, ``unseen`` over the items that the user has no training interaction with, as SASRec's paper
    does. The latter never lowers the score of what a user has had, so it is for evaluation that masks those items.
    """

    def _prepare_loss(self, settings: NextItemSettings, dataset: Any) -> None:
        """Call in ``__init__``, after the settings are read."""
        self.loss, self.n_negatives = settings.loss, settings.negatives
        self.beta = 1.0
        if self.loss == "gbce":
            a = self.n_negatives / max(self.n_items - 2, 1)
            if a > 1:
                raise SettingsError(f"negatives = {self.n_negatives!r}: must be at most {self.n_items - 2}, the other items")
            self.beta = a * (settings.gbce_t * (1 - 1 / a) + 1 / a)
        self.unseen = None
        if self.loss != "ce" and settings.negatives_from == "unseen":
            self.unseen = UnseenItems(dataset.inter_matrix(form="csr"))

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """The mean loss of the batch's targets."""
        state, target, row = self.positions(interaction)
        if self.loss == "ce":
            return item_cross_entropy(state, self.item_embedding.weight, target)
        return self.sampled_loss(state, target, self._draw_negatives(target, interaction[self.USER_ID][row]))

    def _draw_negatives(self, target: torch.Tensor, users: torch.Tensor) -> torch.Tensor:
        """``[N, k]`` for targets ``[N]`` of users ``[N]``."""
        if self.unseen is not None:
            return self.unseen.sample(users, self.n_negatives)
        others = torch.randint(1, self.n_items - 1, (len(target), self.n_negatives), device=target.device)
        return others + (others >= target[:, None])

    def sampled_loss(self, state: torch.Tensor, target: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
        """``bce`` or ``gbce`` of encoded histories ``[N, d]``, targets ``[N]`` and negatives ``[N, k]``."""
        items = torch.cat([target[:, None], negatives], 1)
        if self.n_items < _ITEMS_PER_NEGATIVE * self.n_negatives:
            scores = (state @ self.item_embedding.weight.T).gather(1, items)
        else:
            scores = (self.item_embedding(items) @ state[:, :, None]).squeeze(2)
        return (self.beta * softplus(-scores[:, 0]) + softplus(scores[:, 1:]).sum(1)).mean() / (self.n_negatives + 1)


class UnseenItems(nn.Module):
    """Draws items that users have no interaction with, uniformly, without rejection.

    A user's j-th smallest item (from 0) with id i has i - 1 - j unseen items below it, so the unseen item number r (from 0) has
    id r + 1 + (how many of the user's items have at most r unseen items below them).

    Args:
        matrix: ``[n_users, n_items]`` with the padding row and column, entries where there is an interaction.

    Raises:
        SettingsError: a user with all items.
    """

    key: torch.Tensor
    start: torch.Tensor
    n_unseen: torch.Tensor

    def __init__(self, matrix: Any) -> None:
        super().__init__()
        matrix.sum_duplicates()
        n_seen = np.diff(matrix.indptr)
        self.n_items = matrix.shape[1]
        if n_seen.max(initial=0) >= self.n_items - 1:
            raise SettingsError("loss: a user has interacted with every item, so there is no negative to draw; use loss=ce")
        user = np.repeat(np.arange(matrix.shape[0]), n_seen)
        number = np.arange(len(user)) - matrix.indptr[user]
        key = user * self.n_items + matrix.indices - 1 - number
        self.register_buffer("key", torch.as_tensor(key, dtype=torch.long), persistent=False)
        self.register_buffer("start", torch.as_tensor(matrix.indptr[:-1], dtype=torch.long), persistent=False)
        self.register_buffer("n_unseen", torch.as_tensor(self.n_items - 1 - n_seen, dtype=torch.long), persistent=False)

    def sample(self, users: torch.Tensor, k: int) -> torch.Tensor:
        """``k`` items for each of ``users`` ``[N]``, with replacement, ``[N, k]``."""
        users = users[:, None]
        drawn = torch.randint(2**62, (len(users), k), device=users.device) % self.n_unseen[users]
        below = torch.searchsorted(self.key, users * self.n_items + drawn, right=True) - self.start[users]
        return drawn + 1 + below
