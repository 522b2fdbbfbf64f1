"""Whole sequences as training rows: the same targets with the same histories as RecBole's rows, in windows."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from recbole.data import create_dataset, data_preparation
from recbole.data.dataset import SequentialDataset

from recbole_diffusion.adapter.config import build_config
from recbole_diffusion.adapter.eval_input import training_and_validation
from recbole_diffusion.adapter.seen_items import SeenItems
from recbole_diffusion.adapter.sequences import SequenceDataLoader, SequenceDataset, join_rows
from toy import COLUMNS, QUIET, write_inter

SPLITS = {
    "leave one out": {"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO", "mode": "full"},
    "ratio of a user": {"split": {"RS": [0.6, 0.2, 0.2]}, "group_by": "user", "order": "TO", "mode": "full"},
    "ratio of all": {"split": {"RS": [0.6, 0.2, 0.2]}, "group_by": None, "order": "TO", "mode": "full"},
    "point in time": {"split": {"TS": [0.6, 0.2, 0.2]}, "group_by": "user", "order": "TO", "mode": "full"},
}


@pytest.fixture(autouse=True)
def recbole_s_loop(monkeypatch):
    """RecBole's data set as it comes, whose rows are expected here."""
    monkeypatch.setattr(SequentialDataset, "data_augmentation", SequentialDataset.data_augmentation.__wrapped__)


@pytest.fixture
def walks(tmp_path):
    """Users with 1 to 29 items, some more than once, some at the same time; rows in random order."""
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user}", f"i{rng.integers(40)}", int(rng.integers(100)))
        for user, length in enumerate(rng.integers(1, 30, 40))
        for _ in range(length)
    ]
    write_inter(tmp_path, "walks", [rows[i] for i in rng.permutation(len(rows))])
    return COLUMNS | {"data_path": str(tmp_path)}


def config_of(settings, model="PackedSASRec"):
    return build_config(model, "walks", None, QUIET | {"topk": [5], "valid_metric": "NDCG@5"} | settings)


def loader_of(settings, model="PackedSASRec"):
    config = config_of(settings, model)
    return data_preparation(config, create_dataset(config))[0]


def pairs_of_rows(rows):
    """(user, history, target) of RecBole's rows."""
    histories = [row[:length] for row, length in zip(rows["item_id_list"].tolist(), rows["item_length"].tolist(), strict=True)]
    return [
        (user, tuple(history), item)
        for user, history, item in zip(rows["user_id"].tolist(), histories, rows["item_id"].tolist(), strict=True)
    ]


def pairs_of_windows(batches):
    """(user, all inputs up to a target, target) of every target of the batches."""
    pairs = []
    for batch in batches:
        for user, items, targets in zip(*(batch[key].tolist() for key in ("user_id", "item_id_list", "targets")), strict=True):
            pairs += [(user, tuple(items[: i + 1]), target) for i, target in enumerate(targets) if target]
    return pairs


@pytest.mark.parametrize("split", SPLITS)
def test_the_parts_have_recbole_s_rows(walks, split):
    config = config_of(walks | {"eval_args": SPLITS[split], "MAX_ITEM_LIST_LENGTH": 7})
    ours, stock = SequenceDataset(config).build(), SequentialDataset(config).build()
    for our, their in zip(ours, stock, strict=True):
        assert len(our) == len(their) > 0
        rows = our[torch.arange(len(our))]
        assert set(rows.columns) - {"place_in_sequences"} == set(their.inter_feat.columns)
        for field in their.inter_feat.columns:
            assert torch.equal(rows[field], their.inter_feat[field]), field
        assert (our.inter_matrix(form="csr") != their.inter_matrix(form="csr")).nnz == 0


@pytest.mark.parametrize("split", SPLITS)
def test_windows_that_hold_whole_sequences_have_the_pairs_of_recbole_s_rows(walks, split):
    loader = loader_of(walks | {"eval_args": SPLITS[split], "train_batch_size": 60})
    assert isinstance(loader, SequenceDataLoader)
    expected = pairs_of_rows(SequentialDataset(loader.config).build()[0].inter_feat)
    assert Counter(pairs_of_windows(loader)) == Counter(expected)


def test_training_and_validation_rows_together_are_sequences_too(walks):
    config = config_of(walks | {"train_batch_size": 60})
    train, valid, _ = SequenceDataset(config).build()
    loader = SequenceDataLoader(config, training_and_validation(train, valid), None)
    stock = SequentialDataset(config).build()
    expected = pairs_of_rows(stock[0].inter_feat) + pairs_of_rows(stock[1].inter_feat)
    assert Counter(pairs_of_windows(loader)) == Counter(expected)


