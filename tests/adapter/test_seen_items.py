"""The setting mask_seen: who is ranked, against the sequences themselves."""

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

import recbole_diffusion  # noqa: F401
from recbole_diffusion.adapter.config import build_config
from recbole_diffusion.settings import SettingsError
from toy import COLUMNS, QUIET, checkerboard, write_inter

# Items come back, the test target among them; sequences are longer than the histories.
SEQUENCES = [[1, 2, 3, 4, 5, 6, 2], [7, 1, 7, 8, 9, 3], [4, 4, 5, 4, 4, 6, 7, 8, 9, 1, 2], [2, 9, 8], [3, 1, 5, 3, 1]]
LENGTH = {"MAX_ITEM_LIST_LENGTH": 3}
FULL = {"order": "TO", "mode": {"valid": "full", "test": "full"}}
SPLITS = {
    "leave one out": {"split": {"LS": "valid_and_test"}, "group_by": "user"},
    "each user's last": {"split": {"RS": [0.4, 0.3, 0.3]}, "group_by": "user"},
    "all users' last": {"split": {"RS": [0.4, 0.3, 0.3]}, "group_by": "none"},
}


def data_of(folder, sequences=SEQUENCES, time=lambda user, place: 100 * place + user):
    """User ``u`` has item ``sequences[u][p]`` at ``time(u, p)``."""
    write_inter(folder, "s", [(u, i, time(u, p)) for u, items in enumerate(sequences) for p, i in enumerate(items)])
    return QUIET | COLUMNS | LENGTH | {"data_path": str(folder), "topk": [1, 3], "valid_metric": "NDCG@1"}


def given_parts(folder):
    """The same rows as given parts, without times: a row for each item, its history cut by RecBole; last items are test."""
    (folder / "s").mkdir()
    for part in ("train", "valid", "test"):
        lines = ["user_id:token\titem_id_list:token_seq\titem_id:token"]
        for u, items in enumerate(SEQUENCES):
            places = {"train": range(1, len(items) - 2), "valid": [len(items) - 2], "test": [len(items) - 1]}[part]
            lines += [f"{u}\t{' '.join(map(str, items[max(p - 3, 0) : p]))}\t{items[p]}" for p in places]
        (folder / "s" / f"s.{part}.inter").write_text("\n".join(lines) + "\n")
    return QUIET | LENGTH | {
        "data_path": str(folder), "load_col": {"inter": ["user_id", "item_id_list", "item_id"]},
        "alias_of_item_id": ["item_id_list"], "benchmark_filename": ["train", "valid", "test"],
        "topk": [1, 3], "valid_metric": "NDCG@1",
    }  # fmt: skip


def masked_rows(loader):
    """For each row of the loader, in the source's ids: user, the target's place where times tell it, target, masked items."""
    data, found = loader._dataset, []
    for batch, history, _, positive in loader:
        masked = [set() for _ in range(len(batch))]
        for row, item in zip(*(index.tolist() for index in history), strict=True):
            masked[row].add(int(data.id2token("item_id", item)))
        for row in range(len(batch)):
            user = int(data.id2token("user_id", batch["user_id"][row].item()))
            place = (int(batch["timestamp"][row]) - user) // 100 if "timestamp" in batch else None
            found.append((user, place, int(data.id2token("item_id", positive[row].item())), masked[row]))
    return found


@pytest.mark.parametrize("split", SPLITS)
def test_what_the_user_had_before_the_target_is_masked(split, tmp_path):
    settings = {"mask_seen": True, "eval_args": FULL | SPLITS[split], "eval_batch_size": 2}
    config = build_config("SASRec", "s", None, data_of(tmp_path) | settings)
    _, valid, test = data_preparation(config, create_dataset(config))
    rows = masked_rows(valid) + masked_rows(test)
    assert len(rows) >= len(SEQUENCES)
    for user, place, target, masked in rows:
        assert SEQUENCES[user][place] == target
        assert masked == set(SEQUENCES[user][:place]) - {target}
    assert any(target in SEQUENCES[user][:place] for user, place, target, _ in rows)
    assert any(len(masked) > 3 for *_, masked in rows)


def test_items_of_one_moment_are_in_the_order_of_the_file(tmp_path):
    """Longer runs of equal times than a history is: what comes before the target in RecBole's order is masked, no more."""
    distinct = [list(range(1, 9)), list(range(9, 1, -1)), [3, 1, 2, 9, 7, 5, 4]]
    settings = data_of(tmp_path, distinct, time=lambda user, place: 7)
    config = build_config("SASRec", "s", None, settings | {"mask_seen": True})
    _, valid, test = data_preparation(config, create_dataset(config))
    for user, _, target, masked in masked_rows(valid) + masked_rows(test):
        assert masked == set(distinct[user][: distinct[user].index(target)])


