"""A search proposes the same trials whenever it is killed, stops what is below the median, and keeps to its budget."""

import json
import statistics
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from recbole_diffusion.benchmark import attended
from recbole_diffusion.benchmark.spec import read_spec
from recbole_diffusion.cli import main
from recbole_diffusion.settings import SettingsError
from toy import checkerboard, in_this_process

optuna = pytest.importorskip("optuna", reason="extra `benchmark`")

from recbole_diffusion.benchmark.search import Search, StoppedEarly, watched  # noqa: E402

RATE = {"low": 1e-4, "high": 1e-1, "log": True}
TUNE = {"rate": RATE, "layers": {"low": 1, "high": 3}, "dims": [[8], [8, 4]]}


def spec_of(folder, search, tune, /, **row):
    file = folder / "searched.yaml"
    rows = [{"row": "R", "model": "DiffRec", "dataset": "checkerboard", "tune": tune} | row]
    file.write_text(yaml.safe_dump({"title": "T", "metrics": {"checkerboard": ["ndcg@5"]}, "search": search, "rows": rows}))
    return file


def search_of(folder, search, tune=TUNE, default=None, bigger=True, **row):
    [read] = read_spec(str(spec_of(folder, search, tune, **row))).rows
    default = default or {"rate": 0.02, "layers": 7, "dims": [8, 4]}
    return Search(read, "study", folder / "s.sqlite", folder / "s.lock", default, bigger)


def curve(*scores, seconds=1.0):
    return [
        {"epoch": i, "train_s": seconds, "eval_s": seconds, "valid_score": score} for i, score in enumerate(scores)
    ]


def score(tried):
    """What a trial finds; smooth, with one best place."""
    return 1.0 - abs(tried["rate"] - 0.01) - 0.1 * abs(tried["layers"] - 2)


def test_a_search_goes_on_as_if_it_had_not_been_killed(tmp_path):
    (tmp_path / "whole").mkdir(), (tmp_path / "killed").mkdir()
    whole, asked = search_of(tmp_path / "whole", {"trials": 9}), []
    while not whole.ended(trials := whole.trials()):
        asked.append(whole.ask(trials))
        whole.add(len(trials), asked[-1], "complete", curve(0.1, score(asked[-1])), score(asked[-1]))
    for number, expected in enumerate(asked):
        killed = search_of(tmp_path / "killed", {"trials": 9})  # a new process for every trial
        assert killed.ask(killed.trials()) == expected
        tried = killed.ask(killed.trials())  # and once more: the first one was killed
        assert tried == expected
        killed.add(number, tried, "complete", curve(0.1, score(tried)), score(tried))
        killed.add(number, tried, "complete", curve(0.1, score(tried)), score(tried))  # another process has made it, too
    assert len(killed.trials()) == len(asked) == 9
    assert killed.best(killed.trials()) == max(asked, key=score)
    assert killed.table(killed.trials()) == whole.table(whole.trials())
    assert len({json.dumps(tried) for tried in asked}) == 9
    assert all(1e-4 <= tried["rate"] <= 1e-1 and tried["layers"] in (1, 2, 3) for tried in asked)
    assert asked[0]["rate"] == 0.02 and asked[0]["dims"] == [8, 4]  # the row's own; 7 layers are no candidate


def test_few_combinations_are_tried_whole(tmp_path):
    search = search_of(tmp_path, {"trials": 6}, {"a": [1, 2, 3], "b": [[8], None]}, {"a": 1, "b": None})
    asked = []
    while not search.ended(trials := search.trials()):
        asked.append(search.ask(trials))
        search.add(len(trials), asked[-1], "complete", curve(0.0), -abs(asked[-1]["a"] - 2.0))
    assert asked == [{"a": a, "b": b} for a in (1, 2, 3) for b in ([8], None)]
    assert search.best(search.trials()) == {"a": 2, "b": [8]}  # the first of equal ones


def test_a_search_that_is_given_more_trials_misses_no_combination_and_repeats_none(tmp_path):
    tune, default = {"a": [1, 2, 3], "b": [1, 2, 3]}, {"a": 3, "b": 3}
    asked = []
    for trials in (4, 9):  # first drawn, then tried whole
        search = search_of(tmp_path, {"trials": trials}, tune, default)
        while not search.ended(found := search.trials()):
            asked.append(search.ask(found))
            search.add(len(found), asked[-1], "complete", curve(0.0), 0.0)
    first = {(tried["a"], tried["b"]) for tried in asked[:4]}
    rest = [(tried["a"], tried["b"]) for tried in asked[4:]]
    assert len(asked) == 9 and len(set(rest)) == 5 and not first & set(rest)


