"""Whole sequences as training rows: RecBole's data set without its padded prefixes, and the loader of windows.

RecBole stores a row for every prefix of every user's sequence, padded to ``MAX_ITEM_LIST_LENGTH``.
:class:`SequenceDataset` has the same rows, but keeps each sequence once and gives a training row its history when it is
asked for. :class:`SequenceDataLoader` hands out the sequences themselves, for models that predict the next item at every
position of a sequence in one pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from logging import getLogger
from typing import Any

import torch
import torch.distributed as dist
from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.data.dataset import SequentialDataset
from recbole.data.interaction import Interaction

from recbole_diffusion.adapter.prefixes import cut_prefixes, histories, run_starts
from recbole_diffusion.model.sequential_recommender.causal import PLACE, TARGETS

_POOL = 64  # least number of batches among which windows are sorted by length, where there are so many


@dataclasses.dataclass(frozen=True)
class Sequences:
    """Training sequences, all in one line.

    Attributes:
        items: ``[n]``, item ids in the order of sequences and, within each, of time.
        is_target: bool ``[n]``, whether the item is the target of a training row.
        users: ``[s]``, user of each sequence.
        start: ``[s]``, index of a sequence's first item in ``items``.
        first_target: ``[s]``, index of its first target.
        end: ``[s]``, index after its last target.
        longest: length of the longest history that a training row has.
    """

    items: torch.Tensor
    is_target: torch.Tensor
    users: torch.Tensor
    start: torch.Tensor
    first_target: torch.Tensor
    end: torch.Tensor
    longest: int


class SequenceDataset(SequentialDataset):
    """RecBole's sequential data set with the same rows, whose training rows get their histories when they are read.

    ``dataset[index]`` gives what RecBole's gives. ``inter_feat`` of the training part has no columns of histories, unless
    the parts were given with histories (``benchmark_filename``); validation and test parts have them.
    """

    _ordered: Interaction  # all interactions by user and time

    def data_augmentation(self) -> None:
        """A row for every interaction that has one before it; RecBole's loop, without the histories."""
        target, length = cut_prefixes(self)
        self._ordered = self.inter_feat
        self.inter_feat = self._ordered[target]
        self.inter_feat.update(Interaction({self.item_list_length_field: length, PLACE: target}))

    def build(self) -> list[SequenceDataset]:
        """RecBole's parts."""
        train, *others = super().build()
        for part in others:
            part.inter_feat = part._with_histories(part.inter_feat)
        return [train, *others]

    def __getitem__(self, index: Any, join: bool = True) -> Interaction:
        return self._with_histories(super().__getitem__(index, join))

    def _with_histories(self, rows: Interaction) -> Interaction:
        """Adds RecBole's padded columns of histories, if they are not there."""
        if self.iid_field + self.config["LIST_SUFFIX"] in rows:
            return rows
        unused = (self.config["unused_col"] or {}).get("inter", [])
        fields = [field for field in self._ordered if getattr(self, f"{field}_list_field", None) not in (None, *unused)]
        rows.update(Interaction(histories(self, self._ordered, fields, rows[PLACE], rows[self.item_list_length_field])))
        return rows

    def sequences(self) -> Sequences:
        """The sequences that the rows of the training part were cut from."""
        if PLACE in self.inter_feat:
            return self._cut_from_interactions()
        lists = self.inter_feat[self.iid_field + self.config["LIST_SUFFIX"]]
        rows = (self.inter_feat[field] for field in (self.item_list_length_field, self.iid_field, self.uid_field))
        return join_rows(lists, *rows)

    def _cut_from_interactions(self) -> Sequences:
        targets = self.inter_feat[PLACE].sort().values
        items, users = self._ordered[self.iid_field], self._ordered[self.uid_field]
        is_target = torch.zeros(len(items), dtype=torch.bool)
        is_target[targets] = True
        # Sequences are users; of each, the first and the last target that is in the training part.
        owners, count = torch.unique_consecutive(users[targets], return_counts=True)
        last = count.cumsum(0) - 1
        first_target = targets[last - count + 1]
        start = torch.from_numpy(run_starts(users.numpy()))[first_target]
        longest = int(self.inter_feat[self.item_list_length_field].max()) if len(targets) else 1
        return Sequences(items, is_target, owners, start, first_target, targets[last] + 1, longest)

    def inter_matrix(self, form: str = "coo", value_field: str | None = None) -> Any:
        """The user-item matrix of the part's interactions; RecBole's, where rows carry their histories."""
        if PLACE not in self.inter_feat:
            return super().inter_matrix(form, value_field)
        # An item without a row of its own is the first of its user: it precedes a target of history length 1.
        first = self.inter_feat[self.item_list_length_field] == 1
        place = torch.cat([self.inter_feat[PLACE], self.inter_feat[PLACE][first] - 1])
        return self._create_sparse_matrix(self._ordered[place], self.uid_field, self.iid_field, form, value_field)


