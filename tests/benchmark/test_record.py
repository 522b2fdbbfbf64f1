"""What a record says of how a model was evaluated, and how runs are named."""

import json
from pathlib import Path

import pytest

from recbole_diffusion import run_recbole_diffusion
from recbole_diffusion.adapter.config import build_config
from recbole_diffusion.benchmark.plan import Plan, read_record
from recbole_diffusion.benchmark.record import describe_evaluation, masks_seen, settings_hash, write_record
from recbole_diffusion.benchmark.spec import read_spec
from toy import QUIET, checkerboard, two_circles

RUNS = Path(__file__).parents[2] / "results" / "runs"
FULL, SAMPLED = {"mode": {"valid": "full", "test": "full"}}, {"mode": {"valid": "full", "test": "uni100"}}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"repeatable": False, "eval_args": FULL}, "seen items masked, not refitted, sees the training items"),
        ({"repeatable": True, "eval_args": FULL}, "nothing masked, not refitted, sees the history"),
        ({"repeatable": True, "eval_args": FULL, "mask_seen": True}, "seen items masked, not refitted, sees the history"),
        (
            {"repeatable": False, "eval_args": FULL, "mask_seen": False, "test_input": "train+valid"},
            "nothing masked, not refitted, sees the training and validation items",
        ),
        (
            {"repeatable": True, "eval_args": SAMPLED, "refit": True},
            "among sampled items, refitted on training and validation parts, sees the history",
        ),
    ],
)
def test_words_for_an_evaluation(settings, words):
    assert describe_evaluation(settings) == words


@pytest.mark.parametrize("model", ["EASE", "SequentialKNN"])
def test_a_record_says_masked_or_not_and_refitted_or_not(model, tmp_path):
    general = model == "EASE"
    data = QUIET | (checkerboard if general else two_circles)(tmp_path) | {"topk": [1], "valid_metric": "NDCG@1"}
    name = "checkerboard" if general else "circles"
    record = run_recbole_diffusion(model, name, None, data)
    assert (record["masked"], record["refit"]) == (general, None)
    assert record["input"] == ("training items" if general else "history")
    other = run_recbole_diffusion(model, name, None, data | {"mask_seen": not general, "refit": True})
    assert (other["masked"], other["refit"]["epochs"]) == (not general, 1)
    assert other["protocol_overrides"].items() >= {"mask_seen": not general, "refit": True}.items()
    assert other["input"] == ("training and validation items" if general else "history")


def test_a_newer_key_of_the_plugin_renames_a_run_only_where_it_is_used():
    def name(**settings):
        return settings_hash(build_config("DreamRec", "ml-100k", None, settings))

    assert name() == name(mask_seen=None) == name(refit=False)
    assert len({name(), name(mask_seen=True), name(refit=True), name(mask_seen=True, refit=True)}) == 4
    assert masks_seen(build_config("DreamRec", "ml-100k", None, {"protocol": "leave-one-out-masked"}).final_config_dict)


def test_a_record_is_small_and_only_its_curves_are_rounded(tmp_path):
    entry = {"epoch": 10, "train_loss": 0.123456789, "train_s": 1234567.8, "valid_score": float("inf"), "losses": {"d": 1 / 3}}
    record = {"test": {"ndcg@10": 1 / 3}, "curve": [entry], "refit": {"epochs": 1, "curve": [{"train_loss": 2 / 3}]}}
    write_record(record, tmp_path / "a.json")
    text = (tmp_path / "a.json").read_text()
    read = json.loads(text)
    assert ": " not in text and text.count("\n") == 1
    assert read["test"] == record["test"]
    rounded = {"train_loss": 0.123457, "train_s": 1234570.0, "losses": {"d": 0.333333}}
    assert read["curve"] == [entry | rounded] and read["refit"] == {"epochs": 1, "curve": [{"train_loss": 0.666667}]}
    write_record(read, tmp_path / "b.json")
    assert (tmp_path / "b.json").read_text() == text


@pytest.mark.parametrize("name", ["general-ml-100k", "next-item-ml-100k", "dreamrec-study", "sequential-ml-100k"])
def test_records_that_are_there_are_those_of_today_s_rows(name, tmp_path):
    """A model's default that changes, or a row's settings, would leave them to a row that they are not of."""
    spec = read_spec(name)
    plan = Plan(spec, None, RUNS.parent, tmp_path)
    records = {file: read_record(file) for file in RUNS.glob(f"{name}-*-1-*.json")}
    rows = {row.model: row for row in spec.rows if row.dataset == "ml-100k"}
    of_rows = [(row, file, records[file]) for row in rows.values() for file in records if row_of(records[file]) == row.name]
    for row, file, record in of_rows:
        chosen = {key: record["settings"][key] for key in row.tune}
        assert plan.record_file(row, row.settings | chosen, 1) == file
    assert len(of_rows) >= 3


def row_of(record):
    return record["benchmark"]["row"]
