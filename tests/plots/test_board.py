"""Pictures of boards: what is drawn is what the records say, taken from them a second time by hand."""

import json

import pytest

from recbole_diffusion.cli import main
from recbole_diffusion.plots.board import plot_accuracy_and_cost, plot_courses, plot_ranks, plot_setting


def record(model, seed, ndcg, ms=2.0, scores=(0.1, 0.3, 0.2), **settings):
    curve = [{"epoch": epoch, "train_loss": 1.0, "valid_score": score} for epoch, score in enumerate(scores)]
    return {
        "model": model, "seed": seed, "test": {"ndcg@10": ndcg}, "beyond_accuracy": {"itemcoverage@10": 10 * ndcg},
        "scoring_ms": ms, "curve": curve, "best_epoch": max(range(len(scores)), key=lambda epoch: scores[epoch]),
        "settings": {"valid_metric": "NDCG@10", **settings},
    }  # fmt: skip


ROWS = {
    "DreamRec": [record("DreamRec", 1, 0.04), record("DreamRec", 2, 0.06, 4.0, (0.2, 0.5))],
    "kNN": [record("SequentialKNN", 1, 0.07, 0.5, (0.7,))],
    "older": [{**record("EASE", 1, 0.08), "scoring_ms": None}],
}


def test_each_row_is_a_point_with_its_range():
    (axis,) = plot_accuracy_and_cost("board", ROWS, "ndcg@10").axes
    points = [line.get_xydata()[0].tolist() for line, *_ in axis.containers]
    assert points == [pytest.approx([3.0, 0.05]), pytest.approx([0.5, 0.07])]
    assert [text.get_text() for text in axis.texts] == ["DreamRec", "kNN"] and axis.get_xscale() == "log"
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["diffusion", "simple"]


def test_names_beside_points_that_are_close_do_not_overlap_and_keep_their_order():
    rows = {name: [record("EASE", 1, score)] for name, score in {"c": 0.3, "a": 0.1, "b": 0.1001, "d": 0.3}.items()}
    (axis,) = plot_accuracy_and_cost("board", rows, "ndcg@10").axes
    height = {text.get_text(): text.xyann[1] for text in axis.texts}
    assert [name for name, _ in sorted(height.items(), key=lambda item: item[1])] == ["a", "b", "c", "d"]
    assert height["b"] - height["a"] >= 0.04 and height["d"] - height["c"] >= 0.04 and 0 <= height["a"] < height["d"] <= 1


def test_courses_are_means_over_the_seeds_that_reached_an_epoch():
    (axis,) = plot_courses("board", {"DreamRec": ROWS["DreamRec"], "kNN": ROWS["kNN"]}).axes
    mean, *rings = axis.lines
    assert mean.get_xydata().tolist() == [[1, pytest.approx(0.15)], [2, pytest.approx(0.4)], [3, pytest.approx(0.2)]]
    assert [ring.get_xydata().tolist() for ring in rings] == [[[2, 0.3]], [[2, 0.5]]]


def test_mean_ranks_are_drawn_best_on_top_with_half_the_critical_difference():
    (axis,) = plot_ranks("two boards", {"kNN": 2.5, "DreamRec": 1.5, "Pop": 3.0}, 1.2).axes
    (points, _, (bars,)) = axis.containers[0]
    assert points.get_xydata().tolist() == [[3.0, 0], [2.5, 1], [1.5, 2]]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["Pop", "kNN", "DreamRec"]
    assert [segment[:, 0].tolist() for segment in bars.get_segments()] == [
        [pytest.approx(mean - 0.6), pytest.approx(mean + 0.6)] for mean in (3.0, 2.5, 1.5)
    ]


@pytest.mark.parametrize(("values", "scale"), [((0.0, 1.0), "linear"), ((0.001, 1.0), "log"), ((0.0, 0.001, 1.0), "symlog")])
def test_a_setting_is_drawn_against_accuracy_and_coverage(values, scale):
    records = [
        record("DreamRec", seed, 0.01 * (number + seed), w=value) for number, value in enumerate(values) for seed in (1, 2)
    ]
    accuracy, coverage = plot_setting("w", {"DreamRec": records}, "w", ["ndcg@10", "itemcoverage@10"]).axes
    means = [[value, pytest.approx(0.01 * (number + 1.5))] for number, value in enumerate(values)]
    assert accuracy.lines[0].get_xydata().tolist() == means
    assert coverage.lines[0].get_ydata().tolist() == [pytest.approx(10 * y.expected) for _, y in means]
    assert accuracy.get_xscale() == scale
    if scale != "linear":
        assert [label.get_text() for label in accuracy.get_xticklabels()] == [f"{value:g}" for value in values]


def test_the_command_draws_a_setting_and_refuses_what_is_not_there(tmp_path, capsys):
    files = []
    for value in (0.5, 2):
        made = {**record("DreamRec", 1, value / 10, w=value, b=True), "dataset": "toy"}
        (tmp_path / f"{value}.json").write_text(json.dumps(made))
        files.append(str(tmp_path / f"{value}.json"))
    picture = str(tmp_path / "w.svg")
    assert main(["plot", "setting", *files, "--setting", "w", "--metrics", "ndcg@10", "itemcoverage@10", "--out", picture]) == 0
    for more, wrong in (
        ([], "needs --setting"),
        (["--setting", "b"], "no setting 'b' that is a number"),
        (["--setting", "w", "--metrics", "mrr@3"], "no test metric 'mrr@3'; known: itemcoverage@10, ndcg@10"),
    ):
        assert main(["plot", "setting", *files, *more, "--out", picture]) == 2
        assert wrong in capsys.readouterr().err
