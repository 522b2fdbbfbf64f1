"""The record of a comparison, and the table made from it."""

from __future__ import annotations

import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from recbole_diffusion.benchmark.record import _git_state, _version
from recbole_diffusion.speed.sizes import Size, Task
from recbole_diffusion.version import __version__

_COLUMNS = ("part", "batch", "variant", "seconds", "times ours", "GFLOP", "GFLOP/s", "GiB/s", "peak MiB")


def make_record(name: str, size: Size, task: Task, measured: dict[str, Any], command: list[str]) -> dict[str, Any]:
    """The record, as plain data: what was measured, at which size and settings, on what, and by which version."""
    revision, dirty = _git_state()
    return {
        "size": name,
        "model": size.model,
        "settings": dict(size.settings),
        **measured,
        "repeats": task.repeats,
        "device": torch.cuda.get_device_name() if task.device == "cuda" else _processor(),
        "device_type": task.device,
        "threads": torch.get_num_threads(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "versions": {"recbole_diffusion": __version__, "python": platform.python_version()}
        | {name: _version(name) for name in ("recbole", "torch", "numpy")},
        "revision": revision,
        "dirty": dirty,
        "command": command,
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def text(record: dict[str, Any]) -> str:
    """The record as a text table."""
    cells = [_COLUMNS, *(_cells(row) for row in record["rows"])]
    widths = [max(len(row[i]) for row in cells) for i in range(len(_COLUMNS))]
    left = (0, 2)
    lines = [
        "  ".join(c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    ]
    return "\n".join([headline(record), "", *lines, "", *_agreement(record)]).rstrip()


def markdown(record: dict[str, Any]) -> str:
    """The record as a Markdown section."""
    lines = [
        f"### {record['model']}, {record['size']}, {record['device_type']}",
        "",
        headline(record),
        "",
        f"| {' | '.join(_COLUMNS)} |",
        "|---|--:|---|--:|--:|--:|--:|--:|--:|",
        *(f"| {' | '.join(_cells(row))} |" for row in record["rows"]),
        "",
        *(f"- {line}" for line in _agreement(record)),
        f"- `{' '.join(record['command'])}`",
    ]
    return "\n".join(lines) + "\n"


def headline(record: dict[str, Any]) -> str:
    """One line: model, data and machine."""
    data = ", ".join(f"{value:,} {name}" for name, value in record["data"].items())
    version = record["versions"]["torch"]
    return (
        f"{record['model']} at the size of {record['size']}: {data}; {record['device']}, {record['threads']} threads, "
        f"torch {version}, medians of {record['repeats']}, {record['finished'][:10]}"
    )


def _cells(row: dict[str, Any]) -> list[str]:
    s = row["seconds"]
    work = ["", "", ""]
    if row["flop"] is not None:
        work = [_three_digits(row["flop"] / 1e9), f"{row['flop'] / 1e9 / s:,.0f}", f"{row['bytes'] / 2**30 / s:,.1f}"]
    peak = "" if row["peak_mib"] is None else f"{row['peak_mib']:,.1f}"
    return [row["part"], f"{row['batch']:,}", row["variant"], _three_digits(s), _ratio(row["ratio"]), *work, peak]


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ratio(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}"


def _agreement(record: dict[str, Any]) -> list[str]:
    lines = []
    for row in record["agreement"]:
        verdict = "allowed" if row["value"] <= row["allowed"] else "TOO LARGE, allowed"
        lines.append(f"{row['what']}: {row['value']:.3g} ({verdict}: {row['allowed']:g})")
    return lines


def _processor() -> str:
    """The CPU's name: Linux tells Python the architecture only."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
