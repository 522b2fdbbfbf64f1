"""How many runs are made and how long the others will take."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from recbole_diffusion.benchmark.plan import Plan
from recbole_diffusion.benchmark.spec import Row


class Progress:
    """Counts runs by row; as text ``3 of 8, about 12 min left``.

    Args:
        plan: of the rows.
        rows: that are run.
        jobs: runs at a time.
    """

    def __init__(self, plan: Plan, rows: Sequence[Row], jobs: int) -> None:
        self._asked = {row.name: plan.count(row)[1] for row in rows}
        self._made = dict.fromkeys(self._asked, 0)
        self._seconds = {name: [seconds] for name, seconds in plan.seconds_of_a_run(rows).items()}
        self._jobs, self._lock = jobs, threading.Lock()

    def add(self, row: Row, runs: int = 1) -> None:
        """Counts runs of a row that are there."""
        with self._lock:
            self._made[row.name] += runs

    def learn(self, row: Row, seconds: float) -> None:
        """Takes note of what a run has taken."""
        with self._lock:
            self._seconds.setdefault(row.name, []).append(seconds)

    def __str__(self) -> str:
        with self._lock:
            missing = {name: max(self._asked[name] - made, 0) for name, made in self._made.items()}
            means = {name: sum(seconds) / len(seconds) for name, seconds in self._seconds.items()}
            done, asked = sum(self._made.values()), sum(self._asked.values())
        left = f", {time_left(missing, means, self._jobs)}" if any(missing.values()) else ""
        return f"{done} of {asked}{left}"


def time_left(missing: Mapping[str, int], means: Mapping[str, float], jobs: int) -> str:
    """How long runs will take, in words.

    Args:
        missing: number of runs by row.
        means: seconds of a run by row; rows may be missing, and then it is longer than said.
        jobs: runs at a time.
    """
    seconds = sum(runs * means.get(name, 0.0) for name, runs in missing.items()) / jobs
    unknown = any(runs and name not in means for name, runs in missing.items())
    minutes = round(seconds / 60)
    if unknown and not minutes:
        return "time left unknown"
    words = f"{minutes // 60} h {minutes % 60} min" if minutes >= 90 else f"{minutes} min" if minutes else "less than 1 min"
    return f"{'more than' if unknown else 'about'} {words} left".replace("about less", "less")
