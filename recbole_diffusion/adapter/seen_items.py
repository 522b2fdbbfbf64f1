"""Whether full evaluation ranks the items that a user has had: the setting ``mask_seen``.

RecBole masks them for general models and never for sequential ones. ``mask_seen`` says it for every model, in our runs and in
RecBole's own ``Trainer.evaluate``, since the data loader of full evaluation names the items that are masked:

- ``None``: as RecBole has it.
- ``True``: the items of the user's sequence before the target, however long ago, are not ranked. The target always is, also
  where the user has had it before.
- ``False``: all items are ranked.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.utils import ModelType

from recbole_diffusion.adapter.patch import replace
from recbole_diffusion.settings import SettingsError


def check_mask_seen(config: Any) -> None:
    """Refuses a wrong value, and one that would have no effect.

    Raises:
        SettingsError: names the setting and what is allowed.
    """
    value, modes = config["mask_seen"], config["eval_args"]["mode"]
    if value is None:
        return
    if not isinstance(value, bool):
        raise SettingsError(f"mask_seen = {value!r}: must be True, False or None (as RecBole has it)")
    if sampled := sorted({mode for mode in modes.values() if mode != "full"}):
        raise SettingsError(
            f"mask_seen = {value!r}: nothing is masked where only sampled candidates are ranked (eval_args, mode: "
            f"{', '.join(sampled)}); allowed: None, or mode: full"
        )
    if value and config["repeatable"] and config["MODEL_TYPE"] != ModelType.SEQUENTIAL:
        raise SettingsError("mask_seen = True: with repeatable = True RecBole takes every item for unseen; allowed: False")


def install() -> None:
    """Hangs ``mask_seen`` into RecBole's data loader of full evaluation; a second call changes nothing."""
    replace(FullSortEvalDataLoader, "__init__", _checked_init)
    replace(FullSortEvalDataLoader, "collate_fn", _with_mask)


def _checked_init(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def init(self: Any, config: Any, dataset: Any, sampler: Any, shuffle: bool = False) -> None:
        check_mask_seen(config)
        if config["MODEL_TYPE"] == ModelType.SEQUENTIAL and config["mask_seen"]:
            self.seen = SeenItems(dataset, sampler)
        original(self, config, dataset, sampler, shuffle)

    return init


def _with_mask(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def collate_fn(self: Any, index: Any) -> Any:
        interaction, history, positive_u, positive_i = original(self, index)
        mask = self.config["mask_seen"]
        if mask is False:
            history = None
        elif mask and self.is_sequential:
            history = self.seen.of(np.array(index))
        return interaction, history, positive_u, positive_i

    return collate_fn


class SeenItems:
    """The items that the user of each row has had before the row's target.

    They are the row's own history, and what the user had before: the targets of the user's earlier rows in any part, and the
    history of the earliest of them. Earlier is by time or, in given parts without times, by place in the files.

    Args:
        rows: RecBole ``SequentialDataset`` of the rows in question.
        sampler: RecBole's for their part, which has the rows of all parts.
    """

    def __init__(self, rows: Any, sampler: Any) -> None:
        list_field, time_field = rows.iid_field + rows.config["LIST_SUFFIX"], rows.time_field
        self.histories = rows.inter_feat[list_field].numpy()
        self.targets = rows.inter_feat[rows.iid_field].numpy()
        asked = rows.inter_feat[rows.uid_field].numpy()
        everything = sampler.dataset.inter_feat  # RecBole's sequential models have a sampler of all parts as one
        user, item, history = (everything[field].numpy() for field in (rows.uid_field, rows.iid_field, list_field))
        if time_field in rows.inter_feat:
            when, asked_when = everything[time_field].numpy(), rows.inter_feat[time_field].numpy()
        else:
            earlier_parts = sampler.dataset.file_size_list[: sampler.phases.index(sampler.phase)]
            when, asked_when = np.arange(len(user)), sum(earlier_parts) + np.arange(len(asked))
        # Before everything else of a user comes the history of the earliest row.
        order = np.lexsort(((history > 0).sum(1), when, user))
        owner, first = np.unique(user[order], return_index=True)
        opening = history[order[first]]
        user = np.concatenate([np.repeat(owner, opening.shape[1])[opening.ravel() > 0], user])
        item = np.concatenate([opening[opening > 0], item])
        when = np.concatenate([np.full(len(item) - len(when), -np.inf), when])
        # One order of all: at equal times the question (0) comes before what was had (1).
        kind = np.repeat([0, 1], [len(asked), len(user)])
        order = np.lexsort((kind, np.concatenate([asked_when, when]), np.concatenate([asked, user])))
        before = np.cumsum(kind[order])
        self.stop = np.empty(len(asked), dtype=np.int64)
        self.stop[order[kind[order] == 0]] = before[kind[order] == 0]
        had = order[kind[order] == 1] - len(asked)
        self.items = item[had]
        self.start = np.searchsorted(user[had], asked)

    def of(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """What is masked in a batch of rows: places in the batch ``[m]`` and items ``[m]``; the row's target is never there."""
        start, count = self.start[rows], (self.stop - self.start)[rows]
        row = np.repeat(np.arange(len(rows)), count)
        place = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count) + start[row]
        in_history, column = np.nonzero(self.histories[rows])
        row = np.concatenate([row, in_history])
        item = np.concatenate([self.items[place], self.histories[rows[in_history], column]])
        other = item != self.targets[rows][row]
        return torch.from_numpy(row[other]), torch.from_numpy(item[other])