def join_rows(lists: torch.Tensor, length: torch.Tensor, target: torch.Tensor, users: torch.Tensor) -> Sequences:
    """Joins given rows into sequences where a row's history is the history and target of the row before it.

    Histories may have been cut to their latest items, at the length of the longest one. A row that continues nothing, such
    as one with an empty history (length 1, item 0), starts a sequence of its own.

    Args:
        lists: ``[n, L]``, histories, padding on the right.
        length: ``[n]``, at least 1.
        target: ``[n]``.
        users: ``[n]``.
    """
    longest = int(length.max()) if len(length) else 1
    lists = lists[:, :longest]
    after = torch.cat([lists, torch.zeros_like(target)[:, None]], 1).scatter(1, length[:, None], target[:, None])
    after = torch.where((length == longest)[:, None], after[:, 1:], after[:, :-1])
    continues = (users[1:] == users[:-1]) & (length[1:] == (length[:-1] + 1).clamp(max=longest))
    continues &= (after[:-1] == lists[1:]).all(1)
    begins = torch.cat([torch.ones(min(len(target), 1), dtype=torch.bool), ~continues])
    # A row adds its target to the line, and its history if it begins a sequence.
    history = begins[:, None] & (torch.arange(longest) < length[:, None])
    added = torch.cat([history, torch.ones_like(begins)[:, None]], 1)
    size = added.sum(1)
    start = (size.cumsum(0) - size)[begins]
    return Sequences(
        items=torch.cat([lists, target[:, None]], 1)[added],
        is_target=torch.cat([torch.zeros_like(history), torch.ones_like(begins)[:, None]], 1)[added],
        users=users[begins],
        start=start,
        first_target=start + length[begins],
        end=torch.cat([start[1:], size.sum()[None]]),
        longest=longest,
    )


