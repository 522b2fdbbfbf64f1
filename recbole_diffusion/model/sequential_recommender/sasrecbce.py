"""SASRec with its paper's loss: Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018."""

from __future__ import annotations

from typing import Any

import torch
from recbole.model.sequential_recommender import SASRec
from torch.nn.functional import softplus


class SASRecBCE(SASRec):
    """SASRec (ICDM 2018) with the paper's loss: binary cross-entropy, one sampled negative per target (section 3.5).

    RecBole's SASRec has cross-entropy over all items, a stronger loss, and BPR. The network is RecBole's: unlike the paper's
    it has a GELU, post-norm layers, and a row for each prefix of a sequence instead of a loss at every position (the same sum,
    but for what dropout draws). Negatives are uniform over the items that the user has no training interaction with.
    """

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """-log sigmoid(s_target) - log(1 - sigmoid(s_negative)), mean over the batch."""
        state = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        target = (state * self.item_embedding(interaction[self.POS_ITEM_ID])).sum(-1)
        negative = (state * self.item_embedding(interaction[self.NEG_ITEM_ID])).sum(-1)
        return (softplus(-target) + softplus(negative)).mean()

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        """Scores ``[B, n_items]``; the padding item's is -inf."""
        scores = super().full_sort_predict(interaction)
        scores[:, 0] = -torch.inf
        return scores
