"""Makes runs on workers: processes of this machine, or Ray's. Imports neither torch nor RecBole: a worker starts at once."""

from __future__ import annotations

import dataclasses
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from recbole_diffusion.benchmark import attended
from recbole_diffusion.settings import SettingsError

STOPPED = 3  # exit status of a trial that was stopped early


@dataclasses.dataclass(frozen=True)
class Task:
    """A run to make.

    Attributes:
        name, role: for messages and for the page: ``trial`` or ``seed``.
        arguments: of ``recbole-diffusion run``, which writes the record to ``partial``.
        orders: for the run, see :mod:`attended`.
        folder: where it runs; all relative paths start there.
        record, partial: files: the record, and where it is until the run has ended.
        stopped: file that a trial leaves which was stopped early.
        log, lock: files: the run's output, and the lock of whoever makes the run.
        threads: of the run; None leaves it to the environment.
    """

    name: str
    role: str
    arguments: tuple[str, ...]
    orders: dict[str, Any]
    folder: Path
    record: Path
    partial: Path
    stopped: Path
    log: Path
    lock: Path
    threads: int | None


def make(task: Task) -> int | None:
    """Makes a run, unless its record is there.

    Returns:
        The exit status of the run; None if another process is making the same run.
    """
    record, partial, stopped, log, lock = (
        task.folder / file for file in (task.record, task.partial, task.stopped, task.log, task.lock)
    )
    try:
        with FileLock(lock, timeout=0):
            if record.exists():
                return 0
            if stopped.exists():
                return STOPPED
            if not partial.exists():  # else whoever made it was killed before the next line
                print(f"{task.name}: running, output in {task.log}", flush=True)
                threads = {} if task.threads is None else {"OMP_NUM_THREADS": str(task.threads)}
                status = attended.start(task.arguments, task.orders, log, threads, task.folder)
                if status != 0:
                    return status
            partial.rename(record)
            return 0
    except Timeout:
        return None


class Workers(Protocol):
    """Whoever makes runs: ``jobs`` at a time, each of so many ``threads``."""

    jobs: int
    threads: int | None

    def submit(self, task: Task) -> Future[int | None]:
        """Has :func:`make` called on some worker."""

    def stop(self) -> None:
        """Makes no run that has not begun."""


class LocalWorkers:
    """Some runs at a time on this machine, with its processors shared out."""

    def __init__(self, jobs: int) -> None:
        self.jobs, self.threads = jobs, threads_of(jobs)
        self._pool = ThreadPoolExecutor(jobs)

    def submit(self, task: Task) -> Future[int | None]:
        return self._pool.submit(make, task)

    def stop(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


class RayWorkers:
    """Runs as Ray tasks, as many at a time as Ray has processors for. The machines share their folders.

    Args:
        address: of a cluster, or ``local``: one is started here for ``jobs`` runs at a time.
        jobs: as for :class:`LocalWorkers`; decides how many threads a run has, on whatever machine.

    Raises:
        SettingsError: Ray is not installed, or there is no cluster.
    """

    def __init__(self, address: str, jobs: int) -> None:
        try:
            import ray
        except ImportError as error:
            raise SettingsError("--ray needs Ray: pip install 'recbole_diffusion[ray]'") from error
        self.threads, self._ray = threads_of(jobs), ray
        processors = self.threads or os.cpu_count() or 1
        local = {"num_cpus": jobs * processors, "include_dashboard": False} if address == "local" else {}
        try:
            ray.init(address=address, logging_level="WARNING", **local)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise SettingsError(f"--ray {address!r}: {error}; give 'local' or the address of a cluster that runs") from error
        self.jobs = max(int(ray.cluster_resources()["CPU"]) // processors, 1)
        self._make = ray.remote(num_cpus=processors)(make)

    def submit(self, task: Task) -> Future[int | None]:
        return self._make.remote(task).future()

    def stop(self) -> None:
        self._ray.shutdown()


def threads_of(jobs: int) -> int | None:
    """Threads of each of so many runs: the processors shared out, unless ``OMP_NUM_THREADS`` says it; None: not our say."""
    if jobs == 1 or "OMP_NUM_THREADS" in os.environ:
        given = os.environ.get("OMP_NUM_THREADS", "")
        return int(given) if given.isdecimal() else None
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(processors // jobs, 1)
