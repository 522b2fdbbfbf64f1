"""Data loaders for models that read whole user rows."""

from __future__ import annotations

from logging import getLogger
from typing import Any

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.data.interaction import Interaction


class HistoryDataLoader(AbstractDataLoader):
    """Batches of ids of the users that have a training interaction, in shuffled order.

    RecBole's ``UserDataLoader`` also trains on the padding user and on users without history.
    """

    def __init__(self, config: Any, dataset: Any, sampler: Any, shuffle: bool = True) -> None:
        self.logger = getLogger()
        self.uid_field = dataset.uid_field
        self.users = torch.unique(dataset.inter_feat[dataset.uid_field])
        self.sample_size = len(self.users)
        super().__init__(config, dataset, sampler, shuffle=True)

    def _init_batch_size_and_step(self) -> None:
        self.step = self.config["train_batch_size"]
        self.set_batch_size(self.step)

    def collate_fn(self, index: list[int]) -> Interaction:
        return Interaction({self.uid_field: self.users[np.array(index)]})


class UserBatchEvalDataLoader(FullSortEvalDataLoader):
    """Full-sort evaluation in which ``eval_batch_size`` counts users.

    RecBole counts user-item pairs: its default of 4096 is two users a batch on ml-100k (RECBOLE: general_dataloader.py).
    """

    def _init_batch_size_and_step(self) -> None:
        self.step = self.config["eval_batch_size"]
        self.set_batch_size(self.step * self._dataset.item_num)
