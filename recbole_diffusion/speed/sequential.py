"""What is timed of SASRec, GRU4Rec and DreamRec, trained at every position of a sequence in one pass."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import torch

from recbole_diffusion.adapter.sequences import SequenceDataLoader
from recbole_diffusion.model.sequential_recommender.causal import TARGETS
from recbole_diffusion.model.sequential_recommender.dreamrec import DreamRec
from recbole_diffusion.model.sequential_recommender.packedgru4rec import PackedGRU4Rec
from recbole_diffusion.speed import floor
from recbole_diffusion.speed.data import Loaded, epoch, evaluation, first_histories, load
from recbole_diffusion.speed.floor import Product
from recbole_diffusion.speed.measure import Variant, compare, progress
from recbole_diffusion.speed.sizes import Task

# An epoch that takes longer is extrapolated from as many batches as take about as long.
LONGEST_TURN_S = 8.0
# An evaluation's time is proportional to its histories, but for what DreamRec composes once.
EVALUATED = 1024

_SHARED = ("learning_rate", "train_batch_size", "eval_batch_size")


@dataclasses.dataclass(frozen=True)
class Pair:
    """A model that trains at all positions, and what it is compared with.

    Attributes:
        ours: its name, with ``train_positions: all``.
        peer: RecBole's model; None for ours with ``train_positions: last``, a row for each prefix as in RecBole.
        shared: what both are told alike, so that they are the same network with the same optimiser.
    """

    ours: str
    peer: str | None = None
    shared: tuple[str, ...] = ()


PAIRS = (
    Pair(
        "PackedSASRec",
        "SASRec",
        ("n_layers", "n_heads", "hidden_size", "inner_size", "hidden_dropout_prob", "attn_dropout_prob", "hidden_act"),
    ),
    Pair("PackedGRU4Rec", "GRU4Rec", ("embedding_size", "hidden_size", "num_layers", "dropout_prob")),
    Pair("DreamRec"),
)


def measure(task: Task) -> dict[str, Any]:
    """Times each model against RecBole's own, or against itself with a row for each prefix; see :func:`diffrec.measure`."""
    rows, agreement, counts = [], [], {}
    for pair in PAIRS:
        progress(f"reading the data for {pair.ours} and its peer")
        ours, peer = _load(pair, task)
        agreement.append(
            {
                "what": f"{pair.ours}: difference in the number of an epoch's targets",
                "value": float(abs(ours.train.sample_size - peer.train.sample_size)),
                "allowed": 0.0,
            }
        )
        counts = {key: value for key, value in ours.counts().items() if key in ("items", "users")}
        counts |= {"targets of an epoch": ours.train.sample_size, "evaluated histories": min(EVALUATED, ours.test.sample_size)}
        if "training" in task.parts:
            rows += _training(task, pair, ours, peer)
        if "scoring" in task.parts:
            rows += _evaluation(task, pair, ours, peer)
    return {"rows": rows, "agreement": agreement, "data": counts}


def _load(pair: Pair, task: Task) -> tuple[Loaded, Loaded]:
    ours = load(pair.ours, {**task.settings, "train_positions": "all"}, task.device)
    if pair.peer is None:
        return ours, load(pair.ours, {**task.settings, "train_positions": "last"}, task.device)
    shared = {key: ours.config[key] for key in (*pair.shared, *_SHARED)}
    stock = {**task.settings, **shared, "loss_type": "CE", "train_neg_sample_args": None}
    return ours, load(pair.peer, stock, task.device)


def _training(task: Task, pair: Pair, ours: Loaded, peer: Loaded) -> list[dict[str, Any]]:
    peer_name = f"RecBole's {pair.peer}" if pair.peer else f"{pair.ours}, train_positions: last"
    batches = [training_step(ours, batch) for batch in ours.train]
    products = [product for batch in batches for product in batch]
    n = _batches_of_a_turn(ours, resumable=True)
    part = [product for batch in batches[:n] for product in batch]
    bare = floor.bare("its matrix products alone", part, task.device)
    variants = [
        _epoch(f"{pair.ours}, train_positions: all", ours, n, resumable=True),
        _epoch(peer_name, peer, _batches_of_a_turn(peer, resumable=pair.peer is None), resumable=pair.peer is None),
        dataclasses.replace(bare, work=floor.work(products), scale=floor.work(products)[0] / floor.work(part)[0]),
    ]
    variants[0].work = floor.work(products)
    return compare("training epoch", ours.config["train_batch_size"], variants, task.repeats, task.device)


