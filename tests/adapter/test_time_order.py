"""Interactions are ordered by their exact times, ties by file order: against pandas on float64."""

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction, cat_interactions
from recbole.utils import init_seed

from recbole_diffusion.adapter.time_order import exact_time
from recbole_diffusion.model.interaction_rows import InteractionRows
from toy import COLUMNS, write_inter

NOW = 1_700_000_000  # float32 has steps of 128 here
RO, TO = "RO", "TO"


@pytest.fixture
def frame(tmp_path):
    """Rows of 12 users in random file order: times one second apart, every fourth one a tie."""
    random = np.random.default_rng(7)
    rows = [(user, item, NOW + user + item - (item % 4 == 3)) for user in range(12) for item in range(20)]
    rows = [rows[i] for i in random.permutation(len(rows))]
    write_inter(tmp_path, "seconds", rows)
    frame = pd.DataFrame(rows, columns=["user", "item", "time"])
    return frame.assign(row=range(len(frame)))


def build(tmp_path, model, order=TO, split=None, name="seconds", **settings):
    evaluation = {"split": split or {"RS": [8, 1, 1]}, "order": order, "group_by": "user", "mode": "full"}
    given = {"data_path": str(tmp_path), "state": "ERROR", "eval_args": evaluation, "train_neg_sample_args": None}
    if model in ("DIEN", "FM"):  # for AUC by default
        given |= {"metrics": ["Recall"], "valid_metric": "Recall@10"}
    config = Config(model=model, dataset=name, config_dict=COLUMNS | given | settings)
    init_seed(config["seed"], config["reproducibility"])
    return create_dataset(config).build()


def named(part, field):
    """A column under the names of the file."""
    return part.field2id_token[field][part.inter_feat[field].numpy()].astype(int)


def pairs(part):
    return list(zip(named(part, "user_id"), named(part, "item_id"), strict=True))


def in_order(frame):
    """Each user's items by time, then by place in the file."""
    return frame.sort_values(["time", "row"]).groupby("user")["item"].agg(list)


@pytest.mark.parametrize("model", ["SASRec", "DreamRec"])
def test_a_sequence_ends_with_the_newest_item(tmp_path, frame, model):
    leave_one_out = {"LS": "valid_and_test"}
    parts = build(tmp_path, model, split=leave_one_out)
    for user, items in in_order(frame).items():
        for part, place in zip(parts[1:], (-2, -1), strict=True):
            row = int(np.flatnonzero(named(part, "user_id") == user).item())
            length = part.inter_feat["item_length"][row]
            history = part.field2id_token["item_id"][part.inter_feat["item_id_list"][row, :length].numpy()]
            assert named(part, "item_id")[row] == items[place]
            assert history.astype(int).tolist() == items[:place]


def test_dien_has_an_augmentation_of_its_own(tmp_path, frame):
    negatives = {"distribution": "uniform", "sample_num": 1}
    test = build(tmp_path, "DIEN", split={"LS": "valid_and_test"}, train_neg_sample_args=negatives)[2]
    assert dict(pairs(test)) == in_order(frame).map(lambda items: items[-1]).to_dict()


@pytest.mark.parametrize("model", ["BPR", "DiffRec", "FM"])
def test_parts_of_a_user_are_in_time_order(tmp_path, frame, model):
    train, valid, test = build(tmp_path, model)
    for user, items in in_order(frame).items():
        for part, expected in ((train, items[:16]), (valid, items[16:18]), (test, items[18:])):
            assert [item for u, item in pairs(part) if u == user] == expected


def test_one_order_for_everybody(tmp_path, frame):
    parts = build(tmp_path, "BPR", group_by=None, eval_args={"split": {"RS": [8, 1, 1]}, "order": TO, "group_by": None})
    ordered = frame.sort_values(["time", "row"])
    assert [pair for part in parts for pair in pairs(part)] == list(zip(ordered["user"], ordered["item"], strict=True))


@pytest.mark.parametrize("order", [RO, TO])
def test_time_based_split_cuts_at_the_exact_time(tmp_path, frame, order):
    train, valid, test = build(tmp_path, "BPR", order, {"TS": [8, 1, 1]})
    boundary = np.percentile(frame["time"], 90)
    late = frame[frame["time"] > boundary]
    assert set(pairs(test)) == set(zip(late["user"], late["item"], strict=True))
    for user, rows in frame[frame["time"] <= boundary].sort_values(["time", "row"]).groupby("user"):
        items, cut = rows["item"].tolist(), int(len(rows) * 0.8 / 0.9)
        assert [item for u, item in pairs(train) if u == user] == items[:cut]
        assert [item for u, item in pairs(valid) if u == user] == items[cut:]
    assert train.inter_feat["timestamp"].dtype == torch.float32 and list(train.inter_feat) == list(test.inter_feat)
    assert not any(":" in field for field in train.inter_feat)