@pytest.mark.parametrize("split", SPLITS)
def test_seen_items_are_those_of_recbole_s_rows(walks, split):
    config = config_of(walks | {"eval_args": SPLITS[split], "MAX_ITEM_LIST_LENGTH": 7})
    ours, stock = SequenceDataset(config).build(), SequentialDataset(config).build()
    for part in (1, 2):
        index = np.arange(len(ours[part]))
        found, expected = (SeenItems(parts[part], parts).of(index) for parts in (ours, stock))
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize("model", ["PackedSASRec", "PackedGRU4Rec"])
def test_a_long_sequence_loses_no_target(walks, model):
    W = 5
    loader = loader_of(walks | {"MAX_ITEM_LIST_LENGTH": W, "train_batch_size": 30}, model)
    stock = SequentialDataset(config_of(walks)).build()[0].inter_feat  # histories of up to 50, so whole ones
    expected = pairs_of_rows(stock)
    for batches in [list(loader), list(loader)]:
        pairs = pairs_of_windows(batches)
        assert len(batches) == len(loader)
        assert sorted((user, item) for user, _, item in pairs) == sorted((user, item) for user, _, item in expected)
        # What precedes a target in its window is what preceded it in the sequence.
        latest = {(user, history[-n:], item) for user, history, item in expected for n in range(1, len(history) + 1)}
        assert set(pairs) <= latest
        for batch in batches:
            n_targets = (batch["targets"] > 0).sum(1)
            assert 1 <= n_targets.min() and n_targets.max() <= W
            assert torch.equal(batch["item_length"], (batch["item_id_list"] > 0).sum(1))
            assert n_targets.sum() <= 30 + W
            row, column = batch["targets"].nonzero(as_tuple=True)
            place = batch["place_in_sequences"][row] + column
            assert torch.equal(loader.sequences.items[place], batch["targets"][row, column])


def test_a_model_without_positions_reads_before_its_window(walks):
    W = 5
    loader = loader_of(walks | {"MAX_ITEM_LIST_LENGTH": W}, "PackedGRU4Rec")
    lengths = {}
    for user, history, item in pairs_of_windows(loader):
        lengths.setdefault((user, item), []).append(len(history))
    for user, history, item in pairs_of_rows(SequentialDataset(config_of(walks)).build()[0].inter_feat):
        assert max(lengths[user, item]) >= min(len(history), W)


def test_cuts_move_from_epoch_to_epoch_and_come_from_the_generator(walks):
    loader = loader_of(walks | {"MAX_ITEM_LIST_LENGTH": 5})
    state = loader.generator.get_state()
    first, second = set(pairs_of_windows(loader)), set(pairs_of_windows(loader))
    assert first != second
    loader.generator.set_state(state)
    torch.manual_seed(5)  # of no concern to the loader
    assert set(pairs_of_windows(loader)) == first


def test_every_place_is_cut_in_time(walks):
    """Of a sequence of 29 items and windows of 5, every target begins a window once."""
    loader = loader_of(walks | {"MAX_ITEM_LIST_LENGTH": 5})
    s = loader.sequences
    longest = int((s.end - s.first_target).argmax())
    begins = set()
    for _ in range(60):
        _, begin, _, sequence = loader._cut_windows()
        begins |= set(begin[sequence == longest].tolist())
    assert begins == set(range(s.first_target[longest], s.end[longest]))


@pytest.mark.parametrize(("batch", "window"), list(itertools.product([1, 7, 40, 10**6], [1, 3, 50])))
def test_no_batch_is_empty(walks, batch, window):
    loader = loader_of(walks | {"MAX_ITEM_LIST_LENGTH": window, "train_batch_size": batch})
    for _ in range(3):
        sizes = [int((part["targets"] > 0).sum()) for part in loader]
        assert len(sizes) == len(loader) and min(sizes) >= 1 and sum(sizes) == len(loader._dataset)


def test_windows_are_as_short_as_what_the_model_reads(walks):
    loader = loader_of(walks | {"train_positions": "all", "history_length": 4}, "DreamRec")
    assert max(batch["item_id_list"].shape[1] for batch in loader) == 4
    assert isinstance(loader_of(walks | {"history_length": 4}, "DreamRec")._dataset, SequenceDataset)


def test_batches_are_of_windows_of_similar_length(walks):
    batches = list(loader_of(walks | {"train_batch_size": 30}))
    padding = sum(int((batch["item_id_list"] == 0).sum()) for batch in batches)
    assert padding < 0.25 * sum(batch["item_id_list"].numel() for batch in batches)


