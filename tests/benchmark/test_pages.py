"""Pages say what the records say: rows, intervals, tests, costs, commands, and an index of the winners."""

import json
import re

import numpy as np
import pytest
import yaml

from recbole_diffusion.benchmark.boards import read_pages
from recbole_diffusion.benchmark.pages import make_pages
from recbole_diffusion.benchmark.per_user import write_users
from recbole_diffusion.benchmark.rerun import command
from recbole_diffusion.cli import main

HOW = {"valid_metric": "NDCG@10", "repeatable": False, "eval_args": {"mode": {"test": "full"}}}
T_1, T_2 = 12.706205, 4.302653  # the .975 quantiles of t with 1 and 2 degrees of freedom, from a table


def record(row, seed, valid, test, **more):
    return {
        "model": "EASE", "dataset": "toy", "seed": seed, "protocol": "p", "settings_hash": "0" * 10, "dirty": False,
        "protocol_overrides": {}, "benchmark": {"name": "page", "row": row, "role": "seed"},
        "settings": HOW | {"reg_weight": 3.0},
        "valid": {"ndcg@10": valid}, "test": {"ndcg@10": test}, "best_epoch": 1, "epochs": 2, "eval_s": {"test": 0.5},
        "data": {"users": 9, "items": 8, "rows": {"train": 7, "valid": 6, "test": 5}, "fingerprint": "f"},
        "curve": [{"epoch": 0, "train_s": 30.0, "eval_s": 30.0, "valid_score": valid / 2},
                  {"epoch": 1, "train_s": 60.0, "eval_s": 60.0, "valid_score": valid}],
    } | more  # fmt: skip


def alone(model, seed, score, **settings):
    """A record of no benchmark."""
    made = record("", seed, score, score / 2, model=model, settings=HOW | settings, protocol="leave-one-out")
    del made["benchmark"]
    return made


def write(results, records, rows=(), **spec):
    """Records, and the specification ``page`` with rows of these names, or with these rows."""
    (results / "runs").mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(records):
        (results / "runs" / f"{number:03}.json").write_text(json.dumps(content))
    rows = [{"row": row, "model": "EASE", "dataset": "toy"} if isinstance(row, str) else row for row in rows]
    content = {"title": "T", "metrics": {row["dataset"]: ["ndcg@10", "giniindex@10"] for row in rows}, "rows": rows} | spec
    (results / "runs" / "page.yaml").write_text(yaml.safe_dump(content))


def page(results, records, rows=(), **spec):
    write(results, records, rows, **spec)
    return make_pages(results)["page.md"]


def with_users(results, row, seed, values, **more):
    """A record with the values of users, and their file."""
    (results / "runs").mkdir(parents=True, exist_ok=True)
    tokens = [str(user) for user in range(len(next(iter(values.values()))))]
    about = write_users(results / "runs" / f"{row}-{seed}.users.npz", tokens, values)
    return record(row, seed, 0.1, float(values["ndcg@10"].mean()), per_user=about, **more)


def report(results, *more):
    return main(["report", "--results", str(results), *more])


def test_a_page_by_hand(tmp_path):
    published = {"toy": [{"row": "theirs", "source": "paper", "ndcg@10": 0.5}]}
    records = [record("A", 2, 0.3, 0.25, diagnostics={"rank": 4.0}), record("A", 1, 0.1, 0.15)]
    text = page(tmp_path, records, ["A", "B"], published=published, notes={"toy": "Note."})
    lines = text.splitlines()
    assert "| theirs | paper |  | 0.5 |  |  |" in lines
    valid, test = (f"0.2000 +- {T_1 * spread / 2:.4f}" for spread in (0.2, 0.1))  # half the difference times t
    assert f"| A | ours | 2 | {test} | {valid} (ndcg@10) | `0000000000` |" in lines
    assert "| A | 2 | 3.0 | 0.5 |" in lines  # best epoch, training minutes, seconds of the test
    assert "| row | epoch 1 | epoch 2 |" in lines and "| A | 0.1000 | 0.2000 |" in lines  # the curve
    assert "Evaluation: seen items masked, not refitted, sees the training items." in text and "Note." in lines
    assert not any(line.startswith("| B ") for line in lines)
    assert "Diagnostics" not in text  # only one of the two has some
    assert "giniindex" not in text  # no row has it
    assert f"**A** has the highest ndcg@10, {test}. Not tested: fewer than two rows have values of each user" in text


