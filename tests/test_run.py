import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from recbole_diffusion import run_recbole_diffusion
from recbole_diffusion.settings import SettingsError
from toy import QUIET, checkerboard, two_circles, write_inter

SMALL = QUIET | {"epochs": 6, "eval_step": 1, "stopping_step": 10}
JOBS = {
    "DiffRec": ("checkerboard", {"dims_dnn": [8], "steps": 3}),
    "DreamRec": ("circles", {"hidden_size": 8, "steps": 5}),
    # Windows shorter than the sequences: the cuts of each epoch are drawn, too.
    "PackedSASRec": ("circles", {"hidden_size": 8, "inner_size": 8, "loss": "bce", "MAX_ITEM_LIST_LENGTH": 3}),
    "CFGAN": ("checkerboard", {"g_hidden": [8], "d_hidden": [8], "g_steps": 2, "learning_rate": 0.01}),
    "BPR": ("checkerboard", {}),  # negatives come from numpy's global generator
}


def data_for(model, folder):
    return (checkerboard if JOBS[model][0] == "checkerboard" else two_circles)(folder)


def comparable(record):
    timed = ("train_s", "eval_s")
    curve = [{key: value for key, value in entry.items() if key not in timed} for entry in record["curve"]]
    return record["valid"], record["test"], record["best_epoch"], curve


@pytest.mark.parametrize("model", ["DreamRec", "CFGAN", "BPR"])
def test_a_killed_run_resumes_to_the_same_end(model, tmp_path):
    """SIGKILL between epochs, then the same command again: curve and metrics equal the uninterrupted run's exactly.

    Every family of models, stopped at other places as well, is in tests/adapter/test_resume.py.
    """
    dataset, settings = JOBS[model]
    settings = SMALL | settings | data_for(model, tmp_path / "data")
    whole = run_recbole_diffusion(model, dataset, None, settings | {"checkpoint_dir": str(tmp_path / "whole")})

    job = settings | {"checkpoint_dir": str(tmp_path / "killed")}
    code = f"import recbole_diffusion as r; r.run_recbole_diffusion({model!r}, {dataset!r}, None, {job!r}, resume=True)"
    # Epochs are milliseconds long here: the child stops itself for good at the start of the fourth.
    kill = (
        "import os, signal\nfrom recbole_diffusion.adapter.trainer import Tracked\n"
        "store = Tracked._store\n"
        "def kill(self, epoch, **more):\n"
        "    store(self, epoch, **more)\n"
        "    if epoch == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Tracked._store = kill\n"
    )
    killed = subprocess.run([sys.executable, "-c", kill + code], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(list((tmp_path / "killed").glob("*.resume.pth"))) == 1

    resumed = run_recbole_diffusion(model, dataset, None, job, resume=True)
    assert comparable(resumed) == comparable(whole)
    assert not list((tmp_path / "killed").glob("*.resume.pth"))


def test_the_same_run_twice_gives_the_same_record(tmp_path):
    settings = SMALL | JOBS["DreamRec"][1] | two_circles(tmp_path / "data")
    first, second = (run_recbole_diffusion("DreamRec", "circles", None, settings) for _ in range(2))
    assert comparable(first) == comparable(second)
    assert first["settings_hash"] == second["settings_hash"] and first["data"] == second["data"]
    other = run_recbole_diffusion("DreamRec", "circles", None, settings | {"seed": 1})
    assert other["settings_hash"] != first["settings_hash"]


def test_the_best_epoch_is_the_one_that_was_kept(tmp_path):
    settings = SMALL | JOBS["DiffRec"][1] | checkerboard(tmp_path / "data")
    record = run_recbole_diffusion("DiffRec", "checkerboard", None, settings, record="run.json")
    assert record["valid"]["ndcg@10"] == record["curve"][record["best_epoch"]]["valid_score"]
    assert json.loads(Path("run.json").read_text())["test"] == record["test"]


def test_a_data_set_that_does_not_fit_is_one_line(tmp_path):
    write_inter(tmp_path, "empty", [])
    with pytest.raises(SettingsError):
        run_recbole_diffusion("DreamRec", "empty", None, QUIET | {"data_path": str(tmp_path)})
    (tmp_path / "notime").mkdir()
    (tmp_path / "notime" / "notime.inter").write_text("user_id:token\titem_id:token\n1\t1\n1\t2\n")
    with pytest.raises(SettingsError, match="notime"):
        run_recbole_diffusion("DreamRec", "notime", None, QUIET | {"data_path": str(tmp_path)})


def test_a_list_longer_than_the_catalogue_is_one_line(tmp_path):
    with pytest.raises(SettingsError, match="topk = .10, 50.: must be at most the number of items, 40"):
        run_recbole_diffusion("DiffRec", "checkerboard", None, SMALL | {"topk": [10, 50]} | checkerboard(tmp_path))


def test_ml_100k_end_to_end(tmp_path):
    """The main job, shortened: real data, every part of a run, and a result above chance (10 of 1,682 items)."""
    short = {"epochs": 3, "learning_rate": 3e-3, "hidden_size": 64, "MAX_ITEM_LIST_LENGTH": 10}
    record = run_recbole_diffusion("DreamRec", "ml-100k", None, QUIET | short)
    assert record["data"]["users"] == 943 and record["data"]["items"] == 1682
    assert record["test"]["recall@10"] > 2 * 10 / 1682


def test_a_record_names_no_folder_above_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = SMALL | JOBS["DiffRec"][1] | checkerboard(tmp_path / "data") | {"checkpoint_dir": str(tmp_path / "saved")}
    command = ["run", f"--data_path={tmp_path / 'data'}"]
    record = run_recbole_diffusion("DiffRec", "checkerboard", None, settings | {"epochs": 1}, command=command)
    assert str(tmp_path) not in json.dumps(record)
    assert record["command"] == ["run", "--data_path=data"] and record["checkpoint"].startswith("saved")
