"""A run as a process that does not outlive whoever started it.

The two hold the ends of a pipe, the run's standard input. Its first line says what to do; when the pipe closes, because the
starter has ended or was killed, the run ends at once. A lock, held until then, keeps a new run out of the same checkpoints.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock


def start(arguments: Sequence[str], orders: dict[str, Any], log: Path, environment: Mapping[str, str], folder: Path) -> int:
    """Starts ``recbole-diffusion run`` and waits for its end.

    Args:
        arguments: of the command.
        orders: what :func:`attended` gives to the run; ``lock`` is the file that it locks.
        log: file for what it prints.
        environment: variables that it has beside ours.
        folder: where it runs.

    Returns:
        Its exit status.
    """
    command = [sys.executable, "-m", "recbole_diffusion.cli", "run", *arguments, "--attended"]
    with (
        open(log, "w", encoding="utf-8") as output,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, bufsize=0,
            env=os.environ | environment, cwd=folder,
        ) as process,
    ):  # fmt: skip
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended already; its status says why
            process.stdin.write(json.dumps(orders).encode() + b"\n")
        return process.wait()


@contextlib.contextmanager
def attended() -> Iterator[dict[str, Any]]:
    """What the started process runs in: yields the orders, with the lock held."""
    orders = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_the_starter, daemon=True).start()
    with FileLock(orders["lock"]):
        yield orders


def _end_with_the_starter() -> None:
    # Not sys.stdin.read(): a thread inside it makes Python's own end fail.
    while os.read(0, 1):
        pass
    os._exit(1)
