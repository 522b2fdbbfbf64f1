import json
import statistics

from recbole_diffusion.benchmark.table import main

FULL = {"repeatable": False, "eval_args": {"mode": {"test": "full"}}}


def record(model, seed, score, **settings):
    return {
        "model": model,
        "dataset": "toy",
        "protocol": "leave-one-out",
        "protocol_overrides": {},
        "seed": seed,
        "settings": {"seed": seed, "valid_metric": "NDCG@10"} | FULL | settings,
        "settings_hash": f"{model}{seed}",
        "valid": {"ndcg@10": score},
        "test": {"ndcg@10": score / 2, "recall@10": score},
        "epochs": 3,
        "epoch_s": 0.5,
        "eval_s": {"valid": 0.1, "test": 0.2},
    }


def write(folder, *records):
    (folder / "runs").mkdir(parents=True)
    for number, content in enumerate(records):
        (folder / "runs" / f"{number}.json").write_text(json.dumps(content))


def test_a_table_is_the_mean_over_seeds_best_first(tmp_path):
    write(tmp_path, record("A", 1, 0.1), record("A", 2, 0.3), record("B", 1, 0.4), record("B", 1, 0.5, steps=2))
    assert main(["--results", str(tmp_path)]) == 0
    rows = [line.split(" | ") for line in (tmp_path / "toy.md").read_text().splitlines() if line.startswith(("| A", "| B"))]
    assert [row[0] for row in rows] == ["| B", "| B", "| A"]  # other settings, another row
    assert rows[2][2] == "2"
    assert rows[2][3] == f"0.2000 +- {statistics.stdev([0.1, 0.3]):.4f}"


def test_check_fails_on_a_typed_number(tmp_path):
    write(tmp_path, record("A", 1, 0.1))
    main(["--results", str(tmp_path)])
    assert main(["--results", str(tmp_path), "--check"]) == 0
    page = tmp_path / "toy.md"
    page.write_text(page.read_text().replace("0.1000", "0.9000"))
    assert main(["--results", str(tmp_path), "--check"]) == 1
    page.unlink()
    assert main(["--results", str(tmp_path), "--check"]) == 1


def test_check_fails_on_a_page_without_records(tmp_path):
    write(tmp_path, record("A", 1, 0.1))
    main(["--results", str(tmp_path)])
    (tmp_path / "other.md").write_text("| best |")
    assert main(["--results", str(tmp_path), "--check"]) == 1