class SequenceDataLoader(AbstractDataLoader):
    """Batches of windows of training sequences; every target of the training part is in one window of each epoch.

    A window has at most W targets: W is ``MAX_ITEM_LIST_LENGTH``, or the model's ``history_length``, or the longest history
    of a training row, whichever is least. A sequence with more targets is cut into windows at places that are drawn anew for
    each epoch. The inputs of a window are the items before its last target, as many as the model reads in one pass: W, or
    2 W for a model that ``reads_before_window``, so that also a window's first target has a history where there is one.

    A batch has (``B`` windows, ``L`` inputs of the longest one, padding 0 on the right):

    * ``item_id_list`` ``[B, L]``, the inputs, and ``item_length`` ``[B]``, how many they are;
    * ``targets`` ``[B, L]``, the item after each input where that is a target of the window, otherwise 0;
    * ``user_id`` ``[B]``;
    * ``place_in_sequences`` ``[B]``, the index of the item after the first input in :meth:`SequenceDataset.sequences`.

    ``train_batch_size`` counts targets, as for RecBole's rows. Batches are of windows of similar length, in random order;
    their number is the same in every epoch. All draws come from the loader's generator, whose state a resumed run restores.
    Several processes draw the same batches and take turns in using them.
    """

    def __init__(self, config: Any, dataset: SequenceDataset, sampler: Any, shuffle: bool = True) -> None:
        self.logger = getLogger()
        sequences = dataset.sequences()
        limits = (config["MAX_ITEM_LIST_LENGTH"], config["history_length"], sequences.longest)
        self.window = min(limit for limit in limits if limit)
        self.n_inputs = 2 * self.window if config.model_class.reads_before_window else self.window
        self.sequences = sequences
        padding = torch.zeros(self.n_inputs + 1, dtype=torch.long)
        self._items = torch.cat([sequences.items, padding])  # so that no window reaches past the end
        self._targets = torch.cat([sequences.items * sequences.is_target, padding])
        self._targets_before = torch.cat([padding[:1], sequences.is_target.cumsum(0)])
        self.sample_size = int(sequences.is_target.sum())
        self.fields = (
            dataset.iid_field + config["LIST_SUFFIX"], config["ITEM_LIST_LENGTH_FIELD"], TARGETS, dataset.uid_field, PLACE,
        )  # fmt: skip
        self.rank, self.processes = (0, 1) if config["single_spec"] else (dist.get_rank(), dist.get_world_size())
        super().__init__(config, dataset, sampler, shuffle=True)

    def _init_batch_size_and_step(self) -> None:
        self.step = self.config["train_batch_size"]
        self.set_batch_size(self.step)

    def __len__(self) -> int:
        """Batches of an epoch, of each process."""
        # Of batches at least as large as a window, none is ever empty, wherever the cuts are.
        wanted = -(-self.sample_size // (self.step * self.processes))  # RecBole has divided step by the processes
        return max(1, min(wanted, self.sample_size // (self.window * self.processes)))

    def __iter__(self) -> Iterator[Interaction]:
        start, begin, end, sequence = self._cut_windows()
        size = self._targets_before[end] - self._targets_before[begin]
        order = torch.randperm(len(size), generator=self.generator)
        n_batches = len(self) * self.processes
        pool = self._share_of(size[order], max(1, n_batches // _POOL))
        order = order[torch.argsort(pool * (self.n_inputs + 2) + (end - start)[order], stable=True)]
        bounds = torch.searchsorted(self._share_of(size[order], n_batches), torch.arange(n_batches + 1)).tolist()
        for number in torch.randperm(n_batches, generator=self.generator).tolist()[self.rank :: self.processes]:
            windows = order[bounds[number] : bounds[number + 1]]
            yield self._collate(start[windows], begin[windows], end[windows], sequence[windows])

    def _cut_windows(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Cuts the sequences, at other places each time.

        Returns:
            Of each window with a target: index of its first input, of its first target, the index after its last target, and
            the number of its sequence.
        """
        s, W = self.sequences, self.window
        n_targets = s.end - s.first_target
        drawn = torch.randint(1, W + 1, n_targets.shape, generator=self.generator)
        first_size = torch.where(n_targets > W, drawn, n_targets)
        count = 1 + (n_targets - first_size + W - 1) // W
        sequence = torch.repeat_interleave(count)
        number = torch.arange(len(sequence)) - (count.cumsum(0) - count)[sequence]
        stop = s.first_target[sequence] + first_size[sequence] + number * W
        begin = torch.where(number == 0, s.first_target[sequence], stop - W)
        end = torch.minimum(stop, s.end[sequence])
        start = torch.maximum(s.start[sequence], end - 1 - self.n_inputs)
        kept = self._targets_before[end] > self._targets_before[begin]
        return start[kept], begin[kept], end[kept], sequence[kept]

    def _share_of(self, size: torch.Tensor, shares: int) -> torch.Tensor:
        """Divides windows with ``size`` targets, in order, into shares of equally many targets, up to a window's."""
        return (size.cumsum(0) - size) * shares // self.sample_size

    def _collate(self, start: torch.Tensor, begin: torch.Tensor, end: torch.Tensor, sequence: torch.Tensor) -> Interaction:
        length = end - 1 - start
        index = start[:, None] + torch.arange(int(length.max()))
        items = self._items[index] * (index < (end - 1)[:, None])
        index += 1
        targets = self._targets[index] * ((index >= begin[:, None]) & (index < end[:, None]))
        fields = items, length, targets, self.sequences.users[sequence], start + 1
        return Interaction(dict(zip(self.fields, fields, strict=True)))
