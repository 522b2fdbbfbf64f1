"""The values of each test user: their means are the record's figures, and equal runs give equal files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_diffusion import load_data_and_model, run_recbole_diffusion
from recbole_diffusion.benchmark.per_user import read_users, users_file, write_users
from recbole_diffusion.settings import SettingsError
from toy import QUIET, checkerboard, two_circles, write_inter

SMALL = QUIET | {"epochs": 2, "topk": [1, 5], "valid_metric": "MRR@5", "metrics": ["Recall", "MRR", "NDCG"],
                 "metric_decimal_place": 9}  # fmt: skip
KEPT = {f"{name}@{k}" for name in ("recall", "ndcg", "mrr") for k in (1, 5)}


def run(model, folder, record="run.json", **settings):
    sequential = model in ("SASRec", "PackedSASRec", "SequentialKNN", "DreamRec")
    data = two_circles(folder, 31) if sequential else checkerboard(folder, 31)
    name = "circles" if sequential else "checkerboard"
    return run_recbole_diffusion(model, name, None, SMALL | data | settings, record=record)


@pytest.mark.parametrize("model", ["DiffRec", "ItemKNN", "PackedSASRec", "SASRec"])
def test_the_mean_over_users_is_the_figure_of_the_record(model, tmp_path):
    record = run(model, tmp_path)
    values = read_users(record, tmp_path)
    assert set(values) == KEPT
    for name, of_users in values.items():
        assert of_users.shape == (31,) and of_users.mean() == pytest.approx(record["test"][name], abs=1e-6)
    assert json.loads(Path("run.json").read_text())["per_user"] == record["per_user"]


def test_several_processes_write_one_file_of_all_users(tmp_path):
    record = run("ItemKNN", tmp_path)
    two = run("ItemKNN", tmp_path, "two.json", nproc=2)
    assert two["per_user"] == record["per_user"] | {"file": "two.users.npz"}
    assert two["beyond_accuracy"] == pytest.approx(record["beyond_accuracy"])


def test_equal_runs_write_equal_bytes(tmp_path):
    one, two = (run("DiffRec", tmp_path, f"{name}.json") for name in ("one", "two"))
    assert Path("one.users.npz").read_bytes() == Path("two.users.npz").read_bytes()
    assert one["per_user"]["sha256"] == two["per_user"]["sha256"]


def test_users_stand_in_the_order_of_their_names_and_have_the_mean_of_their_rows(tmp_path):
    values = {"ndcg@5": np.array([1.0, 0.25, 0.5, 0.75], dtype=np.float32)}
    about = write_users(tmp_path / "a.users.npz", ["b", "a10", "b", "a9"], values)
    other = write_users(tmp_path / "b.users.npz", ["a10", "a9", "b"], {"ndcg@5": np.zeros(3, dtype=np.float32)})
    assert read_users({"per_user": about}, tmp_path)["ndcg@5"].tolist() == [0.25, 0.75, 0.75]
    assert about["users"] == 3 and about["users_sha256"] == other["users_sha256"] and about["sha256"] != other["sha256"]


def test_a_changed_file_is_refused(tmp_path):
    record = run("ItemKNN", tmp_path)
    file = tmp_path / record["per_user"]["file"]
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(SettingsError, match="not the file that its record names"):
        read_users(record, tmp_path)
    file.unlink()
    with pytest.raises(SettingsError, match="not there"):
        read_users(record, tmp_path)
    assert read_users({}, tmp_path) == {}


def test_a_record_under_way_has_the_file_of_the_finished_one():
    assert users_file("runs/a-0.5.json") == users_file("runs/a-0.5.running") == Path("runs/a-0.5.users.npz")


@pytest.mark.parametrize("mask_seen", [None, True])
def test_both_maskings_equal_a_run_each(mask_seen, tmp_path):
    """A user who returns to items: masked and unmasked rankings differ."""
    rows = [(user, (user + step * step) % 7, step) for user in range(40) for step in range(9)]
    write_inter(tmp_path, "returning", rows)
    data = SMALL | {"data_path": str(tmp_path), "load_col": {"inter": ["user_id", "item_id", "timestamp"]}}

    def runs(**settings):
        return run_recbole_diffusion("SequentialKNN", "returning", None, data | settings, record="run.json")

    alone = {"masked": runs(mask_seen=True)["test"], "unmasked": runs(mask_seen=None)["test"]}
    both = runs(mask_seen=mask_seen, both_maskings=True)
    asked, other = ("masked", "unmasked") if mask_seen else ("unmasked", "masked")
    assert alone["masked"] != alone["unmasked"]
    assert both["test_by_masking"] == alone and both["test"] == alone[asked]
    assert both["settings"]["mask_seen"] is mask_seen
    values = read_users(both, tmp_path)
    assert set(values) == KEPT | {f"{other}:{name}" for name in KEPT}
    for name in KEPT:
        assert values[f"{other}:{name}"].mean() == pytest.approx(alone[other][name], abs=1e-6)


def test_both_maskings_of_a_general_model(tmp_path):
    both = run("ItemKNN", tmp_path, both_maskings=True)
    alone = run("ItemKNN", tmp_path, mask_seen=False)["test"]
    assert both["test_by_masking"] == {"masked": both["test"], "unmasked": alone} and both["test"] != alone


def test_both_maskings_need_a_ranking_of_all_items(tmp_path):
    cases = {
        "only candidates": {"eval_args": {"mode": {"valid": "full", "test": "uni5"}}},
        "every item": {"repeatable": True},
    }
    for message, settings in cases.items():
        with pytest.raises(SettingsError, match=f"both_maskings = True: .*{message}"):
            run("ItemKNN", tmp_path, both_maskings=True, **settings)


def test_what_the_lists_are_like_by_hand(tmp_path):
    """From the lists themselves; RecBole counts the padding as an item. The Gini index by its definition, over all pairs."""
    record = run("ItemKNN", tmp_path)
    _, model, _, train, _, test = load_data_and_model(record["checkpoint"])
    lists = []
    for interaction, history, _, _ in test:
        scores = model.full_sort_predict(interaction).view(len(interaction), -1)
        scores[:, 0] = scores[history] = -np.inf
        lists.append(scores.topk(5).indices)
    lists, n = torch.cat(lists).numpy(), train._dataset.item_num
    counts = np.bincount(train._dataset.inter_feat["item_id"].numpy(), minlength=n)
    expected = {}
    for k in (1, 5):
        times = np.bincount(lists[:, :k].ravel(), minlength=n)
        expected |= {
            f"itemcoverage@{k}": np.count_nonzero(times) / n,
            f"giniindex@{k}": np.abs(times[:, None] - times).sum() / (2 * n * times.sum()),
            f"averagepopularity@{k}": counts[lists[:, :k]].mean(),
            f"colditemshare@{k}": (counts[lists[:, :k]] == 0).mean(),
        }
    assert record["beyond_accuracy"] == pytest.approx(expected, abs=1e-8)
    assert set(record["test"]) == KEPT and record["scoring_ms"] > 0  # they are no metrics that were asked for


def test_other_ways_to_score_equal_a_run_each(tmp_path):
    """Of one checkpoint: training is the same, so a run of its own has the same test figures."""
    ways = [{"sampler_steps": 1}, {"sampler_steps": 3, "guidance_scale": 2}]
    fast = {"hidden_size": 8, "inner_size": 8, "steps": 4, "sampler": "ddim", "sampler_steps": 2}
    asked = run("DreamRec", tmp_path, **fast, test_also=ways)
    assert asked["test"] == run("DreamRec", tmp_path, **fast)["test"]
    assert [way["settings"] for way in asked["test_also"]] == ways
    for way, found in zip(ways, asked["test_also"], strict=True):
        alone = run("DreamRec", tmp_path, **fast | way)
        assert found["test"] == alone["test"] != asked["test"]
        assert found["beyond_accuracy"] == alone["beyond_accuracy"] and found["network_calls"] == alone["network_calls"]


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        ("DreamRec", {"sampler_steps": 1}, "must be a list of mappings"),
        ("DreamRec", [{}], "must be a list of mappings"),
        ("DreamRec", [{"hidden_size": 4}], "hidden_size: not a setting of DreamRec's scoring; allowed: guidance_scale, "),
        ("DreamRec", [{"guidance_scale": -1}], "guidance_scale = -1: must be"),
        ("ItemKNN", [{"k": 3}], "k: not a setting of ItemKNN's scoring; allowed: none"),
    ],
)
def test_what_is_no_way_to_score_is_refused_before_training(model, given, message, tmp_path):
    with pytest.raises(SettingsError, match=message):
        run(model, tmp_path, test_also=given)
    assert not list(tmp_path.glob("**/*.pth"))