def test_given_parts_are_in_the_order_of_their_files(tmp_path):
    config = build_config("SASRec", "s", None, given_parts(tmp_path) | {"mask_seen": True})
    _, valid, test = data_preparation(config, create_dataset(config))
    for loader, back in ((valid, 2), (test, 1)):
        rows = masked_rows(loader)
        assert len(rows) == len(SEQUENCES)
        for user, _, target, masked in rows:
            assert masked == set(SEQUENCES[user][:-back]) - {target}


def recall(scores, targets, k=1):
    """Share of targets among the k best of their rows."""
    return float((scores.topk(k).indices == targets[:, None]).any(1).float().mean())


@pytest.mark.parametrize("model", ["SASRec", "DreamRec", "SequentialKNN"])
def test_stock_evaluation_masks_for_sequential_models(model, tmp_path):
    """RecBole's Config and Trainer.evaluate, an untrained model: its own scores, without what the user had."""
    long = np.random.default_rng(0).integers(1, 31, (60, 12)).tolist()
    base = data_of(tmp_path, long) | {"protocol": "leave-one-out", "topk": [3]} | {"valid_metric": "NDCG@3"}
    if model == "SASRec":
        base |= {"train_neg_sample_args": None, "metrics": ["Recall", "NDCG"]}
        del base["protocol"]
    results = {}
    for mask in (None, False, True):
        config = Config(model=model, dataset="s", config_dict=base | {"mask_seen": mask})
        init_seed(config["seed"], True)
        train, _, test = data_preparation(config, create_dataset(config))
        network = get_model(model)(config, train._dataset).eval()
        trainer = get_trainer(config["MODEL_TYPE"], model)(config, network)
        results[mask] = trainer.evaluate(test, load_best_model=False)["recall@3"]
        expected = []
        with torch.no_grad():
            for batch, _, _, target in test:
                scores = network.full_sort_predict(batch).clone()
                scores[:, 0] = -torch.inf
                if mask:
                    for row, user in enumerate(test._dataset.id2token("user_id", batch["user_id"])):
                        seen = test._dataset.token2id("item_id", np.array([str(i) for i in long[int(user)][:-1]]))
                        kept = scores[row, target[row]].clone()
                        scores[row, seen] = -torch.inf
                        scores[row, target[row]] = kept
                expected.append(recall(scores, target, 3))
        assert results[mask] == pytest.approx(np.mean(expected), abs=1e-4)
    assert results[None] == results[False]
    assert results[True] != results[None]


@pytest.mark.parametrize("model", ["BPR", "DiffRec"])
def test_general_models_rank_everything_without_the_mask(model, tmp_path):
    data = checkerboard(tmp_path) | QUIET | {"dims_dnn": [8], "topk": [3], "valid_metric": "NDCG@3", "strict_config": False}
    masked = {}
    for mask in (None, True, False):
        config = build_config(model, "checkerboard", None, data | {"mask_seen": mask})
        _, _, test = data_preparation(config, create_dataset(config))
        masked[mask] = [None if history is None else [index.tolist() for index in history] for _, history, _, _ in test]
    assert masked[None] == masked[True] and masked[True][0] is not None
    assert all(history is None for history in masked[False])


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("DreamRec", {"mask_seen": "yes"}, "mask_seen = 'yes': must be True, False or None"),
        ("DreamRec", {"mask_seen": True, "protocol": "leave-one-out-uni100"}, r"mask_seen = True: nothing is masked .*uni100"),
        ("DiffRec", {"mask_seen": True, "repeatable": True}, "mask_seen = True: with repeatable = True"),
    ],
)
def test_a_mask_without_effect_is_refused(model, settings, message):
    with pytest.raises(SettingsError, match=message):
        build_config(model, "ml-100k", None, QUIET | settings)


def test_stock_scripts_are_refused_too(tmp_path):
    """RecBole's own models are not checked when their Config is built, but when their data are loaded."""
    sampled = {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": {"valid": "uni5", "test": "full"}}}
    base = data_of(tmp_path) | sampled | {"train_neg_sample_args": None, "mask_seen": True}
    config = Config(model="SASRec", dataset="s", config_dict=base)
    with pytest.raises(SettingsError, match="only sampled candidates are ranked"):
        data_preparation(config, create_dataset(config))
