"""The setting refit, against runs whose training file is the training and the validation part."""

import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_trainer

from recbole_diffusion import load_data_and_model, run_recbole_diffusion
from recbole_diffusion.adapter.checkpoint import load_checkpoint
from recbole_diffusion.adapter.config import build_config
from recbole_diffusion.adapter.eval_input import training_and_validation
from recbole_diffusion.adapter.time_order import exact_time
from recbole_diffusion.settings import SettingsError
from toy import COLUMNS, QUIET, two_circles, write_inter

SHORT = QUIET | {"epochs": 5, "eval_step": 1, "stopping_step": 10, "topk": [1, 5], "valid_metric": "NDCG@5"}
JOBS = {
    "EASE": {"reg_weight": 2.0},
    "Pop": {},
    "BPR": {"embedding_size": 8},  # sampled negatives, which must not be validation items
    "DiffRec": {"dims_dnn": [8], "steps": 3},
    "AAE": {"hidden": [8], "latent_dimension": 4, "d_hidden": [8], "train_batch_size": 16},
    "SequentialKNN": {},
    "GRU4Rec": {"embedding_size": 8, "hidden_size": 8, "num_layers": 1, "dropout_prob": 0.1, "train_neg_sample_args": None},
    "PackedSASRec": {"loss": "bce", "hidden_size": 8, "inner_size": 8, "n_layers": 1, "n_heads": 1},
    "DreamRec": {"hidden_size": 8, "steps": 5},
}
SEQUENTIAL = {"SequentialKNN", "GRU4Rec", "PackedSASRec", "DreamRec"}
CLOSED = {"EASE", "Pop", "SequentialKNN"}


def pairs(folder, name, union):
    """User ``u`` likes items near ``u``; one is validation, one test. With ``union`` training has the validation rows."""
    parts = {"train": [], "valid": [], "test": []}
    draw = np.random.default_rng(0)
    for user in range(40):
        for place, item in enumerate((user + draw.permutation(15)[:7]) % 40):
            parts[{5: "valid", 6: "test"}.get(place, "train")].append((user, item, place))
    if union:
        parts["train"] = parts["train"] + parts["valid"]
    for part, rows in parts.items():
        write_inter(folder, name, rows, part)
    return COLUMNS | {"data_path": str(folder), "benchmark_filename": list(parts)}


def histories(folder, name, union):
    """Rows of a history and a target from walks of 8 steps; the last target is test, the one before it validation."""
    parts = {"train": [], "valid": [], "test": []}
    draw = np.random.default_rng(0)
    for user in range(60):
        walk = np.cumsum(draw.integers(1, 4, 8)) % 20
        for p in range(1, 8):
            row = f"{user}\t{' '.join(map(str, walk[:p]))}\t{walk[p]}"
            parts[{6: "valid", 7: "test"}.get(p, "train")].append(row)
    if union:
        parts["train"] = parts["train"] + parts["valid"]
    (folder / name).mkdir(parents=True)
    for part, rows in parts.items():
        lines = ["user_id:token\titem_id_list:token_seq\titem_id:token", *rows]
        (folder / name / f"{name}.{part}.inter").write_text("\n".join(lines) + "\n")
    return {
        "data_path": str(folder), "load_col": {"inter": ["user_id", "item_id_list", "item_id"]},
        "alias_of_item_id": ["item_id_list"], "benchmark_filename": list(parts), "MAX_ITEM_LIST_LENGTH": 8,
    }  # fmt: skip


def job(model, folder, union=False):
    """Settings of a run; with ``union`` on data whose training file is both parts."""
    data = (histories if model in SEQUENTIAL else pairs)(folder / "data", "union" if union else "parts", union)
    return SHORT | data | JOBS[model]


@pytest.mark.parametrize("model", JOBS)
def test_a_refit_is_a_run_on_both_parts_for_the_selected_epochs(model, tmp_path):
    settings = job(model, tmp_path) | {"checkpoint_dir": str(tmp_path / "saved")}
    record = run_recbole_diffusion(model, "parts", None, settings | {"refit": True})
    epochs = record["refit"]["epochs"]
    assert epochs == (1 if model in CLOSED else record["best_epoch"] + 1) == len(record["refit"]["curve"])

    plain = run_recbole_diffusion(model, "parts", None, settings)
    assert plain["refit"] is None
    assert [record[key] for key in ("valid", "best_epoch")] == [plain[key] for key in ("valid", "best_epoch")]

    by_hand = job(model, tmp_path, union=True) | {"epochs": epochs, "eval_step": 0, "checkpoint_dir": str(tmp_path / "hand")}
    expected = run_recbole_diffusion(model, "union", None, by_hand)
    assert record["test"] == expected["test"]
    assert [e["train_loss"] for e in record["refit"]["curve"]] == [e["train_loss"] for e in expected["curve"]]
    ours, theirs = (load_checkpoint(run["checkpoint"]) for run in (record, expected))
    for name, value in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][name], value), name
    assert ours["trained_on"] == "train+valid" and load_checkpoint(plain["checkpoint"])["trained_on"] == "train"
    # Something has been learnt from the validation part: a refit that forgot it would end in the plain run.
    assert record["test"] != plain["test"] or any(
        not torch.equal(ours["state_dict"][name], value)
        for name, value in load_checkpoint(plain["checkpoint"])["state_dict"].items()
    )