def test_columns_that_only_some_records_have(tmp_path):
    with_gini = record("A", 1, 0.1, 0.1, dirty=True)
    with_gini["test"]["giniindex@10"] = 0.9
    text = page(tmp_path, [with_gini], ["A"])
    assert "| A | ours, changed tree | 1 | 0.1000 | 0.9000 |" in text
    beyond = {"itemcoverage@10": 0.25, "giniindex@10": 0.75, "averagepopularity@10": 12.3, "colditemshare@10": 0.125}
    costs = {"scoring_ms": 0.0625, "network_calls": 40, "parameters": 12345, "peak_memory_mib": 99.6}
    text = page(tmp_path, [record("A", 1, 0.1, 0.1, beyond_accuracy=beyond, **costs), record("B", 1, 0.1, 0.1)], ["A", "B"])
    assert "| A | 0.250 | 0.750 | 12 | 0.125 | 2 | 3.0 | 0.5 | 0.062 | 40 | 12,345 | 100 |" in text
    assert "| B |  |  |  |  | 2 | 3.0 | 0.5 |  |  |  |  |" in text


def test_the_head_of_a_table_says_which_rows_are_evaluated_otherwise(tmp_path):
    other = HOW | {"reg_weight": 3.0, "mask_seen": False, "refit": True}
    records = [record("A", 1, 0.1, 0.1), record("B", 1, 0.1, 0.1, settings=other), record("C", 1, 0.1, 0.1)]
    second = record("C", 2, 0.1, 0.1)
    second["data"] = second["data"] | {"fingerprint": "g"}
    lines = page(tmp_path, [*records, second], ["A", "B", "C"]).splitlines()
    sizes = "9 users, 8 items, 7 / 6 / 5 rows. Evaluation:"
    seen = "seen items masked, not refitted, sees the training items."
    refitted = "refitted on training and validation parts, sees the training and validation items."
    first = lines.index(f"B: protocol `p`, data `f`: {sizes} nothing masked, {refitted}")
    assert lines[first + 2] == f"All other rows: protocol `p`, data `f`, `g` (a split for each seed): {sizes} {seen}"


def test_the_head_of_a_table_names_a_row_whose_seeds_are_evaluated_in_two_ways(tmp_path):
    refitted = HOW | {"refit": True}
    records = [record("A, b", 1, 0.1, 0.1), record("A, b", 2, 0.1, 0.1, settings=refitted), record("C", 1, 0.1, 0.1)]
    text = page(tmp_path, records, ["A, b", "C"])
    assert "\nA, b: protocol `p`" in text and "\nA, b; C: protocol `p`" in text and "other rows" not in text


def test_other_ways_to_score_stand_below_each_other(tmp_path):
    def of_seed(seed, score):
        ways = [
            {"settings": {"w": w}, "test": {"ndcg@10": score + w / 10}, "beyond_accuracy": {"itemcoverage@10": w / 8},
             "scoring_ms": w / 2, "network_calls": w}
            for w in (0, 2)
        ]  # fmt: skip
        return record("A", seed, 0.1, score, settings=HOW | {"w": 1}, test_also=ways)

    text = page(tmp_path, [of_seed(1, 0.2), of_seed(2, 0.4), record("B", 1, 0.1, 0.1)], ["A", "B"])
    half = f"{T_1 * 0.1:.4f}"
    assert f"| A | w = 1 | 0.3000 +- {half} |  |  |  |  |" in text
    assert f"| A | w = 0 | 0.3000 +- {half} | 0.0000 +- 0.0000 | 0.000 | 0 | 0.000 |" in text
    assert f"| A | w = 2 | 0.5000 +- {half} | 0.2000 +- 0.0000 | 0.250 | 2 | 1.000 |" in text
    assert "| B | " not in text.split("### Other ways to score")[1].split("###")[0]


