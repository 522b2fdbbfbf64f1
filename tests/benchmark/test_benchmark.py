"""A specification is run once, tuned on validation, and its page says what the records say."""

import json
import statistics
import threading
import time

import pytest
import yaml
from filelock import FileLock

from recbole_diffusion.benchmark import attended
from recbole_diffusion.benchmark.spec import read_spec, specs
from recbole_diffusion.cli import main
from toy import checkerboard, in_this_process

ROW = {"row": "ItemKNN, tuned", "model": "ItemKNN", "dataset": "checkerboard", "seeds": [1, 2], "tune": {"k": [1, 30]}}


@pytest.fixture
def spec(tmp_path):
    """A file with one tuned row; at k = 1 a neighbour says less than at 30."""
    data = checkerboard(tmp_path / "data")
    settings = {key: data[key] for key in ("load_col", "benchmark_filename")} | {"topk": [5], "valid_metric": "NDCG@5"}
    return write(tmp_path, [ROW | {"settings": settings}])


def write(folder, rows, **more):
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump({"title": "Tiny", "metrics": {"checkerboard": ["ndcg@5"]}, "rows": rows} | more))
    return file


def bench(spec, tmp_path, *more):
    return main(["benchmark", str(spec), "--data_path", str(tmp_path / "data"), "--results", str(tmp_path / "results"),
                 "--checkpoint_dir", str(tmp_path / "saved"), *more])  # fmt: skip


def test_runs_are_made_once_and_the_best_on_validation_gets_all_seeds(spec, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(attended, "start", in_this_process)
    assert bench(spec, tmp_path, "--seeds", "1") == 0
    first = {json.loads(file.read_text())["seed"] for file in (tmp_path / "results" / "runs").glob("*.json")}
    assert first == {1}
    assert bench(spec, tmp_path) == 0
    records = [json.loads(file.read_text()) for file in (tmp_path / "results" / "runs").glob("*.json")]
    by_k = {(record["settings"]["k"], record["seed"]): record for record in records}
    assert set(by_k) == {(1, 1), (30, 1), (30, 2)}
    assert by_k[30, 1]["valid"]["ndcg@5"] > by_k[1, 1]["valid"]["ndcg@5"]
    roles = {key: record["benchmark"]["role"] for key, record in by_k.items()}
    assert roles == {(1, 1): "trial", (30, 1): "seed", (30, 2): "seed"}
    # A trial that was not chosen keeps no values of users.
    assert {key: record["per_user"] is not None for key, record in by_k.items()} == {
        (1, 1): False,
        (30, 1): True,
        (30, 2): True,
    }
    users = {file.name for file in (tmp_path / "results" / "runs").glob("*.users.npz")}
    assert users == {by_k[30, seed]["per_user"]["file"] for seed in (1, 2)}
    page = (tmp_path / "results" / "tiny.md").read_text()
    test = [by_k[30, seed]["test"]["ndcg@5"] for seed in (1, 2)]
    assert f"| {statistics.mean(test):.4f} +- " in page
    assert f"| ItemKNN, tuned | k = 1 | {by_k[1, 1]['valid']['ndcg@5']:.4f} |" in page

    capfd.readouterr()
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "results" / "runs").glob("*.json")}
    assert bench(spec, tmp_path, "--list") == 0
    assert "4 of 4" in capfd.readouterr().out
    assert bench(spec, tmp_path) == 0
    assert "running" not in capfd.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "results" / "runs").glob("*.json")} == before