def test_time_ends_a_search_once_there_is_a_trial_to_choose(tmp_path):
    search = search_of(tmp_path, {"trials": 9, "minutes": 0.5}, bigger=False)
    for number, (end, valid) in enumerate([("failed", None), ("complete", 0.7), ("pruned", None), ("complete", 0.4)]):
        trials = search.trials()
        assert not search.ended(trials)
        assert search.orders(trials)["seconds"] == [None, None, 20.0, 10.0][number]
        tried = search.ask(trials)
        search.add(number, tried, end, [] if end == "failed" else curve(0.9, 0.8, 0.7, 0.4, 0.6), valid)
    assert search.ended(search.trials())
    ends = [trial["end"] for trial in search.table(search.trials())]
    assert ends == ["failed", "complete", "pruned", "complete"]
    assert [trial["valid"] for trial in search.table(search.trials())] == [None, 0.7, 0.4, 0.4]
    assert search.best(search.trials()) == search.table(search.trials())[3]["tried"]  # smaller is better


def train(orders, scores, tmp_path, fine_tunes=True):
    """An attended training with these scores; returns how it ended and after how many epochs."""
    stopped, state, checkpoint = (tmp_path / name for name in ("stopped", "state", "checkpoint"))
    state.touch(), checkpoint.touch()
    trainer = SimpleNamespace(model=SimpleNamespace(fine_tunes=fine_tunes), state_file=state, saved_model_file=checkpoint)
    trainer.curve = []
    try:
        with watched(orders, stopped):
            from recbole_diffusion.adapter.trainer.tracked import Tracked

            for entry in curve(*scores):
                trainer.curve.append(entry)
                Tracked.watcher(trainer)
    except StoppedEarly:
        left = json.loads(stopped.read_text())
        stopped.unlink()
        assert left["curve"] == trainer.curve and not state.exists() and not checkpoint.exists()
        return left["end"], len(trainer.curve)
    assert not stopped.exists() and state.exists()
    return "complete", len(trainer.curve)


# At each epoch the median of four earlier trials is .25, .55, .85.
EARLIER = [{str(epoch): 0.3 * epoch + 0.1 * trial for epoch in range(3)} for trial in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("earlier", "bigger", "scores", "expected"),
    [
        (EARLIER, True, (0.26, 0.56, 0.86), ("complete", 3)),
        (EARLIER, True, (0.24, 0.9, 0.9), ("pruned", 1)),
        (EARLIER, True, (0.26, 0.54, 0.9), ("pruned", 2)),
        (EARLIER, True, (0.6, 0.1, 0.9), ("complete", 3)),  # the best so far counts
        (EARLIER, True, (0.26, 0.56, 0.86, 0.0), ("complete", 4)),  # no earlier one was so long
        (EARLIER, False, (0.24, 0.9, 0.9), ("complete", 3)),  # smaller is better
        (EARLIER, False, (0.26, 0.1, 0.1), ("pruned", 1)),
        (EARLIER[:3], True, (0.0, 0.0, 0.0), ("complete", 3)),  # too few for a median
    ],
)
def test_what_is_below_the_median_is_stopped(earlier, bigger, scores, expected, tmp_path):
    assert train({"earlier": earlier, "bigger": bigger, "seconds": None}, scores, tmp_path) == expected


def test_the_scores_of_an_earlier_stage_do_not_count_but_its_time_does(tmp_path):
    orders = {"earlier": EARLIER, "bigger": True, "seconds": 5.0}
    assert train(orders, (0.0, 0.0, 0.0), tmp_path, fine_tunes=False) == ("cut", 3)  # two seconds an epoch
    assert train(orders | {"seconds": 6.0}, (0.0, 0.0, 0.0), tmp_path, fine_tunes=False) == ("complete", 3)


def bench(folder, file, *more):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return main(["benchmark", file.name, "--data_path", "data", *more])


SETTINGS = {"topk": [5], "valid_metric": "NDCG@5", "dims_dnn": [8], "steps": 3, "epochs": 6, "train_batch_size": 10}
SEARCHED = {"learning_rate": {"low": 1e-6, "high": 0.1, "log": True}, "dropout": [0.0, 0.5]}


def searched(folder):
    """A specification of one row, whose default learning rate is a good one."""
    folder.mkdir()
    data = checkerboard(folder / "data")
    settings = SETTINGS | {key: data[key] for key in ("load_col", "benchmark_filename")} | {"learning_rate": 0.02}
    return spec_of(folder, {"trials": 6}, SEARCHED, settings=settings, seeds=[3, 4])


def without_times(value):
    if isinstance(value, dict):
        times = ("train_s", "eval_s", "epoch_s", "seconds", "finished", "peak_memory_mib", "scoring_ms", "dirty", "revision")
        return {key: without_times(item) for key, item in value.items() if key not in times}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def outcome(folder):
    """Records by file, and trials, without times."""
    runs = folder / "results" / "runs"
    trials = [json.loads(line) for line in (runs / "searched.trials.jsonl").read_text().splitlines()]
    found = {file.name: json.loads(file.read_text()) for file in sorted(runs.glob("*.json"))}
    return without_times([found, trials])


