"""Intervals, tests and ranks against tables, hand computation and simulation."""

import doctest
import itertools
import math

import numpy as np
import pytest
from scipy import stats

from recbole_diffusion.benchmark import statistics
from recbole_diffusion.benchmark.statistics import (
    LEVEL,
    Comparison,
    Runs,
    holm,
    letters,
    mean_interval,
    mean_ranks,
    paired_p,
    variance_between_seeds,
)


def runs(values, users="u", split="s"):
    """Runs of seeds 1, 2, ... from ``[seeds, users]``; ``users`` and ``split`` may be lists."""
    seeds = range(1, len(values) + 1)
    users, split = ([name] * len(values) if isinstance(name, str) else name for name in (users, split))
    return Runs(
        dict(zip(seeds, values, strict=True)), dict(zip(seeds, users, strict=True)), dict(zip(seeds, split, strict=True))
    )


def model(rng, quality, seeds=3, users=1500, luck=0.0):
    """Hits of users who are easy or hard, easier by ``quality`` for this model, and for each of its seeds by its ``luck``."""
    easy = np.random.default_rng(0).uniform(0.1, 0.5, users)
    return (rng.random((seeds, users)) < easy + quality + luck * rng.standard_normal((seeds, 1))).astype(float)


def test_doctests():
    assert doctest.testmod(statistics).attempted > 0 and doctest.testmod(statistics).failed == 0


def test_the_interval_is_that_of_the_t_table():
    mean, half = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (mean, half) == (3.0, pytest.approx(2.776445 * math.sqrt(2.5) / math.sqrt(5), rel=1e-6))  # t(.975, 4) = 2.776445
    assert mean_interval([0.25]) == (0.25, None)


def test_holm_by_hand():
    """Sorted .005, .01, .03, .04 times 4, 3, 2, 1 is .02, .03, .06, .04; the last may not be below the one before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_the_paired_test_by_hand():
    difference = np.array([1.0, 2.0, 3.0])  # t = 2 / (1 / sqrt(3)) = 3.4641 with 2 degrees of freedom
    t = 2 * math.sqrt(3)
    assert paired_p(difference) == pytest.approx(1 - t / math.sqrt(t * t + 2))  # the closed form of that distribution
    assert paired_p(-difference) == paired_p(difference)
    assert paired_p(np.zeros(5)) == 1.0 and paired_p(np.ones(5)) == 0.0


def test_a_difference_that_is_there_is_found_and_its_sign_does_not_matter():
    rng = np.random.default_rng(1)
    rows = {name: runs(model(rng, quality)) for name, quality in {"best": 0.3, "same": 0.3, "worse": 0.1}.items()}
    comparison = Comparison(rows)
    for baseline, other in (("best", "worse"), ("worse", "best")):
        assert comparison.against(baseline)[other] < 1e-6
    assert comparison.against("best")["same"] > LEVEL
    assert comparison.letters(["best", "same", "worse"]) == {"best": "a", "same": "a", "worse": "b"}


def test_what_seeds_add_by_the_analysis_of_variance():
    """Two ways without replication: the mean squares of seeds and of the rest, whose expectations differ by the seeds' own."""
    values = np.array([[1.0, 2.0, 6.0], [2.0, 5.0, 8.0]])  # seeds' means 3 and 5, users' 1.5, 3.5, 7, of all 4
    of_seeds = 3 * ((3 - 4) ** 2 + (5 - 4) ** 2) / 1
    left = values - np.array([[3.0], [5.0]]) - np.array([1.5, 3.5, 7.0]) + 4
    of_rest = (left**2).sum() / 2
    assert variance_between_seeds(values) == (pytest.approx((of_seeds - of_rest) / 3 / 2), 1)
    assert variance_between_seeds(np.array([[0.0, 1.0], [1.0, 0.0]])) == (0.0, 1)  # no seed is better


def test_with_seeds_alone_it_is_welch_s_test():
    """All users alike: what is left is the test between the means of seeds."""
    a, b = np.array([0.1, 0.3, 0.2, 0.4]), np.array([0.5, 0.6, 0.9])
    rows = {"a": runs(np.tile(a[:, None], 50)), "b": runs(np.tile(b[:, None], 50))}
    expected = stats.ttest_ind(a, b, equal_var=False).pvalue
    assert Comparison(rows).p_value("a", "b") == pytest.approx(expected) and 0.001 < expected < 0.1


