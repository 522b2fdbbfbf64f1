"""Times and peak memory of calls that are to be compared."""

from __future__ import annotations

import dataclasses
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

Call = Callable[[], Any]


@dataclasses.dataclass
class Variant:
    """One of several ways to the same result.

    Attributes:
        name: for the table.
        call: what is timed.
        work: operations and bytes of its matrix products, counted from the shapes (see :func:`floor.work`); None: not counted.
        before: what has to happen before each call, outside the time.
        memory: whether its memory says anything.
        scale: what a call's time is multiplied with, where a call does a part of what is meant.
    """

    name: str
    call: Call
    work: tuple[float, float] | None = None
    before: Call | None = None
    memory: bool = True
    scale: float = 1.0

    def seconds(self, device: str, n: int = 1) -> float:
        """Wall-clock seconds of one call, averaged over n in a row, times ``scale``; the device has finished at both ends."""
        if self.before is not None:
            self.before()
        _wait_for(device)
        started = time.perf_counter()
        for _ in range(n):
            self.call()
        _wait_for(device)
        return (time.perf_counter() - started) / n * self.scale


def compare(
    part: str, batch: int, variants: Sequence[Variant], repeats: int, device: str, shortest_s: float = 0.02
) -> list[dict[str, Any]]:
    """Times variants in turns, a b c a b c ..., so that whatever else the machine does meets all of them alike.

    The first call of each is a warm-up; in the second its memory is measured. A short call is repeated within its turn until
    it takes ``shortest_s``.

    Args:
        part: heading of the rows.
        batch: rows per call, for the table.
        variants: the first is the one that the others are divided by.
        repeats: turns.
        device: ``cpu`` or ``cuda``.
        shortest_s: the shortest time that is measured, in seconds.

    Returns:
        A row for each variant: ``part, batch, variant, seconds`` (the median over turns), ``times`` (all of them),
        ``ratio`` (seconds divided by the first variant's), ``peak_mib`` (see :func:`peak_mib`), ``flop`` and ``bytes``.
    """
    peaks: list[float | None] = []
    calls = []
    for variant in variants:
        progress(f"{part}, batch {batch}: {variant.name}")
        first_s = variant.seconds(device)
        if variant.before is not None:
            variant.before()
        peaks.append(peak_mib(variant.call, device) if variant.memory else None)
        # What is prepared before a call would be gone at the next one; and a long call needs no second trial.
        once = variant.before is not None or first_s > 100 * shortest_s
        calls.append(1 if once else math.ceil(shortest_s / variant.seconds(device)))
    times: list[list[float]] = [[] for _ in variants]
    for turn in range(repeats):
        progress(f"{part}, batch {batch}: turn {turn + 1} of {repeats}")
        for variant, n, collected in zip(variants, calls, times, strict=True):
            collected.append(variant.seconds(device, n))
    medians = [statistics.median(collected) for collected in times]
    rows = []
    for variant, median, peak, collected in zip(variants, medians, peaks, times, strict=True):
        flop, moved = variant.work or (None, None)
        measured = {"seconds": median, "ratio": median / medians[0], "peak_mib": peak, "times": collected}
        rows.append({"part": part, "batch": batch, "variant": variant.name, **measured, "flop": flop, "bytes": moved})
    return rows


def peak_mib(call: Call, device: str) -> float:
    """What torch has allocated at the worst moment of a call, over what it held before, in MiB.

    On either device it is torch's own account: weights and data that exist before the call do not count; gradients,
    optimiser state, intermediate and returned tensors do; scratch space inside a BLAS does not. On the CPU it is summed up
    from the profiler's record of every allocation.
    """
    if device == "cuda":
        _wait_for(device)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        _wait_for(device)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it writes two lines to standard error
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        result = call()
    del result
    held = peak = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak / 2**20


def progress(line: str) -> None:
    """One line about what is going on, on standard error."""
    print(line, file=sys.stderr, flush=True)


def _wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
