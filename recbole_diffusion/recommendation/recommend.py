"""Top-k lists of a trained model for users or for raw histories."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.data.interaction import Interaction
from recbole.utils import ModelType
from tqdm import tqdm

from recbole_diffusion.adapter.eval_input import reads_items, reads_items_of_anyone, show_items, training_and_validation
from recbole_diffusion.adapter.item_names import item_names
from recbole_diffusion.adapter.precision import matmul_precision
from recbole_diffusion.adapter.trained import load_trained
from recbole_diffusion.adapter.user_items import ItemLists, items_of_users
from recbole_diffusion.recommendation.lists import Lists, check_file, writing
from recbole_diffusion.recommendation.nearest import ApproximateSearch
from recbole_diffusion.settings import SettingsError

INPUTS = ("all", "train")

_CELLS = 1 << 24  # scores that are held at once
_ROWS = 1024  # users that are served at once, at most: a model of sequences needs memory for each of their items
_CELLS_PER_LISTED = 64  # a listed item takes as much memory as so many scores: its id, score and name as Python objects
_COMPARED = 1000  # users whose approximate lists are compared with the exact ones

Array = np.ndarray[Any, Any]


def recommend(
    checkpoint: str | Path,
    users: str | Sequence[Any] | None = None,
    *,
    histories: str | Sequence[str | Sequence[Any]] | None = None,
    k: int = 10,
    out: str | Path | None = None,
    keep_seen: bool = False,
    input: str = "all",
    names: bool = False,
    approximate: bool = False,
    trust_pickle: bool = False,
    show_progress: bool = False,
) -> pd.DataFrame | None:
    """Recommends items to users of the data that a model was trained on, or for histories of anybody.

    A user's items are those of all parts of the data, in order: a sequential model reads the latest ``MAX_ITEM_LIST_LENGTH``
    of them, a general model that reads a user's row all of them. Nothing is trained. Memory beside the model's and the
    data's: scores of some users at a time, however many there are; the frame, if one is returned.

    Where a DiffRec adds noise when it scores (``sampling_steps``, ``sampling_noise``), the noise of a raw history depends on
    its place among the histories, that of a user on the user only.

    Args:
        checkpoint: file that a run saved.
        users: original ids, or one; None means all users, unless ``histories`` are given.
        histories: original item ids of each, oldest first; a string has them separated by blanks.
        k: length of a list.
        out: ``.csv``, ``.parquet`` (needs pyarrow) or ``.jsonl`` file, or ``-`` for CSV on standard output; None returns a
            frame.
        keep_seen: also recommend what the user or the history has had.
        input: ``train`` takes the training part for all that a user has had.
        names: add the items' names, where the data set has them.
        approximate: search item embeddings (DreamRec's, or our other sequential models') with faiss; prints the recall against
            exact search on standard error.
        trust_pickle: also read RecBole's own checkpoints, which **can run any code**.
        show_progress: draw a progress bar on standard error.

    Returns:
        With ``out=None`` a frame with the columns ``user`` or ``history`` (numbered from 1), ``rank``, ``item``, ``score``
        and, with ``names``, ``name``. Ids are strings. Unknown users and items are named on standard error and left out.

    Raises:
        SettingsError: bad arguments, a bad checkpoint, a model that cannot serve what is asked, or nothing to serve.
    """
    if users is not None and histories is not None:
        raise SettingsError("users and histories are both given; give one of them")
    users, histories = ([one] if isinstance(one, str) else one for one in (users, histories))
    if input not in INPUTS:
        raise SettingsError(f"input = {input!r}: must be one of {', '.join(INPUTS)}")
    if out is not None:
        check_file(out)
    config, model, dataset, *loaders = load_trained(str(checkpoint), trust_pickle)
    if not 1 <= k < dataset.item_num:
        raise SettingsError(f"k = {k}: must be between 1 and the number of items, {dataset.item_num - 1}")
    model.eval()
    search = ApproximateSearch(model) if approximate else None
    parts = _parts(loaders, input)
    asked = _users(config, model, parts, users) if histories is None else _histories(config, model, parts, histories)
    if not len(asked.numbers):
        raise SettingsError(f"nothing to recommend: no {asked.label} is left")
    ranking = _Ranking(config, model, dataset, k, keep_seen)
    lists = _lists(asked, ranking, search, names, show_progress)
    if out is None:
        return pd.concat([each.frame() for each in lists], ignore_index=True)
    with writing(out) as write:
        for each in lists:
            write(each)
    return None


def _parts(loaders: Sequence[Any], input: str) -> list[Any]:
    """The parts of the data that say what users have had."""
    parts = [loader._dataset for loader in loaders]
    if input == "train":
        return parts[:1]
    # A refitted model's training loader has the validation part in it; samplers know the parts as they were split.
    return getattr(loaders[-1]._sampler, "parts", parts)


# ------------------------------------------------------------------------------------------------------- who is asked for


@dataclasses.dataclass(frozen=True)
class _Asked:
    """Whom lists are made for.

    Attributes:
        label: ``user`` or ``history``.
        numbers: of their lists in ``had``, ``[n]``.
        ids: of the lists in ``had``.
        had: the items of each.
        batch: what the model reads for some ``numbers``.
        limit: at most so many at once, or None.
    """

    label: str
    numbers: Array
    ids: Array
    had: ItemLists
    batch: Callable[[Array], Interaction]
    limit: int | None = None


def _users(config: Any, model: Any, parts: list[Any], users: Sequence[Any] | None) -> _Asked:
    data = parts[0]
    known = data.field2token_id[data.uid_field]
    if users is None:
        numbers = np.arange(1, data.user_num)
    else:
        numbers, unknown = _internal(users, known)
        _report("unknown users", unknown)
    had, _ = items_of_users(parts)
    ids = np.asarray(data.field2id_token[data.uid_field]).astype(str).astype(object)
    if _is_sequential(config):
        empty = had.lengths()[numbers] == 0
        _report("users without interactions", ids[numbers[empty]])
        numbers = numbers[~empty]

        def batch(some: Array) -> Interaction:
            return data.join(Interaction({data.uid_field: torch.from_numpy(some)} | _sequences(model, had, some)))

    else:
        if reads_items(config):
            show_items(model, reduce(training_and_validation, parts))

        def batch(some: Array) -> Interaction:
            return data.join(Interaction({data.uid_field: torch.from_numpy(some)}))

    return _Asked("user", numbers, ids, had, batch)


def _histories(config: Any, model: Any, parts: list[Any], histories: Sequence[str | Sequence[Any]]) -> _Asked:
    data = parts[0]
    sequential = _is_sequential(config)
    if not sequential and not reads_items_of_anyone(config):
        raise SettingsError(f"histories: {config['model']} scores its own users only, not any list of items; give users")
    known = data.field2token_id[data.iid_field]
    lists = []
    for number, history in enumerate(histories, 1):
        items, unknown = _internal(history.split() if isinstance(history, str) else history, known)
        _report(f"history {number}: unknown items", unknown)
        if not len(items):
            _report("left out, without a known item", [f"history {number}"])
        lists.append(items.tolist())
    had = ItemLists.of(lists)

    def batch(some: Array) -> Interaction:
        if sequential:
            return Interaction(_sequences(model, had, some))
        row, item = had.entries(some)
        columns = {data.uid_field: torch.from_numpy(row + 1), data.iid_field: torch.from_numpy(item)}
        if data.time_field is not None:  # for models that weight items by their order
            columns[data.time_field] = torch.arange(len(row), dtype=torch.float64)
        show_items(model, data.copy(Interaction(columns)))
        return Interaction({data.uid_field: torch.arange(1, len(some) + 1)})

    # A general model has rows for as many users as its data have: the histories take their places.
    limit = None if sequential else data.user_num - 1
    return _Asked("history", np.flatnonzero(had.lengths()), np.arange(1, len(lists) + 1), had, batch, limit)


def _is_sequential(config: Any) -> bool:
    return config["MODEL_TYPE"] == ModelType.SEQUENTIAL


def _sequences(model: Any, had: ItemLists, some: Array) -> dict[str, torch.Tensor]:
    items, length = had.latest(some, model.max_seq_length)
    return {model.ITEM_SEQ: items, model.ITEM_SEQ_LEN: length}


def _internal(tokens: Sequence[Any], known: dict[str, int]) -> tuple[Array, list[str]]:
    """Internal ids of the tokens that there are, in order, and the others; id 0 is padding, whose token nobody has."""
    numbers = [known.get(str(token), 0) for token in tokens]
    unknown = [str(token) for token, number in zip(tokens, numbers, strict=True) if not number]
    return np.array([number for number in numbers if number], dtype=np.int64), unknown


def _report(what: str, ids: Sequence[str] | Array) -> None:
    if len(ids):
        print(f"{what}: {', '.join(ids)}", file=sys.stderr)


# ----------------------------------------------------------------------------------------------------------------- ranking


def chunk_size(n_items: int, k: int, limit: int | None = None) -> int:
    """How many users are served at once, so that their scores and lists take a fixed amount of memory."""
    return max(1, min(_CELLS // (n_items + _CELLS_PER_LISTED * k), limit or _ROWS, _ROWS))


class _Ranking:
    """The best ``k`` items of a batch."""

    def __init__(self, config: Any, model: Any, dataset: Any, k: int, keep_seen: bool) -> None:
        self.config, self.model, self.dataset, self.k, self.keep_seen = config, model, dataset, k, keep_seen

    @torch.no_grad()
    def __call__(self, batch: Interaction, had: tuple[Array, Array], search: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and ids ``[B, k]``, best first; the score is -inf where no item is left.

        Args:
            batch: what the model reads.
            had: the items that each row has had, as from :meth:`ItemLists.entries`.
            search: has a method ``topk``; None ranks by the model's own scores.
        """
        batch = batch.to(self.config["device"])
        row, item = (torch.from_numpy(values[: 0 if self.keep_seen else None]) for values in had)
        with matmul_precision(self.config):
            try:
                found = search or (self.model if hasattr(self.model, "topk") else None)
                scores, items = self._of_all(batch, row, item) if found is None else self._of_best(found, batch, row, item)
            except KeyError as error:
                if error.args[0] in batch:
                    raise
                name = self.config["model"]
                raise SettingsError(f"{name} reads {error.args[0]!r} as well, which a list of items does not say") from error
        return scores.cpu(), items.cpu()

    def _of_best(self, found: Any, batch: Interaction, row: torch.Tensor, item: torch.Tensor) -> tuple[Any, Any]:
        """From the best items of all, as many more of them as somebody has had."""
        n = self.dataset.item_num
        more = int(torch.bincount(row).max()) if len(row) else 0
        scores, items = found.topk(batch, min(self.k + more, n - 1))
        row, item = row.to(items.device), item.to(items.device)
        own = torch.arange(len(items), device=items.device)[:, None] * n + items
        masked = torch.isin(own, row * n + item)
        order = masked.long().sort(dim=1, stable=True).indices[:, : self.k]
        return scores.masked_fill(masked, -torch.inf).gather(1, order), items.gather(1, order)

    def _of_all(self, batch: Interaction, row: torch.Tensor, item: torch.Tensor) -> tuple[Any, Any]:
        """From the scores of all items."""
        try:
            scores = self.model.full_sort_predict(batch)
        except NotImplementedError:
            scores = torch.cat([self._pairs(batch[[row]]) for row in range(len(batch))])
        scores = scores.view(-1, self.dataset.item_num)
        scores[:, 0] = -torch.inf
        scores[row.to(scores.device), item.to(scores.device)] = -torch.inf
        return scores.topk(self.k)

    def _pairs(self, one: Interaction) -> torch.Tensor:
        """Scores of a user and every item, for models that score pairs only."""
        pairs = one.repeat_interleave(self.dataset.item_num)
        pairs.update(self.dataset.get_item_feature().to(self.config["device"]))
        return self.model.predict(pairs)