@pytest.mark.parametrize("settings", [{}, {"normalize_all": True}, {"numerical_features": ["timestamp"]}])
@pytest.mark.parametrize("order", [RO, TO])
def test_time_weights_rise_with_the_exact_time(tmp_path, frame, order, settings):
    train = build(tmp_path, "TDiffRec", order, **settings)[0]
    rows = InteractionRows.from_dataset(train, (0.1, 1.0))
    kept = frame.merge(pd.DataFrame(pairs(train), columns=["user", "item"]))
    for user, items in in_order(kept).items():
        own = train.token2id("user_id", str(user))
        columns = rows.col[rows.crow[own] : rows.crow[own + 1]].numpy() + 1
        values = rows.val[rows.crow[own] : rows.crow[own + 1]].numpy()
        found = dict(zip(train.field2id_token["item_id"][columns].astype(int), values, strict=True))
        weights = np.linspace(0.1, 1.0, len(items), dtype=np.float32)
        assert [found[item] for item in items] == pytest.approx(weights.tolist())


@pytest.mark.parametrize(("keep", "place"), [("first", 0), ("last", -1)])
def test_repeated_interactions_are_dropped_in_exact_order(tmp_path, keep, place):
    rows = [(1, item, NOW + second, rating) for rating, second in enumerate([3, 0, 0, 3, 1]) for item in range(40)]
    lines = ["user_id:token\titem_id:token\ttimestamp:float\trating:float", *("\t".join(map(str, row)) for row in rows)]
    (tmp_path / "twice").mkdir()
    (tmp_path / "twice" / "twice.inter").write_text("\n".join(lines) + "\n")
    columns = {"inter": ["user_id", "item_id", "timestamp", "rating"]}
    data = build(tmp_path, "BPR", name="twice", rm_dup_inter=keep, load_col=columns)
    kept = torch.cat([part.inter_feat["rating"] for part in data])
    # Of the ties (ratings 1 and 2 at second 0, 0 and 3 at second 3) the one that stands first or last in the file.
    assert kept.tolist() == [[1, 2, 4, 0, 3][place]] * 40


def test_the_times_that_models_see_are_the_same(tmp_path, frame):
    train = build(tmp_path, "BPR")[0]
    seen = train[[3, 1]]
    assert list(seen) == ["user_id", "item_id", "timestamp"] and seen["timestamp"].dtype == torch.float32
    assert "timestamp" in train.inter_feat and len(train.fields()) == 3


def test_small_times_and_data_without_time_stay_where_they_were(tmp_path, monkeypatch):
    random = np.random.default_rng(3)
    write_inter(tmp_path, "small", [(user, item, random.integers(50)) for user in range(9) for item in range(30)])
    for settings, order in (({}, TO), ({}, RO), ({"load_col": {"inter": ["user_id", "item_id"]}}, RO)):
        ours = [pairs(part) for part in build(tmp_path, "BPR", order, name="small", **settings)]
        with monkeypatch.context() as stock:
            for owner in (Interaction, Dataset):
                for name in ("sort", "_reindex", "__getitem__", "_dataframe_to_interaction"):
                    if hasattr(vars(owner).get(name), "__wrapped__"):
                        stock.setattr(owner, name, vars(owner)[name].__wrapped__)
            assert ours == [pairs(part) for part in build(tmp_path, "BPR", order, name="small", **settings)]


def test_a_column_that_a_script_has_changed_counts(tmp_path, frame):
    train = build(tmp_path, "BPR")[0].inter_feat
    train["timestamp"] = -train["timestamp"].new_tensor(np.random.default_rng(0).permutation(len(train)))
    assert exact_time(train) is None
    train.sort("timestamp")
    assert (train["timestamp"].diff() > 0).all()


def test_joined_parts_keep_their_times(tmp_path, frame):
    parts = build(tmp_path, "BPR", RO)
    joined = parts[0].copy(cat_interactions([part.inter_feat for part in parts]))
    joined.sort(["user_id", "timestamp"])
    for user, items in in_order(frame).items():
        assert [item for u, item in pairs(joined) if u == user] == items