@pytest.mark.parametrize("model", ["EASE", "DiffRec", "SequentialKNN"])
def test_a_refitted_checkpoint_gives_the_tested_model(model, tmp_path):
    settings = job(model, tmp_path) | {"refit": True}
    record = run_recbole_diffusion(model, "parts", None, settings)
    config, network, _, train, _, test = load_data_and_model(record["checkpoint"])
    assert len(train._dataset) == record["data"]["rows"]["train"] + record["data"]["rows"]["valid"]
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, network)
    assert dict(trainer.evaluate(test, load_best_model=False)) == record["test"]


def test_ease_is_fitted_to_both_parts(tmp_path):
    """Ridge regression of each item on the others over the union, from the files."""
    record = run_recbole_diffusion("EASE", "parts", None, job("EASE", tmp_path) | {"refit": True})
    _, network, dataset, *_ = load_data_and_model(record["checkpoint"])
    X = np.zeros((network.n_users, network.n_items))
    for part in ("train", "valid"):
        for line in (tmp_path / "data" / "parts" / f"parts.{part}.inter").read_text().splitlines()[1:]:
            user, item, _ = line.split("\t")
            X[dataset.token2id("user_id", user), dataset.token2id("item_id", item)] = 1
    for item in range(1, network.n_items):
        others = np.delete(np.arange(network.n_items), item)
        A = X[:, others]
        weights = np.linalg.solve(A.T @ A + 2.0 * np.eye(len(others)), A.T @ X[:, item])
        np.testing.assert_allclose(np.asarray(network.item_similarity)[others, item], weights, atol=1e-4)


def test_both_parts_keep_their_exact_times(tmp_path):
    """Times of today, one second apart: as float32, in steps of 128 s, they would be equal."""
    write_inter(tmp_path, "s", [(u, i, 1_700_000_000 + 40 * u + i) for u in range(5) for i in range(u, u + 10)])
    split = {"eval_args": {"split": {"RS": [0.5, 0.3, 0.2]}, "group_by": "user", "order": "TO", "mode": "full"}}
    base = QUIET | COLUMNS | {"data_path": str(tmp_path), "topk": [1], "valid_metric": "NDCG@1"}
    config = build_config("TEASE", "s", None, base | split)
    train, valid, _ = data_preparation(config, create_dataset(config))
    both = training_and_validation(train._dataset, valid._dataset)
    names = both.id2token("item_id", both.inter_feat["item_id"].numpy()).astype(int)
    users = both.id2token("user_id", both.inter_feat["user_id"].numpy()).astype(int)
    np.testing.assert_array_equal(exact_time(both.inter_feat).time.numpy(), 1_700_000_000 + 40 * users + names)


@pytest.mark.parametrize("model", ["BPR", "GRU4Rec"])
def test_a_run_killed_in_the_refit_goes_on_there(model, tmp_path):
    """SIGKILL between two epochs of the refit, then the same command: nothing of the selection is trained again."""
    settings = job(model, tmp_path) | {"refit": True, "epochs": 12}
    whole = run_recbole_diffusion(model, "parts", None, settings | {"checkpoint_dir": str(tmp_path / "whole")})
    assert whole["refit"]["epochs"] >= 2

    killed_job = settings | {"checkpoint_dir": str(tmp_path / "killed")}
    code = f"import recbole_diffusion as r; r.run_recbole_diffusion({model!r}, 'parts', None, {killed_job!r}, resume=True)"
    kill = (
        "import os, signal\nfrom recbole_diffusion.adapter.trainer import Tracked\n"
        "store = Tracked._store\n"
        "def kill(self, epoch, finished=False):\n"
        "    store(self, epoch, finished)\n"
        "    if self.trained_on != 'train' and epoch == 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Tracked._store = kill\n"
    )
    killed = subprocess.run([sys.executable, "-c", kill + code], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    kept = sorted(file.name.partition(".")[2] for file in (tmp_path / "killed").iterdir())
    assert kept == ["pth", "pth", "resume.pth", "resume.pth"]

    states = [file for file in (tmp_path / "killed").glob("*.resume.pth") if "-refit" not in file.name]
    times = load_checkpoint(states[0])["resume"]["curve"]
    resumed = run_recbole_diffusion(model, "parts", None, killed_job, resume=True)
    assert resumed["curve"] == times  # the very seconds: it was not trained again
    assert [resumed[key] for key in ("valid", "test", "best_epoch")] == [whole[key] for key in ("valid", "test", "best_epoch")]
    assert [e["train_loss"] for e in resumed["refit"]["curve"]] == [e["train_loss"] for e in whole["refit"]["curve"]]
    assert not list((tmp_path / "killed").glob("*.resume.pth"))


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("DiffRec", {"refit": "yes"}, "refit = 'yes': must be True or False"),
        ("DiffRec", {"eval_step": 0}, "refit = True: eval_step = 0 with epochs = 5 evaluates no epoch"),
        ("BPR", {"eval_step": 6}, "refit = True: eval_step = 6 with epochs = 5 evaluates no epoch"),
        ("CKE", {}, "refit = True: CKE is a knowledge model; allowed: general, sequential, context, traditional"),
    ],
)
def test_a_refit_of_nothing_selected_is_refused(model, settings, message):
    with pytest.raises(SettingsError, match=message):
        build_config(model, "ml-100k", None, {"epochs": 5, "refit": True} | settings)


def test_a_split_without_validation_is_refused(tmp_path):
    split = {"eval_args": {"split": {"LS": "test_only"}, "group_by": "user", "order": "TO", "mode": "full"}}
    settings = QUIET | two_circles(tmp_path, users=20) | split | {"refit": True}
    with pytest.raises(SettingsError, match="each part is needed"):
        run_recbole_diffusion("SequentialKNN", "circles", None, settings)