def test_runs_that_differ_in_one_number_are_found(tmp_path):
    """Three rows by lambda, one of them tested at two other w as well; a fourth row differs in its size too."""
    ways = [{"settings": {"w": w}, "test": {"ndcg@10": w}, "beyond_accuracy": {}} for w in (0, 2)]
    rows = {"a": (0.0, 64), "b": (0.1, 64), "c": (1.0, 64), "d": (10.0, 32)}
    records = [
        record(row, seed, 0.1, 0.1, settings=HOW | {"w": 1, "lambda": value, "size": size}, test_also=ways * (row == "b"))
        for row, (value, size) in rows.items()
        for seed in (1, 2)
    ]
    settings = {row: {"lambda": value, "size": size} for row, (value, size) in rows.items()}
    write(tmp_path, records, [{"row": row, "model": "EASE", "dataset": "toy", "settings": of} for row, of in settings.items()])
    (board,) = read_pages(tmp_path)[0].boards
    found = board.varied()
    assert list(found) == ["lambda", "w"] and list(found["lambda"]) == ["a"] and list(found["w"]) == ["b"]
    assert sorted(record["settings"]["lambda"] for record in found["lambda"]["a"]) == [0.0, 0.0, 0.1, 0.1, 1.0, 1.0]
    assert sorted((record["settings"]["w"], record["test"]["ndcg@10"]) for record in found["w"]["b"]) == [
        (0, 0), (0, 0), (1, 0.1), (1, 0.1), (2, 2), (2, 2),
    ]  # fmt: skip


def test_ways_to_score_that_differ_in_one_number_from_each_other_but_not_from_the_row(tmp_path):
    ways = [{"settings": {"sampler": "ddim", "w": w}, "test": {"ndcg@10": w}, "beyond_accuracy": {}} for w in (0, 2, 4)]
    settings = HOW | {"w": 1, "sampler": "exact"}
    write(tmp_path, [record("A", 1, 0.1, 0.1, settings=settings, test_also=ways)], ["A"])
    (board,) = read_pages(tmp_path)[0].boards
    assert list(board.varied()) == ["w"]
    [(name, runs)] = board.varied()["w"].items()
    assert name == "A, sampler = ddim" and [run["settings"]["w"] for run in runs] == [0, 2, 4]


def test_a_block_of_rows_is_a_board_of_its_own(tested):
    """The best of all is in a block: it is compared with nobody outside it, and has its own note and published row."""
    spec = yaml.safe_load((tested / "runs" / "page.yaml").read_text())
    spec["rows"][0]["block"] = spec["rows"][2]["block"] = "order read"
    published = [{"row": "theirs", "ndcg@10": 1, "source": "s"}]
    more = {"notes": {"toy, order read": "Read."}, "published": {"toy, order read": published}}
    (tested / "runs" / "page.yaml").write_text(yaml.safe_dump(spec | more))
    boards = {board.heading: board for board in read_pages(tested)[0].boards}
    block = boards.pop("toy, order read")
    assert [(heading, list(board.entries)) for heading, board in boards.items()] == [("toy", ["level", "old"])]
    assert (list(block.entries), block.note) == (["EASE", "behind"], "Read.")
    assert block.significance().letters == {"EASE": "a", "behind": "b"} and len(block.published) == 1
    assert "| [page](page.md) | toy, order read | ndcg@10 | EASE |" in make_pages(tested)["README.md"]


def test_a_row_with_two_records_of_a_seed_is_refused(tmp_path, capsys):
    """A row whose settings have changed must not be a mean over old and new ones."""
    old, new = (record("A", 1, 0.1, 0.1, settings_hash=name) for name in ("of-old", "of-new"))
    write(tmp_path, [old, new, record("A", 2, 0.1, 0.1)], ["A"])
    assert report(tmp_path) == 2
    err = capsys.readouterr().err
    assert "two records of seed 1, of-old and of-new; delete" in err and err.count("\n") == 1


def test_settings_of_a_row_that_a_record_is_older_than(tmp_path):
    row = {"row": "A", "model": "EASE", "dataset": "toy", "settings": {"of_today": 1, "reg_weight": 3.0}}
    assert "- A: EASE, reg_weight = 3.0\n" in page(tmp_path, [record("A", 1, 0.1, 0.1)], [row])


