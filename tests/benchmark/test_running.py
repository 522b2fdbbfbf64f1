"""Runs end with whoever started them, are made side by side, on Ray as well, and the time that is left is estimated."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from filelock import FileLock, Timeout

from recbole_diffusion.benchmark import attended, workers
from recbole_diffusion.benchmark.progress import time_left
from recbole_diffusion.cli import main
from toy import checkerboard, in_this_process

POP = {"row": "Pop", "model": "Pop", "dataset": "checkerboard"}
SMALL = {"topk": [5], "valid_metric": "NDCG@5"}
LONG = SMALL | {"dims_dnn": [16], "steps": 3, "epochs": 1500, "train_batch_size": 10, "stopping_step": 0}


def specification(folder, *rows):
    folder.mkdir(exist_ok=True)
    data = checkerboard(folder / "data")
    columns = {key: data[key] for key in ("load_col", "benchmark_filename")}
    rows = [row | {"settings": SMALL | columns | row.get("settings", {})} for row in rows]
    spec = {"title": "Tiny", "metrics": {"checkerboard": ["ndcg@5"]}, "rows": rows}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(spec))


def bench(folder, *more):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return main(["benchmark", "tiny.yaml", "--data_path", "data", *more])


def found(folder):
    """What is in the records, by file, but times and where they were made."""
    records = {file.name: json.loads(file.read_text()) for file in sorted((folder / "results" / "runs").glob("*.json"))}
    kept = ("settings", "valid", "test", "best_epoch", "epochs", "benchmark", "command", "checkpoint", "threads")
    curves = {name: [entry.get("valid_score") for entry in record["curve"]] for name, record in records.items()}
    return {name: {key: record[key] for key in kept} | {"curve": curves[name]} for name, record in records.items()}


def wait_until(happens):
    while not happens():
        time.sleep(0.05)


def is_free(lock):
    try:
        with FileLock(lock, timeout=0):
            return True
    except Timeout:
        return False


def test_a_process_ends_when_its_input_does_and_holds_a_lock_until_then(tmp_path):
    code = "import time\nfrom recbole_diffusion.benchmark.attended import attended\n"
    code += "with attended() as orders:\n    print(orders['word'], flush=True)\n    time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    lock = tmp_path / "lock"
    process.stdin.write(json.dumps({"lock": str(lock), "word": "begun"}).encode() + b"\n")
    assert process.stdout.readline() == b"begun\n" and not is_free(lock)
    process.stdin.close()
    assert process.wait(60) == 1 and is_free(lock)
    process.stdout.close()


def test_a_killed_benchmark_takes_its_run_with_it_and_goes_on_to_the_same_record(tmp_path, monkeypatch):
    row = {"row": "long", "model": "DiffRec", "dataset": "checkerboard", "settings": LONG}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    specification(killed, row)
    arguments = ["benchmark", "tiny.yaml", "--data_path", "data"]
    process = subprocess.Popen([sys.executable, "-m", "recbole_diffusion.cli", *arguments], cwd=killed, stdout=subprocess.PIPE)
    states = (killed / "saved").glob
    wait_until(lambda: process.poll() is not None or list(states("*.resume.pth")))
    [state] = states("*.resume.pth")
    [lock] = states("DiffRec-*.lock")
    assert not is_free(lock)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_until(lambda: is_free(lock))  # the run has ended
    assert state.exists() and not found(killed)

    monkeypatch.setattr(attended, "start", in_this_process)
    specification(whole, row)
    assert bench(killed) == bench(whole) == 0
    assert found(killed) == found(whole) and len(found(whole)) == 1


def test_jobs_are_made_side_by_side_with_their_share_of_the_processors(tmp_path, monkeypatch):
    specification(tmp_path, POP | {"seeds": [1, 2]})
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(7), raising=False)
    together, one, given = threading.Barrier(2, timeout=60), threading.Lock(), []

    def start(arguments, orders, log, environment, folder):
        together.wait()
        with one:
            given.append((environment, "--trust-pickle" in arguments))
            return in_this_process(arguments, orders, log, environment, folder)

    monkeypatch.setattr(attended, "start", start)
    assert bench(tmp_path, "--jobs", "2", "--trust-pickle") == 0
    assert given == [({"OMP_NUM_THREADS": "3"}, True)] * 2
    assert len(found(tmp_path)) == 2
    assert [workers.threads_of(jobs) for jobs in (1, 2, 3, 9)] == [None, 3, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert workers.threads_of(3) == 5


def test_a_run_that_was_made_before_the_kill_is_not_made_again(tmp_path, monkeypatch):
    specification(tmp_path, POP)
    monkeypatch.setattr(attended, "start", in_this_process)
    assert bench(tmp_path) == 0
    [record] = (tmp_path / "results" / "runs").glob("*.json")
    expected = found(tmp_path)
    record.rename(record.with_suffix(".running"))
    monkeypatch.setattr(attended, "start", None)  # would fail
    assert bench(tmp_path) == 0
    assert found(tmp_path) == expected


def test_ray_finds_what_local_processes_find(tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="extra `ray`")
    rows = [POP, POP | {"row": "ItemKNN", "model": "ItemKNN"}]
    for folder in ("local", "ray"):
        specification(tmp_path / folder, *rows)
    # In a process of its own: a Ray that cannot start ends the one it is in.
    command = ["benchmark", "tiny.yaml", "--data_path", "data", "--jobs", "2", "--ray", "local"]
    done = subprocess.run(
        [sys.executable, "-m", "recbole_diffusion.cli", *command], cwd=tmp_path / "ray", capture_output=True, text=True
    )
    if "Unable to register worker with raylet" in done.stderr:
        pytest.skip("this machine is too busy for Ray to start")
    assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.setattr(attended, "start", in_this_process)
    assert bench(tmp_path / "local") == 0
    assert found(tmp_path / "ray") == found(tmp_path / "local") and len(found(tmp_path / "ray")) == 2


def test_no_ray_cluster_is_one_line(tmp_path, capfd):
    pytest.importorskip("ray", reason="extra `ray`")
    specification(tmp_path, POP)
    assert bench(tmp_path, "--ray", "nonsense") == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("error: --ray 'nonsense': ") and "address of a cluster" in error


def test_list_says_how_long_the_rest_takes(tmp_path, capfd, monkeypatch):
    specification(tmp_path, POP | {"seeds": [1, 2, 3]}, POP | {"row": "other", "seeds": [7]},
                  POP | {"row": "unknown", "model": "ItemKNN"})  # fmt: skip
    monkeypatch.setattr(attended, "start", in_this_process)
    assert bench(tmp_path, "--only", "Pop") == 0
    files = sorted((tmp_path / "results" / "runs").glob("*.json"))
    for file in files[1:]:
        file.unlink()
    record = json.loads(files[0].read_text())
    record["curve"] = [{"epoch": 0, "train_s": 1000.0, "eval_s": 20.0}, {"epoch": 1, "train_s": 3000.0}]
    record["eval_s"]["test"] = 80.0
    files[0].write_text(json.dumps(record))
    capfd.readouterr()
    assert bench(tmp_path, "--list", "--jobs", "2") == 0
    # 4100 s a run: 136.7 min for two, 68.3 for the same model on the same data, half of their sum at two a time
    assert capfd.readouterr().out.splitlines() == [
        "  1 of 3   Pop: about 2 h 17 min left",
        "  0 of 1   other: about 68 min left",
        "  0 of 1   unknown: time left unknown",
        "in all, 2 at a time: more than 1 h 42 min left (training and evaluation)",
    ]


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ({"a": 1, "b": 0}, "less than 1 min left"),
        ({"a": 6, "b": 0}, "about 1 min left"),
        ({"a": 6, "b": 1}, "more than 1 min left"),
        ({"a": 1, "b": 1}, "time left unknown"),
        ({"a": 900, "b": 0}, "about 2 h 30 min left"),
    ],
)
def test_time_left(missing, expected):
    assert time_left(missing, {"a": 20.0}, jobs=2) == expected


def test_jobs_below_one_are_refused(tmp_path, capfd):
    specification(tmp_path, POP)
    assert bench(tmp_path, "--jobs", "0") == 2
    assert "--jobs 0: must be an integer >= 1" in capfd.readouterr().err
    assert not Path(tmp_path / "results").exists()