@pytest.mark.parametrize("luck", [0.0, 0.01])
def test_equal_models_are_told_apart_no_more_often_than_the_level_says(luck):
    """Whether their seeds are alike or not: the same model, other seeds."""
    n = 400
    rng = np.random.default_rng(2)
    boards = [{name: runs(model(rng, 0.2, luck=luck)) for name in "ab"} for _ in range(n)]
    found = sum(Comparison(board).against("a")["b"] < LEVEL for board in boards)
    assert 0.2 * LEVEL * n < found <= stats.binom.interval(0.999, n, LEVEL)[1]
    of_users = sum(paired_p(Comparison(board).difference("a", "b")) < LEVEL for board in boards)
    assert luck == 0 or of_users > 2 * LEVEL * n  # a test over users alone takes a lucky seed for a better model


def test_among_many_equal_rows_a_false_letter_is_as_rare():
    n, names = 100, list("vwxyz")
    rng = np.random.default_rng(3)
    boards = [Comparison({name: runs(model(rng, 0.2, users=300)) for name in names}).letters(names) for _ in range(n)]
    assert sum(set(board.values()) != {"a"} for board in boards) <= stats.binom.interval(0.999, n, LEVEL)[1]


def test_rows_that_were_tested_on_other_users_are_not_compared():
    values = np.zeros((2, 4))
    with pytest.raises(ValueError, match="were tested on different users"):
        Comparison({"a": runs(values, "u"), "b": runs(values, "v")}).against("a")


def test_where_each_seed_has_its_own_split_only_common_seeds_count():
    """Split 2 is easier for both: a row that ran on it alone would seem better."""
    a = runs(np.array([[0.0, 1.0], [1.0, 1.0]]), split=["one", "two"])
    b = runs(np.array([[0.5, 0.0]]), split=["one"])
    assert Comparison({"a": a, "b": b}).difference("a", "b").tolist() == [-0.5, 1.0]
    c = Runs({3: np.zeros(2)}, {3: "u"}, {3: "three"})
    with pytest.raises(ValueError, match="no seed in common"):
        Comparison({"a": a, "c": c}).difference("a", "c")
    of_one_split = {"a": runs(np.array([[0.0, 1.0], [1.0, 1.0]])), "b": runs(np.array([[0.5, 0.0]]))}
    assert Comparison(of_one_split).difference("a", "b").tolist() == [0.0, 1.0]


@pytest.mark.parametrize("seed", range(20))
def test_letters_are_shared_exactly_by_rows_that_do_not_differ(seed):
    rng, names = np.random.default_rng(seed), list("pqrstuv")
    different = {pair for pair in itertools.combinations(names, 2) if rng.random() < 0.5}
    found = letters(names, different)
    for pair in itertools.combinations(names, 2):
        assert bool(set(found[pair[0]]) & set(found[pair[1]])) == (pair not in different)
    assert found[names[0]].startswith("a")


@pytest.mark.parametrize(("k", "q"), [(2, 1.960), (3, 2.343), (5, 2.728), (10, 3.164)])
def test_the_critical_difference_is_that_of_demsars_table(k, q):
    boards = [{str(i): float(i) for i in range(k)}] * 4
    assert mean_ranks(boards).critical_difference == pytest.approx(q * math.sqrt(k * (k + 1) / 24), rel=5e-4)


def test_mean_ranks_by_hand():
    ranks = mean_ranks([{"a": 0.9, "b": 0.5, "c": 0.1}, {"a": 0.5, "b": 0.5, "c": 0.1}, {"a": 0.9, "b": 0.5, "c": 0.1}])
    assert ranks.means == pytest.approx({"a": 3.5 / 3, "b": 5.5 / 3, "c": 3.0})
    # Friedman's statistic with ties: (k - 1) (sum R_j^2 - n C) / (sum r_ij^2 - C), C = n k (k + 1)^2 / 4 (Conover 1999, 5.8)
    statistic = 2 * (3.5**2 + 5.5**2 + 9**2 - 3 * 36) / (14 + 13.5 + 14 - 36)
    assert ranks.friedman_p == pytest.approx(math.exp(-statistic / 2))  # chi-square with 2 degrees of freedom
    assert mean_ranks([{"a": 1.0, "b": 0.0}] * 2).friedman_p is None