def test_trials_of_a_grid_and_of_a_search(tmp_path):
    rows = [{"row": name, "model": "EASE", "dataset": "toy", "tune": {"reg_weight": [3.0, 4.0]}} for name in ("A", "B")]
    trial = record(
        "A", 1, 0.05, 0.9, settings=HOW | {"reg_weight": 4.0}, benchmark={"name": "page", "row": "A", "role": "trial"}
    )
    records = [record("A", 1, 0.1, 0.2), trial, record("A", 2, 0.1, 0.4), record("B", 1, 0.1, 0.1)]
    searched = [
        {
            "row": "B",
            "trial": number,
            "end": end,
            "tried": {"reg_weight": tried},
            "valid": valid,
            "epochs": 2 - number,
            "seconds": 40,
        }
        for number, (end, tried, valid) in enumerate([("complete", 3.0, 0.1), ("pruned", 3.5, 0.01), ("failed", 9.0, None)])
    ]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "page.trials.jsonl").write_text("\n".join(map(json.dumps, searched)) + "\n")
    text = page(tmp_path, records, rows)
    assert f"| A | ours | 2 | 0.3000 +- {T_1 * 0.1:.4f} |" in text  # the trial's 0.9 is no seed's
    assert (
        "Tuned on validation with one seed: A 2 trials in 6.0 minutes; B 3 trials in 2.0 minutes, 1 pruned, 1 failed." in text
    )
    assert "| A | reg_weight = 3.0 | 0.1000 | 2 |  |\n| A | reg_weight = 4.0 | 0.0500 | 2 |  |" in text
    assert "| B | reg_weight = 3.5 | 0.0100 | 1 | pruned |\n| B | reg_weight = 9.0 |  | 0 | failed |" in text


@pytest.fixture
def tested(tmp_path):
    """EASE and a model level with it, one behind both, and one without values of users; masked and unmasked."""
    rng = np.random.default_rng(0)
    base, records = rng.random(400), []
    both = {"repeatable": True, "mask_seen": True}
    for row, quality in {"EASE": 0.5, "level": 0.5, "behind": 0.3}.items():
        for seed in (1, 2, 3):
            noise = rng.normal(0, 0.2, (2, 400))
            noise -= noise.mean(axis=1, keepdims=True)  # luck is for test_statistics.py
            masked, unmasked = base + quality + noise[0], base + 0.5 + noise[1]
            values = {"ndcg@10": masked, "unmasked:ndcg@10": unmasked}
            values = {name: of_users.astype(np.float32) for name, of_users in values.items()}
            means = {"masked": {"ndcg@10": float(masked.mean())}, "unmasked": {"ndcg@10": float(unmasked.mean())}}
            model = "EASE" if row == "EASE" else "DiffRec"
            more = {"settings": HOW | both, "model": model, "masked": True, "test_by_masking": means}
            records.append(with_users(tmp_path, row, seed, values, **more))
    records.append(record("old", 1, 0.1, 0.2, model="DiffRec", settings=HOW | both))
    write(tmp_path, records, ["EASE", "level", "behind", "old"], simple=["EASE"])
    return tmp_path


def test_rows_are_tested_over_users(tested):
    text = make_pages(tested)["page.md"]
    accuracy, unmasked = text.split("### Unmasked")
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in accuracy.splitlines() if line.startswith("| ")}
    letter, p = rows["row"].index("letter"), rows["row"].index("p, EASE")
    assert [rows[name][letter] for name in ("EASE", "level", "behind", "old")] == ["a", "a", "b", ""]
    assert (rows["EASE"][p], rows["behind"][p], rows["old"][p]) == ("", "< 0.001", "") and float(rows["level"][p]) > 0.05
    assert re.search(r"\*\*(EASE|level)\*\* has the highest ndcg@10, .* It cannot be told apart from (EASE|level)\.", accuracy)
    assert "Significantly better than EASE, the best simple row: none. Worse: behind." in accuracy
    assert "Not tested, without values of each user: old." in accuracy
    second = [line.split(" | ") for line in unmasked.split("### Cost")[0].splitlines() if line.startswith("| ")]
    assert {row[0].strip("| "): row[letter] for row in second[2:]} == {"EASE": "a", "level": "a", "behind": "a"}
    index = make_pages(tested)["README.md"]
    best = r"\| \[page\]\(page.md\) \| toy \| ndcg@10 \| (EASE|level) \|"
    assert re.search(best + r" .* \| a \| (EASE|level); not tested: old \| EASE, ", index)


def test_a_changed_file_of_users_fails_the_check(tested, capsys):
    assert report(tested) == 0 and report(tested, "--check") == 0
    file = tested / "runs" / "level-2.users.npz"
    file.write_bytes((tested / "runs" / "level-1.users.npz").read_bytes())
    assert report(tested, "--check") != 0
    assert "level-2.users.npz: not the file that its record names" in capsys.readouterr().err


