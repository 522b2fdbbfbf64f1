"""``recbole-diffusion speed``: times our samplers and training against their peers."""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recbole_diffusion.registry import closest
from recbole_diffusion.settings import SettingsError
from recbole_diffusion.speed.sizes import PARTS, SIZES, Size, Task

_EXAMPLES = """\
examples:
  recbole-diffusion speed dreamrec
  recbole-diffusion speed diffrec --size ml-1m --repeats 9 --json results/speed/ml-1m-cpu.json
  recbole-diffusion speed diffrec --size amazon-book --parts scoring --threads 2
  recbole-diffusion speed dreamrec --size zhihu --device cuda
  recbole-diffusion speed sequential --size ml-100k --threads 1
  recbole-diffusion speed sequential --size beauty --parts scoring --repeats 3

Everything runs in one process, in turns; the table gives medians. docs/performance.md explains its rows.
"""


def add(commands: Any) -> None:
    """Adds the command to the parsers of ``recbole-diffusion``."""
    parser = commands.add_parser(
        "speed",
        help="time our samplers and training against plain loops and RecBole's own",
        description="Times scoring and a training epoch on generated data of a published data set's size:\n"
        "of DreamRec, of DiffRec, or of SASRec, GRU4Rec and DreamRec trained at all positions of a sequence (sequential).",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    # Values are checked in _task: argparse's own errors take several lines.
    sizes = "; ".join(f"{model}: {', '.join(of_model)}" for model, of_model in SIZES.items())
    parser.add_argument("model", metavar="MODEL", help=" or ".join(SIZES))
    parser.add_argument("--size", help=f"the data set whose size to take ({sizes}; default: the first)")
    parser.add_argument("--users", help="generated users (default: by size)")
    parser.add_argument("--repeats", default="5", help="turns of each variant (default: %(default)s)")
    parser.add_argument("--parts", default=",".join(PARTS), help="scoring, training, or both (default: both)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--threads", help="CPU threads of torch (default: torch's own choice)")
    parser.add_argument("--json", metavar="FILE", help="write the measurements and where they were taken")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace, rest: list[str], arguments: list[str]) -> None:
    """Runs the command; see ``recbole-diffusion speed --help``.

    Raises:
        SettingsError: a value that cannot be used; nothing has been timed or written then.
    """
    from recbole_diffusion.benchmark.record import write_record
    from recbole_diffusion.speed import diffrec, dreamrec, sequential
    from recbole_diffusion.speed.data import write
    from recbole_diffusion.speed.measure import progress
    from recbole_diffusion.speed.report import make_record, text

    measure = {"dreamrec": dreamrec.measure, "diffrec": diffrec.measure, "sequential": sequential.measure}
    name, size, task = _task(options)
    threads = _positive("--threads", options.threads) if options.threads else None
    target = Path(options.json).resolve() if options.json else None
    if target is not None:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"--json {options.json}: {error.strerror}") from error
    started = time.perf_counter()
    with _threads(threads), tempfile.TemporaryDirectory() as folder, _inside(Path(folder)):
        progress(f"generating data of the size of {name}: {task.users} users")
        reads = write(Path(folder), size, task.users)
        saved = {"checkpoint_dir": str(Path(folder) / "saved")}
        task = dataclasses.replace(task, settings={**reads, **size.settings, **saved})
        measured = measure[options.model](task)
        record = make_record(name, size, task, measured, ["recbole-diffusion", *arguments])
    progress(f"done in {time.perf_counter() - started:.0f} s")
    print(text(record))
    if target is not None:
        write_record(record, target)


def _task(options: argparse.Namespace) -> tuple[str, Size, Task]:
    import torch

    if options.model not in SIZES:
        raise SettingsError(f"unknown model {options.model!r}{closest(options.model, SIZES)}; known: {', '.join(SIZES)}")
    sizes = SIZES[options.model]
    name = options.size or next(iter(sizes))
    if name not in sizes:
        raise SettingsError(f"--size {name!r} is no size of {options.model}{closest(name, sizes)}; known: {', '.join(sizes)}")
    parts = options.parts.split(",")
    if not set(parts) <= set(PARTS):
        raise SettingsError(f"--parts {options.parts!r}: must be of {', '.join(PARTS)}, separated by commas")
    if options.device not in ("cpu", "cuda"):
        raise SettingsError(f"--device {options.device!r}: must be cpu or cuda")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("--device cuda: torch sees no CUDA device here")
    users = _positive("--users", options.users) if options.users else sizes[name].users
    return name, sizes[name], Task({}, users, options.device, _positive("--repeats", options.repeats), parts)


def _positive(option: str, value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise SettingsError(f"{option} {value!r}: must be an integer >= 1")
    return int(value)


@contextmanager
def _threads(n: int | None) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """RecBole's trainers write a TensorBoard log into the working directory."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
