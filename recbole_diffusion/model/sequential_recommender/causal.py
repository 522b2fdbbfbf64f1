"""What models share that predict the next item at every position of a history."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import Any, ClassVar

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType

from recbole_diffusion.settings import Settings, setting

TARGETS = "targets"
"""Field of a batch of windows: the item after each input, 0 where that is no target."""
PLACE = "place_in_sequences"
"""Field of a training batch: the place of a row's target, or of the item after a window's first input, in all sequences."""


@dataclasses.dataclass(frozen=True)
class CausalSettings(Settings):
    """What every model that can train at all positions is asked."""

    train_positions: str = setting(choices=("all", "last"))


class CausalRecommender(SequentialRecommender):
    """A model that encodes a history up to each of its positions, reading no later item.

    It trains on windows of sequences (``train_positions: all``), where every position has a target, or on RecBole's rows
    (``last``), where the history has one target. It is evaluated at the last position.

    Attributes:
        reads_before_window: whether it can encode histories longer than its windows, as one without positions can; windows
            then bring as many items more from before their first target.
    """

    input_type = InputType.POINTWISE
    reads_before_window: ClassVar[bool] = False

    @abstractmethod
    def encode(self, items: torch.Tensor) -> torch.Tensor:
        """The history up to every position: ``[B, L]``, padding 0 on the right, -> ``[B, L, d]``."""

    @abstractmethod
    def encode_last(self, items: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        """Whole histories: ``[B, L]`` and their lengths ``[B]`` -> ``[B, d]``."""

    def condition(self, interaction: Any) -> torch.Tensor:
        """Encoded histories ``[B, d]``."""
        return self.encode_last(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])

    def distinct(self, interaction: Any) -> tuple[Any, torch.Tensor]:
        """Rows with each history of ``interaction`` once, and for every row ``[B]`` which of them is its own.

        RecBole's sampled evaluation repeats a history for each of its candidates.
        """
        each, rows = torch.unique(interaction[self.ITEM_SEQ], dim=0, return_inverse=True)
        place = torch.arange(len(rows), device=rows.device)
        first = place.new_full((len(each),), len(rows)).scatter_reduce(0, rows, place, "amin")
        return interaction[first.cpu()], rows

    def positions(self, interaction: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What a training batch has to predict, whichever kind of batch it is.

        Returns:
            Of each target: the encoded history before it ``[N, d]``, the item ``[N]``, and the row of the batch ``[N]``.
        """
        if TARGETS in interaction:
            targets = interaction[TARGETS]
            row, column = targets.nonzero(as_tuple=True)
            return self.encode(interaction[self.ITEM_SEQ])[row, column], targets[row, column], row
        targets = interaction[self.POS_ITEM_ID]
        return self.condition(interaction), targets, torch.arange(len(targets), device=targets.device)