def _lists(asked: _Asked, ranking: _Ranking, search: Any, names: bool, show_progress: bool) -> Iterator[Lists]:
    """Lists of some users at a time."""
    data = ranking.dataset
    tokens = np.asarray(data.field2id_token[data.iid_field]).astype(str).astype(object)
    called = np.array(["", *item_names(ranking.config, data)], dtype=object) if names else None
    n = len(asked.numbers)
    compared = np.zeros(n, dtype=bool)
    if search is not None:
        compared[np.random.default_rng(0).choice(n, min(n, _COMPARED), replace=False)] = True
    hits = total = 0
    size = chunk_size(data.item_num, ranking.k, asked.limit)
    with tqdm(total=n, unit=f" {asked.label}", disable=not show_progress) as bar:
        for start in range(0, n, size):
            some = asked.numbers[start : start + size]
            batch, had = asked.batch(some), asked.had.entries(some)
            scores, items = ranking(batch, had, search)
            if search is not None and (sample := compared[start : start + size]).any():
                best, exact = ranking(batch, had)
                one = torch.from_numpy(sample)
                real = best[one] > -torch.inf
                same = (exact[one][:, :, None] == items[one].masked_fill(scores[one] == -torch.inf, 0)[:, None]).any(2)
                hits, total = hits + int((same & real).sum()), total + int(real.sum())
            listed = (scores > -torch.inf).numpy()
            number = items.numpy()
            yield Lists(
                label=asked.label,
                ids=asked.ids[some],
                items=tokens[number],
                scores=scores.numpy(),
                listed=listed,
                names=None if called is None else called[number],
            )
            bar.update(len(some))
    if search is not None:
        print(
            f"approximate search: recall@{ranking.k} {hits / max(total, 1):.4f} against exact search, "
            f"{compared.sum()} of {n} lists compared",
            file=sys.stderr,
        )