def test_rows_with_other_users_are_not_compared(tmp_path):
    few, many = ({"ndcg@10": np.ones(n, dtype=np.float32)} for n in (3, 4))
    text = page(tmp_path, [with_users(tmp_path, "A", 1, few), with_users(tmp_path, "B", 1, many)], ["A", "B"])
    assert re.search(r"Not tested: . and . were tested on different users\.", text)


def test_rows_of_no_benchmark_are_named_by_what_differs_best_first(tmp_path):
    write(tmp_path, [alone("A", 1, 0.1), alone("A", 2, 0.3), alone("B", 1, 0.4), alone("B", 1, 0.5, steps=2, size=1)])
    text = make_pages(tmp_path)["toy.md"]
    rows = [line.split(" | ") for line in text.split("### Cost")[0].splitlines() if line.startswith(("| A", "| B"))]
    assert [row[0] for row in rows] == ["| B, steps = 2, size = 1", "| B", "| A"]
    assert rows[2][1:4] == ["ours", "2", f"0.1000 +- {T_1 * 0.05:.4f}"]
    assert "## Protocol leave-one-out" in text


def test_a_folder_without_runs_is_refused(tmp_path, capsys):
    assert report(tmp_path) == 2 and "runs: no such folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
    lambda results: (results / "toy.md").write_text((results / "toy.md").read_text().replace("0.1000", "0.9000")),
    lambda results: (results / "toy.md").unlink(),
    lambda results: (results / "other.md").write_text("| best |"),
    lambda results: (results / "README.md").write_text(""),
    lambda results: (results / "runs" / "000.json").write_text(json.dumps(alone("A", 1, 0.2, never_shown=1))),
], ids=["an edited table", "a missing page", "a page without records", "an edited index", "a changed record"])  # fmt: skip
def test_the_check_fails_on(change, tmp_path):
    write(tmp_path, [alone("A", 1, 0.2)])
    assert report(tmp_path) == 0 and report(tmp_path, "--check") == 0
    change(tmp_path)
    assert report(tmp_path, "--check") == 1


def test_mean_ranks_need_two_boards_with_the_same_rows(tmp_path):
    scores = {"one": {"A": 0.3, "B": 0.2}, "two": {"A": 0.3, "B": 0.2, "C": 0.9}}

    def made(**spec):
        for number, (name, of_rows) in enumerate(scores.items()):
            records = [
                record(row, 1, 0.1, score, benchmark={"name": name, "row": row, "role": "seed"})
                for row, score in of_rows.items()
            ]
            for place, content in enumerate(records):
                (tmp_path / "runs" / f"{number}{place}.json").write_text(json.dumps(content))
            rows = [{"row": row, "model": "EASE", "dataset": "toy"} for row in of_rows]
            content = {"title": name, "metrics": {"toy": ["ndcg@10"]}, "rows": rows} | spec
            (tmp_path / "runs" / f"{name}.yaml").write_text(yaml.safe_dump(content))
        return make_pages(tmp_path)

    (tmp_path / "runs").mkdir()
    assert "ranks.md" not in made()
    pages = made(ranks="all")
    assert "| A | 1.00 |\n| B | 2.00 |\n" in pages["ranks.md"] and "| C |" not in pages["ranks.md"]
    assert "Critical difference: 1.39." in pages["ranks.md"]  # 1.960 sqrt(2 * 3 / (6 * 2))
    assert "(ranks.md)" in pages["README.md"] and "](figures/ranks-all.svg)" in pages["ranks.md"]


def test_the_command_of_a_row():
    given = ["recbole-diffusion", "run", "--model=A", "--data_path=/home/me/data", "--record=x.json", "--resume"]
    given += ["--seed", "1", "--protocol='leave-one-out'", "--metrics=['Hit', 'NDCG']", "--show_progress=False"]
    given += ["--checkpoint_dir='saved'"]
    expected = "recbole-diffusion run --model=A --data_path=dataset --seed=1 --protocol=leave-one-out "
    assert command({"command": given}) == expected + "\"--metrics=['Hit', 'NDCG']\" --record=again.json"
    assert command({"command": ["pytest"]}) == command({}) == ""
