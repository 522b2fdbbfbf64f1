"""Intervals over seeds, paired tests over users and seeds, and ranks over boards. Plain numbers in, plain numbers out."""

from __future__ import annotations

import dataclasses
import itertools
import math
import string
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy import stats

LEVEL = 0.05
"""Error level of all tests and intervals."""


def mean_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and half the width of its t-interval at ``1 - LEVEL``; None for a single value."""
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return mean, None
    return mean, float(stats.t.ppf(1 - LEVEL / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))


def paired_p(difference: np.ndarray, *between_seeds: tuple[float, int]) -> float:
    """The two-sided p-value of a t-test: is the mean difference of the users, ``[users]``, zero?

    Paired over users; with ``between_seeds``, users and seeds are both a sample (Clark, J. Verbal Learning and Verbal Behavior
    1973: quasi-F): the variances add up, with the degrees of freedom of Welch and Satterthwaite.

    Args:
        difference: of each user, ``[users]``, mean over seeds.
        between_seeds: what :func:`variance_between_seeds` found for either row, or for their difference.
    """
    parts = [(float(np.var(difference, ddof=1)) / len(difference), len(difference) - 1), *between_seeds]
    variance = sum(part for part, _ in parts)
    mean = float(np.mean(difference))
    if variance == 0:
        return 1.0 if mean == 0 else 0.0
    freedom = variance**2 / sum(part**2 / freedom for part, freedom in parts)
    return float(2 * stats.t.sf(abs(mean) / math.sqrt(variance), freedom))


def variance_between_seeds(values: np.ndarray) -> tuple[float, int]:
    """What seeds add to the variance of the mean of ``[seeds, users]``, and its degrees of freedom.

    The variance of the seeds' means, less what users who meet each seed's luck on their own put there, which the variance over
    users has already (two-way analysis of variance without replication); at least 0. Two seeds or more.
    """
    n_seeds, n_users = values.shape
    of_seed = values.mean(1)
    rest = values - of_seed[:, None] - values.mean(0) + of_seed.mean()
    interaction = np.square(rest).sum() / ((n_seeds - 1) * (n_users - 1)) / n_users
    return max(0.0, float(of_seed.var(ddof=1) - interaction)) / n_seeds, n_seeds - 1


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that bound the probability of any false rejection (Holm, Scandinavian J. Statistics 1979).

    The i-th smallest of m is multiplied by m - i + 1; none may be below the one before it.
    """
    m, adjusted, largest = len(p_values), [0.0] * len(p_values), 0.0
    for place, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (m - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


@dataclasses.dataclass(frozen=True)
class Runs:
    """The values of a row's users.

    Attributes:
        values: ``[users]`` by seed.
        users: by seed, what names the users and their order.
        splits: by seed, what names the split.
    """

    values: Mapping[int, np.ndarray]
    users: Mapping[int, str]
    splits: Mapping[int, str]


class Comparison:
    """Paired tests between the rows of a board.

    The difference of two rows is taken for each user and averaged over seeds. Where the split is another for each seed, only
    seeds that both rows have are used, and differences vary over them; otherwise each row has its own, and varies over them.
    What a row with a single seed would do with another is not known, and not tested.

    Args:
        rows: at least one.
    """

    def __init__(self, rows: Mapping[str, Runs]) -> None:
        self.rows = rows
        self._split_by_seed = any(len(set(runs.splits.values())) > 1 for runs in rows.values())
        alike = {name: np.stack([*runs.values.values()]) for name, runs in rows.items() if _alike(runs)}
        self._means = {name: values.mean(0) for name, values in alike.items()}
        self._seeds = {name: _between(values) for name, values in alike.items()}

    def difference(self, a: str, b: str) -> np.ndarray:
        """``a`` minus ``b`` for each user, ``[users]``, mean over seeds.

        Raises:
            ValueError: their users differ, or they have no seed in common.
        """
        return self._differences(a, b).mean(0)

    def p_value(self, a: str, b: str) -> float:
        """The unadjusted p-value of two rows; :func:`paired_p`.

        Raises:
            ValueError: see :meth:`difference`.
        """
        differences = self._differences(a, b)
        seeds = _between(differences) if self._split_by_seed else [*self._seeds[a], *self._seeds[b]]
        return paired_p(differences.mean(0), *seeds)

    def _differences(self, a: str, b: str) -> np.ndarray:
        """``[seeds, users]``; with one split for all seeds a single row, of the rows' means."""
        first, second = self.rows[a], self.rows[b]
        seeds = [seed for seed in first.values if seed in second.values] if self._split_by_seed else [*first.values]
        if not seeds:
            raise ValueError(f"{a} and {b} have no seed in common, and every seed has a split of its own")
        others = seeds if self._split_by_seed else [*second.values]
        if len({*(first.users[seed] for seed in seeds), *(second.users[seed] for seed in others)}) > 1:
            raise ValueError(f"{a} and {b} were tested on different users")
        if not self._split_by_seed:
            return (self._means[a] - self._means[b])[None]
        return np.stack([first.values[seed] - second.values[seed] for seed in seeds])

    def against(self, baseline: str) -> dict[str, float]:
        """Holm-adjusted p-value of every other row against one.

        Raises:
            ValueError: see :meth:`difference`.
        """
        others = [name for name in self.rows if name != baseline]
        return dict(zip(others, holm([self.p_value(name, baseline) for name in others]), strict=True))

    def letters(self, best_first: Sequence[str]) -> dict[str, str]:
        """Rows that share a letter cannot be told apart: all pairs are tested, Holm-adjusted.

        Args:
            best_first: all rows; the first has the letter ``a``.

        Raises:
            ValueError: see :meth:`difference`.
        """
        pairs = list(itertools.combinations(best_first, 2))
        adjusted = holm([self.p_value(*pair) for pair in pairs])
        return letters(best_first, (pair for pair, p in zip(pairs, adjusted, strict=True) if p < LEVEL))


def _between(values: np.ndarray) -> list[tuple[float, int]]:
    return [variance_between_seeds(values)] if len(values) > 1 else []


def _alike(runs: Runs) -> bool:
    return len({values.shape for values in runs.values.values()}) == 1


def letters(best_first: Sequence[str], different: Iterable[tuple[str, str]]) -> dict[str, str]:
    """A compact letter display: two rows share a letter exactly where they are not known to differ.

    Insert and absorb (Piepho, J. Computational and Graphical Statistics 2004): a group that holds a differing pair is replaced
    by two, each without one of them; a group inside another is dropped.

    >>> letters("xyz", [("x", "z")])
    {'x': 'a', 'y': 'ab', 'z': 'b'}
    """
    groups = [frozenset(best_first)]
    for a, b in different:
        split = [part for group in groups for part in ((group - {a}, group - {b}) if {a, b} <= group else (group,))]
        groups = [group for group in dict.fromkeys(split) if not any(group < other for other in split)]
    groups.sort(key=lambda group: [best_first.index(name) for name in best_first if name in group])
    return {name: "".join(string.ascii_letters[i] for i, group in enumerate(groups) if name in group) for name in best_first}


@dataclasses.dataclass(frozen=True)
class Ranks:
    """Ranks of k rows over N boards (Demsar, JMLR 2006).

    Attributes:
        means: mean rank by row; 1 is the best.
        friedman_p: of the hypothesis that all rows are alike; None for fewer than three.
        critical_difference: of mean ranks, below which Nemenyi's test cannot tell two rows apart.
    """

    means: dict[str, float]
    friedman_p: float | None
    critical_difference: float


def mean_ranks(boards: Sequence[Mapping[str, float]]) -> Ranks:
    """Mean ranks over boards, ties at their mean.

    Args:
        boards: a score for each row, bigger is better; the same rows on each.
    """
    names = list(boards[0])
    k, n = len(names), len(boards)
    ranks = stats.rankdata([[-board[name] for name in names] for board in boards], axis=1)
    q = stats.studentized_range.ppf(1 - LEVEL, k, np.inf) / math.sqrt(2)
    friedman = float(stats.friedmanchisquare(*ranks.T).pvalue) if k > 2 else None
    means = dict(zip(names, ranks.mean(axis=0).tolist(), strict=True))
    return Ranks(means, friedman, float(q * math.sqrt(k * (k + 1) / (6 * n))))
