"""A run that is stopped anywhere and started again ends as the uninterrupted one does, to the last digit."""

import contextlib
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_trainer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from recbole_diffusion import run
from recbole_diffusion.adapter.checkpoint import load_checkpoint
from recbole_diffusion.adapter.config import build_config
from recbole_diffusion.adapter.trainer import Tracked
from recbole_diffusion.run import run_recbole_diffusion
from toy import QUIET, checkerboard, two_circles

SMALL = QUIET | {"epochs": 4, "eval_step": 1, "train_batch_size": 8, "topk": [1, 5], "valid_metric": "NDCG@5"}
ANNEALED = {"total_anneal_steps": 16, "anneal_cap": 1.0}  # the weight of the KL moves in every update
VAE = ANNEALED | {"mlp_hidden_size": [8], "latent_dimension": 8}
PAIRS = {"train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}}
NONE = {"train_neg_sample_args": None}
TRANSFORMER = {"hidden_size": 8, "inner_size": 8, "n_heads": 2, "n_layers": 1, "MAX_ITEM_LIST_LENGTH": 6}
ON_ROWS = {
    "DiffRec": {"dims_dnn": [8], "steps": 3, "history_num_per_term": 2},
    "LDiffRec": {"n_cate": 2, "in_dims": [8, 4], "out_dims": [8], "dims_dnn": [8], "steps": 3, "vae_anneal_steps": 4},
    "StockDiffRec": NONE | {"dims_dnn": [8], "steps": 3},  # keeps its loss history in plain tensors
    "CFGAN": {"g_hidden": [8], "d_hidden": [8], "g_steps": 2},
    "AAE": {"hidden": [8], "latent_dimension": 4, "d_hidden": [8]},
    "IRGAN": {"embedding_size": 4, "pretrain_epochs": 2, "pretrain_batch_size": 64},
    "TEASE": {},
    "MultiVAE": NONE | VAE,  # counts its updates in a plain attribute, as do the next two
    "MacridVAE": NONE | ANNEALED | {"embedding_size": 8, "encoder_hidden_size": [8], "kfac": 2},
    "RaCT": PAIRS | VAE | {"pretrain_epochs": 4, "save_step": 1},
    "RecVAE": NONE | {"hidden_dimension": 8, "latent_dimension": 8, "n_enc_epochs": 1},
    "BPR": {"embedding_size": 8, "train_batch_size": 64},  # negatives come from numpy's global generator
    "LightGCN": {"embedding_size": 8, "train_batch_size": 64, "n_layers": 1},
}
ON_HISTORIES = {
    "DreamRec": {"hidden_size": 8, "steps": 5},
    # Stages: one epoch of pre-training, one of frozen embeddings.
    "ADRec": TRANSFORMER | {"n_encoder_layers": 1, "steps": 4, "pretrain_epochs": 1, "frozen_epochs": 1},
    # Windows shorter than the sequences: the cuts of each epoch are drawn, as negatives are.
    "PackedSASRec": TRANSFORMER | {"loss": "bce", "MAX_ITEM_LIST_LENGTH": 3},
    "PackedGRU4Rec": {"embedding_size": 8, "hidden_size": 8, "MAX_ITEM_LIST_LENGTH": 3},
    "SASRec": NONE | TRANSFORMER,
    "GRU4Rec": NONE | {"embedding_size": 8, "hidden_size": 8, "num_layers": 1},
    "S3Rec": TRANSFORMER | {"item_attribute": "kind", "pretrain_epochs": 4, "save_step": 1},
    "DeepFM": PAIRS | {"embedding_size": 4, "mlp_hidden_size": [8]},
    "CFKG": {"embedding_size": 8},  # a loader with two generators and none of its own
}


class KilledError(BaseException):
    """Nobody catches it, as nobody catches SIGKILL."""


def circles(folder):
    """The circles, with a feature of the items and a knowledge graph that knows it as well."""
    settings = two_circles(folder, users=40)
    rows = {
        "item": ["item_id:token\tkind:token_seq", *(f"{item}\t{'xy'[item % 2]}" for item in range(24))],
        "kg": ["head_id:token\trelation_id:token\ttail_id:token", *(f"e{i}\tkind\t{'xy'[i % 2]}" for i in range(24))],
        "link": ["item_id:token\tentity_id:token", *(f"{item}\te{item}" for item in range(24))],
    }
    for part, lines in rows.items():
        (folder / "circles" / f"circles.{part}").write_text("\n".join(lines) + "\n")
    columns = {"kg": ["head_id", "relation_id", "tail_id"], "link": ["item_id", "entity_id"], "item": ["item_id", "kind"]}
    return settings | {"load_col": settings["load_col"] | columns, "protocol": "leave-one-out"}


def job(model, folder):
    """Name of the data set, and settings."""
    if model in ON_ROWS:
        return "checkerboard", SMALL | ON_ROWS[model] | checkerboard(folder, size=24)
    return "circles", SMALL | {"train_batch_size": 64} | ON_HISTORIES[model] | circles(folder)


def comparable(record):
    timed = ("train_s", "eval_s")
    curve = [{key: value for key, value in entry.items() if key not in timed} for entry in record["curve"]]
    return record["valid"], record["test"], record["best_epoch"], curve


def at_an_epochs_end(patch, undo):
    """Once the state of the first epoch is kept."""
    store = Tracked._store

    def kill(self, epoch, **more):
        store(self, epoch, **more)
        if epoch == 0:
            raise KilledError

    patch.setattr(Tracked, "_store", kill)


def amid_an_epoch(patch, undo):
    """At the second optimiser step after the state of an epoch was kept."""
    store, left = Tracked._store, []

    def count(self, epoch, **more):
        store(self, epoch, **more)
        left[:] = [2]

    def kill(*_):
        left[:] = [n - 1 for n in left]
        if left == [0]:
            raise KilledError

    patch.setattr(Tracked, "_store", count)
    undo.callback(register_optimizer_step_pre_hook(kill).remove)


def during_the_test(patch, undo):
    """After the training, before there is a record."""

    def kill(*_):
        raise KilledError

    patch.setattr(run, "make_record", kill)


def killed(where, model, dataset, settings):
    """Runs until it is killed; what other code has drawn since must not matter to whoever goes on."""
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as undo:
        where(patch, undo)
        with pytest.raises(KilledError):
            run_recbole_diffusion(model, dataset, None, settings, resume=True)
    torch.rand(1), np.random.rand(1), random.random()


@pytest.mark.parametrize("model", [*ON_ROWS, *ON_HISTORIES])
def test_a_stopped_run_goes_on_to_the_same_end(model, tmp_path, monkeypatch):
    dataset, settings = job(model, tmp_path / "data")
    whole = run_recbole_diffusion(model, dataset, None, settings | {"checkpoint_dir": str(tmp_path / "whole")})
    settings |= {"checkpoint_dir": str(tmp_path / "killed")}
    for where in (at_an_epochs_end, amid_an_epoch, during_the_test) if model != "TEASE" else (during_the_test,):
        killed(where, model, dataset, settings)
        assert len(list((tmp_path / "killed").glob("*.resume.pth"))) == 1

    monkeypatch.setattr(Tracked, "_train_epoch", lambda *_, **__: pytest.fail("trained again"))
    assert comparable(run_recbole_diffusion(model, dataset, None, settings, resume=True)) == comparable(whole)
    assert not list((tmp_path / "killed").glob("*.resume.pth"))


BPR = {"embedding_size": 4, "train_batch_size": 64}


def test_another_number_of_threads_is_said(tmp_path, caplog):
    settings = SMALL | BPR | checkerboard(tmp_path, size=24)
    killed(at_an_epochs_end, "BPR", "checkerboard", settings)
    torch.set_num_threads(2)
    try:
        run_recbole_diffusion("BPR", "checkerboard", None, settings, resume=True)
    finally:
        torch.set_num_threads(1)
    assert "on 1 threads, and this one has 2" in caplog.text and "OMP_NUM_THREADS=1" in caplog.text


def test_a_state_of_other_settings_is_named(tmp_path, caplog):
    settings = SMALL | BPR | checkerboard(tmp_path, size=24)
    killed(at_an_epochs_end, "BPR", "checkerboard", settings)
    [kept] = Path("saved").glob("*.resume.pth")
    elsewhere = {"learning_rate": 0.5, "state": "CRITICAL"}
    run_recbole_diffusion("BPR", "checkerboard", None, settings | elsewhere, resume=True)
    assert f"{kept} is the state of a run under other settings (learning_rate = 0.001 there, 0.5 here)" in caplog.text
    assert kept.exists()
    caplog.clear()
    run_recbole_diffusion("BPR", "checkerboard", None, settings, resume=True)
    assert "other settings" not in caplog.text and not kept.exists()


def test_checkpoints_hold_the_counters_that_training_has_changed(tmp_path):
    """RecBole's own ``resume_checkpoint`` needs them too; a setting that is changed on the way stays changed."""
    settings = SMALL | ON_ROWS["MultiVAE"] | checkerboard(tmp_path, size=24)
    checkpoint = tmp_path / run_recbole_diffusion("MultiVAE", "checkerboard", None, settings)["checkpoint"]
    epochs = load_checkpoint(checkpoint)["epoch"] + 1
    config = build_config("MultiVAE", "checkerboard", None, settings | {"anneal_cap": 0.5})
    train_data, _, _ = data_preparation(config, create_dataset(config))
    trainer = get_trainer(config["MODEL_TYPE"], "MultiVAE")(config, config.model_class(config, train_data._dataset))
    trainer.resume_checkpoint(checkpoint)
    # Its loader has the padding user as well: 25 of them, 8 at a time.
    assert trainer.model.update == epochs * 4 and trainer.model.anneal_cap == 0.5