def test_a_row_is_searched_killed_and_searched_on(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(attended, "start", in_this_process)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert bench(whole, searched(whole)) == 0
    records, trials = outcome(whole)
    # The median rule once more, from the trials' scores alone.
    assert len(trials) == 6 and {trial["end"] for trial in trials} == {"complete", "pruned"}
    storage = f"sqlite:///{whole / 'results/runs/searched.sqlite'}"
    [summary] = optuna.get_all_study_summaries(storage)
    complete = []
    for trial in optuna.load_study(study_name=summary.study_name, storage=storage).trials:
        scores = trial.intermediate_values
        below = [
            len(complete) >= 4
            and max(list(scores.values())[: epoch + 1]) < statistics.median(scores[epoch] for scores in complete)
            for epoch in scores
        ]
        assert below == [False] * (len(below) - 1) + [trial.state.name == "PRUNED"]
        if trial.state.name == "COMPLETE":
            complete.append(scores)
    best = max((trial for trial in trials if trial["end"] == "complete"), key=lambda trial: trial["valid"])
    seeds = [record for record in records.values() if record["benchmark"]["role"] == "seed"]
    assert {record["seed"] for record in seeds} == {3, 4}
    assert all(record["settings"][key] == value for record in seeds for key, value in best["tried"].items())
    # A complete trial keeps its record; one that was stopped is a line.
    assert len(records) == 1 + sum(trial["end"] == "complete" for trial in trials)

    file, starts = searched(killed), []

    def killed_often(arguments, orders, log, environment, folder):
        """Killed before a run has begun, and when all is done but the record's name."""
        starts.append(None)
        if len(starts) in (2, 7):
            raise KeyboardInterrupt
        status = in_this_process(arguments, orders, log, environment, folder)
        if len(starts) == 4:
            raise KeyboardInterrupt
        return status

    monkeypatch.setattr(attended, "start", killed_often)
    assert [bench(killed, file) for _ in range(4)] == [130, 130, 130, 0]
    assert outcome(killed) == [records, trials]
    capfd.readouterr()
    assert bench(killed, file, "--list") == 0
    assert "8 of 8" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("search", "tune", "message"),
    [
        ({"trials": 0}, TUNE, "search: trials = 0: must be an integer >= 1"),
        ({"minutes": 3}, TUNE, "search: no trials"),
        ({"trials": 3, "minutes": 0}, TUNE, "minutes = 0: must be a number > 0"),
        ({"trials": 3, "hours": 1}, TUNE, "search: unknown key 'hours'"),
        (20, TUNE, "search = 20: must be a mapping"),
        (None, TUNE, "is a range, which has no grid: add search"),
        ({"trials": 3}, {"rate": {"low": 1.0}}, "tune: rate: no high"),
        ({"trials": 3}, {"rate": {"low": 2, "high": 1}}, "low = 2, high = 1: must be numbers, low < high"),
        ({"trials": 3}, {"rate": {"low": 0.0, "high": 1.0, "log": True}}, "log = True: must be True or False"),
        ({"trials": 3}, {"rate": {"low": 1, "high": 9, "step": 0.5}}, "step = 0.5: must be a number > 0"),
        ({"trials": 3}, {"rate": 0.1}, "tune: rate = 0.1: must be a list"),
        ({"trials": 3}, {"rate": []}, "tune: rate = []: must be a list"),
    ],
)
def test_what_is_no_search_is_one_line(search, tune, message, tmp_path):
    with pytest.raises(SettingsError) as error:
        read_spec(str(spec_of(tmp_path, search, tune)))
    assert message in str(error.value) and "\n" not in str(error.value) and "row 'R'" in str(error.value)


def test_a_row_may_have_a_budget_of_its_own_or_none(tmp_path):
    [row] = read_spec(str(spec_of(tmp_path, {"trials": 9}, TUNE, search={"trials": 2, "minutes": 5}))).rows
    assert (row.search.trials, row.search.minutes) == (2, 5)
    [row] = read_spec(str(spec_of(tmp_path, {"trials": 9}, {"a": [1, 2]}, search=None))).rows
    assert row.search is None and len(list(row.trials())) == 2
    [row] = read_spec(str(spec_of(tmp_path, {"trials": 9}, {}))).rows
    assert row.search is None


def test_both_ends_of_a_range_are_checked_before_anything_runs(tmp_path, capfd):
    data = checkerboard(tmp_path / "data")
    settings = {key: data[key] for key in ("load_col", "benchmark_filename")}
    file = spec_of(tmp_path, {"trials": 3}, {"dropout": {"low": 0.1, "high": 1.5}}, settings=settings)
    assert bench(tmp_path, file) == 2
    error = capfd.readouterr().err
    assert "row 'R': dropout = 1.5" in error and error.count("\n") == 1
    assert not Path(tmp_path / "results").exists()