def test_processes_share_the_batches_of_an_epoch(walks):
    """Every target is in the batches of one process, and each process has as many batches."""
    whole = loader_of(walks | {"MAX_ITEM_LIST_LENGTH": 5})
    found = []
    for rank in range(3):
        loader = loader_of(walks | {"MAX_ITEM_LIST_LENGTH": 5})
        loader.rank, loader.processes, loader.step = rank, 3, 20
        batches = list(loader)
        assert len(batches) == len(loader) > 1
        found += pairs_of_windows(batches)
    assert sorted((user, item) for user, _, item in found) == sorted((u, item) for u, _, item in pairs_of_windows(whole))


# ------------------------------------------------------------------------------------------------------- given parts

# (user, history, target). Rows 0-2 are one sequence; so are 4-7, whose histories are cut at 3; the others are alone: an
# empty history, another user's, one that skips an item, one whose history is shorter than it would be.
GIVEN = [
    ("a", "1", "2"), ("a", "1 2", "3"), ("a", "1 2 3", "4"),
    ("a", "", "5"),
    ("b", "5", "6"), ("b", "5 6", "7"), ("b", "5 6 7", "8"), ("b", "6 7 8", "9"),
    ("c", "7 8 9", "1"),
    ("c", "8 9 2", "1"),
    ("c", "9 2", "1"),
]  # fmt: skip
SEQUENCES = ["1 2 3 4", "[PAD] 5", "5 6 7 8 9", "7 8 9 1", "8 9 2 1", "9 2 1"]


@pytest.fixture
def given(tmp_path):
    (tmp_path / "given").mkdir()
    header = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
    for part, rows in {"train": GIVEN, "valid": GIVEN[:2], "test": GIVEN[4:6]}.items():
        (tmp_path / "given" / f"given.{part}.inter").write_text(header + "".join("\t".join(row) + "\n" for row in rows))

    def build(**settings):
        columns = {"load_col": {"inter": ["user_id", "item_id_list", "item_id"]}, "alias_of_item_id": ["item_id_list"]}
        parts = {"data_path": str(tmp_path), "benchmark_filename": ["train", "valid", "test"]}
        few = {"topk": [1], "valid_metric": "NDCG@1"}
        config = build_config("PackedSASRec", "given", None, QUIET | columns | parts | few | settings)
        return data_preparation(config, create_dataset(config))[0]

    return build


@pytest.mark.parametrize("width", [3, 50])
def test_given_rows_are_joined_into_sequences(given, width):
    loader = given(MAX_ITEM_LIST_LENGTH=width)
    s, data = loader.sequences, loader._dataset
    joined = [" ".join(data.id2token("item_id", s.items[a:b].numpy())) for a, b in zip(s.start, s.end, strict=True)]
    assert joined == SEQUENCES
    assert loader.window == s.longest == 3


def test_windows_of_joined_rows_have_the_pairs_of_the_rows(given):
    """Of the sequence that is longer than a window, a target has its row's history or the latest part of it."""
    loader = given()
    rows = loader._dataset.inter_feat
    expected, pairs = pairs_of_rows(rows), pairs_of_windows(loader)
    shorter = {(user, history[-n:], item) for user, history, item in expected for n in (1, 2, 3)}
    assert sorted(item for *_, item in pairs) == sorted(item for *_, item in expected) and set(pairs) <= shorter
    short = [pair for pair in expected if pair[0] == 1]  # the first user's sequences fit
    assert sorted(pair for pair in pairs if pair[0] == 1) == sorted(short)


def test_joining_undoes_cutting():
    """Sequences without repeated items, cut into rows as RecBole cuts them, come back whole."""
    rng = np.random.default_rng(1)
    longest = 6
    for _ in range(20):
        wholes = [rng.permutation(np.arange(1, 60))[: rng.integers(2, 15)] for _ in range(5)]
        rows = [(whole[max(0, i - longest) : i], whole[i], u) for u, whole in enumerate(wholes) for i in range(1, len(whole))]
        lists = torch.stack([torch.nn.functional.pad(torch.as_tensor(h), (0, 9 - len(h))) for h, *_ in rows])
        length = torch.tensor([len(history) for history, *_ in rows])
        s = join_rows(lists, length, torch.tensor([t for _, t, _ in rows]), torch.tensor([u for *_, u in rows]))
        assert [s.items[a:b].tolist() for a, b in zip(s.start, s.end, strict=True)] == [whole.tolist() for whole in wholes]
        assert s.users.tolist() == list(range(5)) and torch.equal(s.first_target, s.start + 1)
        assert int(s.is_target.sum()) == len(rows)