def test_what_cannot_run_is_refused_before_anything_runs(tmp_path, capfd):
    data = checkerboard(tmp_path / "data")
    settings = {key: data[key] for key in ("load_col", "benchmark_filename")}
    good = ROW | {"settings": settings}
    cases = {
        "unknown benchmark 'reproductoin': did you mean 'reproduction'": "reproductoin",
        "unknown key 'tone': did you mean 'tune'": [good | {"tone": {}}],
        "unknown model 'ItemKN'": [good | {"model": "ItemKN"}],
        "no model": [{"row": "a", "dataset": "checkerboard"}],
        "occur more than once": [good, good],
        "row 'bad': unknown setting 'kk'": [good | {"row": "bad", "settings": settings | {"kk": 1}}],
        "row 'gone': unknown dataset": [good, good | {"row": "gone", "dataset": "elsewhere"}],
    }
    for message, rows in cases.items():
        spec = rows if isinstance(rows, str) else write(tmp_path, rows)
        assert bench(spec, tmp_path) == 2
        error = capfd.readouterr().err
        assert message in error and error.count("\n") == 1, error
    assert bench(write(tmp_path, [good]), tmp_path, "--seeds", "0") == 2
    assert "--seeds 0: must be an integer >= 1" in capfd.readouterr().err
    assert not (tmp_path / "results").exists() and not (tmp_path / "saved").exists()


def test_a_failed_run_is_reported_and_the_others_go_on(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = checkerboard(tmp_path / "data")
    settings = {key: data[key] for key in ("load_col", "benchmark_filename")} | {"topk": [5], "valid_metric": "NDCG@5"}
    failing = ROW | {"row": "too long a list", "seeds": [1], "tune": {}, "settings": settings | {"topk": [5, 1000]}}
    fine = ROW | {"row": "fine", "seeds": [1], "tune": {}, "settings": settings}
    spec = write(tmp_path, [failing, fine])
    assert bench(spec, tmp_path) == 1
    error = capfd.readouterr().err
    log = tmp_path / error.split("see ")[1].split("\n")[0]
    assert "topk" in log.read_text()
    records = [json.loads(file.read_text()) for file in (tmp_path / "results" / "runs").glob("*.json")]
    assert [record["benchmark"]["row"] for record in records] == ["fine"]
    spec.unlink()
    assert main(["report", "--results", str(tmp_path / "results"), "--check"]) == 0


def lock_of(tmp_path, seed, k):
    """The lock of a run, whose record is taken away: it goes by the record's name."""
    for file in (tmp_path / "results" / "runs").glob(f"*-{seed}-*.json"):
        if json.loads(file.read_text())["settings"]["k"] == k:
            file.unlink()
            return FileLock(tmp_path / "saved" / f"{file.stem}.lock")
    raise AssertionError


def test_two_processes_share_the_runs(spec, tmp_path, capfd, monkeypatch):
    """A trial that another process makes is waited for, since the best one has to be known; a seed is left to it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(attended, "start", in_this_process)
    assert bench(spec, tmp_path) == 0
    trial, seed = lock_of(tmp_path, 1, 1), lock_of(tmp_path, 2, 30)
    held, given_up, done = threading.Event(), threading.Event(), threading.Event()

    def other_process():
        with seed:
            with trial:
                held.set()
                time.sleep(2)
                given_up.set()
            done.wait()  # until the second call has ended, however slow the machine is

    other = threading.Thread(target=other_process)
    other.start()
    assert held.wait(60)
    capfd.readouterr()
    try:
        assert bench(spec, tmp_path) == 0
    finally:
        done.set()
        other.join()
    assert given_up.is_set()
    out = capfd.readouterr().out.splitlines()
    elsewhere = [line.split(":")[0] for line in out if "another process is running it" in line]
    assert elsewhere == ["ItemKNN, tuned, seed 1 (trial)", "ItemKNN, tuned, seed 2 (seed)"]
    assert sum("running, output in" in line for line in out) == 1  # the trial, once its lock was free
    assert bench(spec, tmp_path, "--list") == 0
    assert "3 of 4" in capfd.readouterr().out


@pytest.mark.parametrize("name", specs())
def test_the_specifications_that_come_with_the_package(name):
    spec = read_spec(name)
    assert spec.rows and all(spec.metrics.get(row.dataset) for row in spec.rows)
    assert all(row.seeds and len(set(row.seeds)) == len(row.seeds) for row in spec.rows)