def _batches_of_a_turn(loaded: Loaded, resumable: bool) -> int:
    """All batches of an epoch where it is short, otherwise as many as fit into a turn, at least one."""
    one = epoch(loaded, resumable, batches=1)
    fit = 0
    for _ in range(2):  # the first call is a warm-up, unless it takes a whole turn
        started = time.perf_counter()
        one()
        fit = int(LONGEST_TURN_S / (time.perf_counter() - started))
        if fit == 0:
            break
    return min(len(loaded.train), max(fit, 1))


def _epoch(name: str, loaded: Loaded, batches: int, resumable: bool) -> Variant:
    """A variant that trains on ``batches`` a turn; if they are not all, the name says so."""
    total = len(loaded.train)
    if batches == total:
        return Variant(name, epoch(loaded, resumable))
    # RecBole's last batch is smaller than the others; batches of windows are of equal size.
    work = total if isinstance(loaded.train, SequenceDataLoader) else loaded.train.sample_size / loaded.train.step
    name = f"{name}, extrapolated from {batches} of {total} batches a turn"
    return Variant(name, epoch(loaded, resumable, batches), scale=work / batches)


def _evaluation(task: Task, pair: Pair, ours: Loaded, peer: Loaded) -> list[dict[str, Any]]:
    """From histories to the metrics, every item ranked. DreamRec's is the same however it has been trained."""
    test = first_histories(ours, EVALUATED)
    products = [product for batch in test for product in scoring(ours, batch[0])]
    if isinstance(ours.model, DreamRec):  # composes its chain once an evaluation
        products += floor.composed_chain(ours.model.settings.hidden_size, ours.model.settings.steps)
    variants = [Variant(pair.ours, evaluation(ours, test, resumable=True), floor.work(products))]
    if pair.peer is not None:
        variants.append(Variant(f"RecBole's {pair.peer}", evaluation(peer, first_histories(peer, EVALUATED))))
    variants.append(floor.bare("its matrix products alone", products, task.device))
    batch = min(ours.config["eval_batch_size"], test.sample_size)
    return compare("evaluation", batch, variants, task.repeats, task.device)


# --------------------------------------------------------------------------------------------------------- the floor


def training_step(loaded: Loaded, batch: Any) -> list[Product]:
    """Matrix products of a step on a batch of windows, without those of padding."""
    lengths, targets = batch[loaded.model.ITEM_SEQ_LEN], int((batch[TARGETS] > 0).sum())
    s = loaded.model.settings
    encoded = _encoder(loaded, lengths, int(lengths.sum()))
    if isinstance(loaded.model, PackedGRU4Rec):
        first, *others = encoded  # the state before the first item is fixed
        return floor.with_gradients([*others, *_scores(loaded, targets)], data=[first])
    if isinstance(loaded.model, DreamRec):
        return floor.dreamrec_step(encoded, targets, s.hidden_size, s.steps)
    return floor.with_gradients(encoded + _scores(loaded, targets))


def scoring(loaded: Loaded, batch: Any) -> list[Product]:
    """Matrix products of scoring all items for a batch of histories."""
    latest = loaded.config["history_length"] or loaded.config["MAX_ITEM_LIST_LENGTH"]
    lengths = batch[loaded.model.ITEM_SEQ_LEN].clamp(max=latest)
    generated = floor.one_shot(len(lengths), loaded.model.settings.hidden_size) if isinstance(loaded.model, DreamRec) else []
    return _encoder(loaded, lengths, len(lengths)) + generated + _scores(loaded, len(lengths))


def _encoder(loaded: Loaded, lengths: torch.Tensor, read_out: int) -> list[Product]:
    """Encodes histories of these lengths, read out at so many positions."""
    s = loaded.model.settings
    if isinstance(loaded.model, PackedGRU4Rec):
        return floor.recurrent(lengths, s.embedding_size, s.hidden_size)
    return floor.transformer(int(lengths.sum()), read_out, s.hidden_size, s.inner_size, s.n_layers)


def _scores(loaded: Loaded, n: int) -> list[Product]:
    """All items' scores at n positions."""
    s, n_items = loaded.model.settings, loaded.model.n_items
    if isinstance(loaded.model, PackedGRU4Rec):
        return [(n, s.hidden_size, s.embedding_size), (n, s.embedding_size, n_items)]
    return [(n, s.hidden_size, n_items)]
