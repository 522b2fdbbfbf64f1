"""Whether full evaluation ranks the items that a user has had: the setting ``mask_seen``.

RecBole masks them for general models and never for sequential ones. ``mask_seen`` says it for every model, in our runs and in
RecBole's own ``Trainer.evaluate``, since the data loader of full evaluation names the items that are masked:

- ``None``: as RecBole has it.
- ``True``: the items of the user's sequence before the target, however long ago, are not ranked. The target always is, also
  where the user has had it before.
- ``False``: all items are ranked.

``both_maskings: True`` adds a second test evaluation of our runs with the other ranking, which chooses nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import recbole.data.utils
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.utils import ModelType

from recbole_diffusion.adapter.patch import replace
from recbole_diffusion.adapter.user_items import items_of_users, places
from recbole_diffusion.settings import SettingsError


def check_mask_seen(config: Any) -> None:
    """Refuses a wrong value, and one that would have no effect.

    Raises:
        SettingsError: names the setting and what is allowed.
    """
    value, modes = config["mask_seen"], config["eval_args"]["mode"]
    if config["both_maskings"] and modes["test"] != "full":
        raise SettingsError(
            f"both_maskings = True: nothing is masked where only candidates are ranked (eval_args, mode: {modes['test']}); "
            "allowed: False, or mode: full"
        )
    if config["both_maskings"] and config["repeatable"] and config["MODEL_TYPE"] != ModelType.SEQUENTIAL:
        raise SettingsError("both_maskings = True: with repeatable = True RecBole takes every item for unseen; allowed: False")
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
    replace(recbole.data.utils, "create_samplers", _with_parts, everywhere=True)
    replace(FullSortEvalDataLoader, "__init__", _checked_init)
    replace(FullSortEvalDataLoader, "collate_fn", _with_mask)


def _with_parts(original: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """Tells the samplers, which data loaders are given, of all parts."""

    @functools.wraps(original)
    def create_samplers(config: Any, dataset: Any, built_datasets: list[Any]) -> tuple[Any, ...]:
        samplers = original(config, dataset, built_datasets)
        for sampler in samplers:
            if sampler is not None:
                sampler.parts = built_datasets
        return samplers

    return create_samplers


def _checked_init(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def init(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        check_mask_seen(config)
        original(self, config, *args, **kwargs)
        if config["mask_seen"] and self.is_sequential:
            _seen_of(self)

    return init


def _with_mask(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def collate_fn(self: Any, index: Any) -> Any:
        interaction, history, positive_u, positive_i = original(self, index)
        mask = self.config["mask_seen"]
        if mask is False:
            history = None
        elif mask and self.is_sequential:
            history = _seen_of(self).of(np.array(index))
        return interaction, history, positive_u, positive_i

    return collate_fn


def _seen_of(loader: Any) -> SeenItems:
    """The seen items of a loader's rows, found once; a loader that RecBole has saved may come without them."""
    if "seen" not in vars(loader):
        loader.seen = SeenItems(loader._dataset, loader._sampler.parts)
    return loader.seen


class SeenItems:
    """The items that the user of each row has had before the row's target.

    They are the row's own history, and what the user had before (:func:`.user_items.items_of_users`).

    Args:
        rows: RecBole ``SequentialDataset`` of the rows in question.
        parts: those of training, validation and test, among them ``rows``.
    """

    def __init__(self, rows: Any, parts: list[Any]) -> None:
        self.histories = rows.inter_feat[rows.iid_field + rows.config["LIST_SUFFIX"]].numpy()
        self.targets = rows.inter_feat[rows.iid_field].numpy()
        had, place = items_of_users(parts)
        begin = sum(len(part) for part in parts[: next(i for i, part in enumerate(parts) if part is rows)])
        self.items = had.items
        self.start = had.start[rows.inter_feat[rows.uid_field].numpy()]
        self.stop = place[begin : begin + len(rows)]

    def of(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """What is masked in a batch of rows: places in the batch ``[m]`` and items ``[m]``; the row's target is never there."""
        row, place = places(self.start[rows], self.stop[rows])
        in_history, column = np.nonzero(self.histories[rows])
        row = np.concatenate([row, in_history])
        item = np.concatenate([self.items[place], self.histories[rows[in_history], column]])
        other = item != self.targets[rows][row]
        return torch.from_numpy(row[other]), torch.from_numpy(item[other])
