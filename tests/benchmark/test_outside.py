"""Somebody else's evaluator, trec_eval, finds the figures of our records from exported lists: a row of two boards."""

from pathlib import Path

import pandas as pd
import pytest

from recbole_diffusion import load_data_and_model, recommend, run_recbole_diffusion
from toy import QUIET

ir_measures = pytest.importorskip("ir_measures")

K = (10, 20)
THEIRS = {"recall": "R", "ndcg": "nDCG", "mrr": "RR", "hit": "Success", "precision": "P"}
MEASURES = {f"{ours}@{k}": ir_measures.parse_measure(f"{theirs}@{k}") for k in K for ours, theirs in THEIRS.items()}


def pairs(dataset):
    """The (user, item) pairs of a part, in original ids."""
    users, items = (
        dataset.id2token(field, dataset.inter_feat[field].numpy()) for field in (dataset.uid_field, dataset.iid_field)
    )
    return pd.DataFrame({"user": users, "item": items})


def scored_outside(lists, test):
    """trec_eval's means; it orders by score alone, so equal scores must not be left to it."""
    run = lists.assign(query_id=lists["user"], doc_id=lists["item"], score=-lists["rank"].astype(float))
    qrels = test.assign(query_id=test["user"], doc_id=test["item"], relevance=1)
    found = ir_measures.calc_aggregate([*MEASURES.values()], qrels, run)
    return {name: found[measure] for name, measure in MEASURES.items()}


def test_a_general_row(tmp_path):
    settings = QUIET | {"protocol": "ratio-80-10-10", "reg_weight": 250.0, "metric_decimal_place": 9}
    record = run_recbole_diffusion("EASE", "ml-100k", None, settings)
    _, _, _, _, valid, test = load_data_and_model(record["checkpoint"])
    lists = recommend(record["checkpoint"], input="train", k=200)  # the test also masks validation items
    kept = lists.merge(pairs(valid._dataset), how="left", indicator=True).query("_merge == 'left_only'")
    assert kept.groupby("user").size().min() >= max(K)
    outside = scored_outside(kept, pairs(test._dataset))
    assert {name: record["test"][name] for name in MEASURES} == pytest.approx(outside, abs=1e-6)


def test_a_sequential_row(tmp_path):
    settings = QUIET | {"protocol": "leave-one-out-masked", "metric_decimal_place": 9}
    record = run_recbole_diffusion("SequentialKNN", "ml-100k", None, settings)
    config, _, _, _, _, loader = load_data_and_model(record["checkpoint"])
    rows = loader._dataset
    test = pairs(rows)
    every = pd.read_csv(Path(config["data_path"]) / "ml-100k.inter", sep="\t", dtype=str)
    had = every.groupby("user_id:token")["item_id:token"].agg(set)
    histories = rows.inter_feat[rows.iid_field + rows.config["LIST_SUFFIX"]].numpy()
    given = []
    for user, target, length, history in zip(
        *test.T.values, rows.inter_feat[rows.item_list_length_field], histories, strict=True
    ):
        latest = [*rows.id2token(rows.iid_field, history[: int(length)])]  # what the model reads; older items are masked too
        given.append([*sorted(had[user] - {target, *latest}), *latest])
    lists = recommend(record["checkpoint"], histories=given, k=max(K))
    outside = scored_outside(lists.assign(user=test["user"].to_numpy()[lists["history"] - 1]), test)
    assert {name: record["test"][name] for name in MEASURES} == pytest.approx(outside, abs=1e-6)
