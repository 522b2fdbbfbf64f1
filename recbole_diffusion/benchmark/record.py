"""The JSON record of a run: everything that is needed to run it again, and what came of it."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import torch

from recbole_diffusion.adapter.checkpoint import settings_of
from recbole_diffusion.adapter.known_keys import PLUGIN_KEYS
from recbole_diffusion.adapter.protocols import protocol_name, protocol_overrides
from recbole_diffusion.settings import SettingsError
from recbole_diffusion.version import __version__

if TYPE_CHECKING:
    from recbole_diffusion.benchmark.evaluation import Tested

# Settings that say where a run writes or what it prints, not what it computes.
_BESIDE_THE_POINT = {
    "checkpoint_dir", "data_path", "show_progress", "state", "log_wandb", "wandb_project", "worker", "gpu_id",
    "save_dataset", "dataset_save_path", "save_dataloaders", "dataloaders_save_path", "strict_config", "verbose",
}  # fmt: skip

# The plugin's own keys that the first records have. A later one is part of the hash only where it is not at its default, so
# that the records from before keep their names.
_FIRST_KEYS = {"strict_config", "protocol", "empty_histories", "test_input", "matmul_precision", "torch_compile"}
_LATER_KEYS = {key: default for key, default in PLUGIN_KEYS.items() if key not in _FIRST_KEYS}
# A setting of DreamRec that is younger than its records. ADRec and IRGAN have it too: at 0 they go without it, as no others do.
_LATER_KEYS["pretrain_epochs"] = 0

_LIBRARIES = ("recbole", "torch", "numpy", "pandas", "scipy")


@dataclasses.dataclass
class Run:
    """A finished run, as the record needs it."""

    config: Any
    model: torch.nn.Module
    parts: dict[str, Any]
    curve: list[dict[str, Any]]
    checkpoint: str
    valid: dict[str, float]
    refit: dict[str, Any] | None  # epochs and curve of the training anew
    tested: Tested
    command: list[str]
    log: str | None = None  # file


def make_record(run: Run) -> dict[str, Any]:
    """The record of a run, as plain data.

    Returns:
        ``model, dataset, protocol, protocol_overrides, seed, settings, settings_hash`` (what was asked for), ``masked``
        (whether items that the user had had were not ranked), ``input`` (what the model saw of a user at test time),
        ``refit`` (None, or the epochs and the curve of the training anew, whose model was tested), ``valid, test``
        (metrics under RecBole's names, of the epoch that validation chose), ``beyond_accuracy`` (of the test's lists: see
        :class:`.evaluation.Tested`), ``test_by_masking`` and ``test_also`` where they were asked for, ``epochs, best_epoch,
        curve`` (mean training loss per batch and validation score per epoch), ``epoch_s, eval_s`` (seconds; medians over
        epochs, and of the test evaluation), ``scoring_ms`` (milliseconds for the scores of one test row), ``network_calls``
        (passes through the network for one row's scores; None: the model does not say), ``parameters, peak_memory_mib`` (of
        the process), ``data`` (counts, fingerprint), ``command, checkpoint, log, revision, dirty, versions, device, processes,
        threads, finished`` (where it came from), and the model's own ``diagnostics()`` if it has any.
    """
    config = run.config
    scored = [entry for entry in run.curve if "valid_score" in entry]
    revision, dirty = _git_state()
    settings = settings_of(config)
    record = {
        "model": config["model"],
        "dataset": config["dataset"],
        "protocol": protocol_name(config),
        "protocol_overrides": protocol_overrides(config),
        "seed": config["seed"],
        "settings_hash": settings_hash(config),
        "settings": settings,
        "masked": masks_seen(settings),
        "refit": run.refit,
        "input": model_input(settings),
        "valid": _floats(run.valid),
        "test": _floats(run.tested.metrics),
        "beyond_accuracy": _floats(run.tested.beyond_accuracy),
        "epochs": len(run.curve),
        "best_epoch": best_epoch(run.curve, config["valid_metric_bigger"]),
        "epoch_s": _median(entry["train_s"] for entry in run.curve),
        "eval_s": {"valid": _median(entry["eval_s"] for entry in scored), "test": run.tested.seconds},
        "scoring_ms": run.tested.scoring_ms,
        "network_calls": getattr(run.model, "network_calls", None),
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "peak_memory_mib": _peak_memory_mib(config["device"]),
        "data": _describe_data(run.parts),
        "curve": run.curve,
        "command": run.command,
        "checkpoint": run.checkpoint,
        "log": run.log,
        "revision": revision,
        "dirty": dirty,
        "versions": {"recbole_diffusion": __version__, "python": platform.python_version()}
        | {name: _version(name) for name in _LIBRARIES},
        "device": torch.cuda.get_device_name() if config["device"].type == "cuda" else platform.processor() or "cpu",
        "processes": config["nproc"],
        "threads": torch.get_num_threads(),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    if run.tested.by_masking:
        record["test_by_masking"] = {name: _floats(metrics) for name, metrics in run.tested.by_masking.items()}
    if run.tested.also:
        record["test_also"] = run.tested.also
    if hasattr(run.model, "diagnostics"):
        record["diagnostics"] = run.model.diagnostics()
    return without_folder(record, Path.cwd())


def _floats(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


def best_epoch(curve: list[dict[str, Any]], bigger: bool) -> int | None:
    """The epoch, from 0, that validation chose and RecBole kept; None if none was evaluated."""
    scored = [entry for entry in curve if "valid_score" in entry]
    best = max if bigger else min
    # RecBole counts a tie as an improvement, so the last of equal epochs is the one that was kept.
    return best(reversed(scored), key=lambda entry: entry["valid_score"])["epoch"] if scored else None


def without_folder(value: Any, folder: Path) -> Any:
    """Plain data with every path below ``folder`` relative to it, so that a record can be shown to others."""
    if isinstance(value, str):
        return value.replace(f"{folder}{os.sep}", "")
    if isinstance(value, dict):
        return {key: without_folder(item, folder) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_folder(item, folder) for item in value]
    return value


def check_record_file(file: str | Path) -> None:
    """Refuses a file that a record cannot be written to; leaves nothing behind.

    Raises:
        SettingsError: a folder, a device, in no folder, or in one that cannot be written to.
    """
    path = Path(file)
    try:
        if path.exists() and not path.is_file():
            raise SettingsError(f"record = {str(file)!r}: must be a file, is a folder or a device")
        if not path.parent.is_dir():
            raise SettingsError(f"record = {str(file)!r}: no folder {str(path.parent)!r}; make it first")
        if path.name in ("", ".", "..") or str(file).endswith(("/", os.sep)):
            raise SettingsError(f"record = {str(file)!r}: must name a file")
        partial = _partial(path)
        partial.touch()
        partial.unlink()
    except (OSError, ValueError) as error:
        if isinstance(error, SettingsError):
            raise
        why = getattr(error, "strerror", None) or str(error)
        raise SettingsError(f"record = {str(file)!r}: cannot be written: {why}") from error


def write_record(record: dict[str, Any], file: Path) -> None:
    """Writes a record whole or not at all.

    Raises:
        SettingsError: the file is something else than a file: a device would be replaced by one.
    """
    if file.exists() and not file.is_file():
        raise SettingsError(f"record = {str(file)!r}: must be a file, is a folder or a device")
    partial = _partial(file)
    try:
        partial.write_text(json.dumps(compact(record), separators=(",", ":"), default=str) + "\n", encoding="utf-8")
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def read_records(folder: Path) -> list[dict[str, Any]]:
    """All records of a folder, in the order of their names."""
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]


def compact(record: dict[str, Any]) -> dict[str, Any]:
    """The record with six significant digits in its curves, which have most of its numbers; nothing else changes."""
    result = dict(record)
    if "curve" in record:
        result["curve"] = _rounded(record["curve"])
    if record.get("refit"):
        result["refit"] = record["refit"] | {"curve": _rounded(record["refit"]["curve"])}
    return result


def _rounded(value: Any) -> Any:
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def _partial(file: Path) -> Path:
    return file.with_name(f"{file.name}.{os.getpid()}.partial")


def settings_hash(config: Any) -> str:
    """Ten hexadecimal digits that name the settings of a run, whatever the machine and the folder."""
    settings = what_counts(settings_of(config))
    settings |= {"model": config["model"], "dataset": config["dataset"]}
    if config["nproc"] > 1:  # other batches and other draws than one process has
        settings["nproc"] = config["nproc"]
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:10]


def what_counts(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that the result depends on: not those that say where a run writes or what it prints.

    A setting that is younger than the first records, at its default, is left out as well: a run keeps its name.
    """
    counted = {key: value for key, value in settings.items() if key not in _BESIDE_THE_POINT}
    return {key: value for key, value in counted.items() if key not in _LATER_KEYS or value != _LATER_KEYS[key]}


def masks_seen(settings: dict[str, Any]) -> bool | None:
    """Whether the items that a user has had are not ranked; None where only sampled candidates are.

    Args:
        settings: of a record, of any age.
    """
    if settings["eval_args"]["mode"]["test"] != "full":
        return None
    # RecBole demands repeatable = True of sequential models; for others it would mask nothing.
    mask = settings.get("mask_seen")
    return not settings["repeatable"] if mask is None else mask


def model_input(settings: dict[str, Any]) -> str:
    """What a model sees of a user at test time, in words; ``settings`` as for :func:`masks_seen`."""
    if settings["repeatable"]:
        return "history"
    more = settings.get("test_input") == "train+valid" or settings.get("refit")
    return "training and validation items" if more else "training items"


def describe_evaluation(settings: dict[str, Any]) -> str:
    """What is masked, whether the model was trained anew, what it sees, in words; ``settings`` as for :func:`masks_seen`."""
    masked = {True: "seen items masked", False: "nothing masked", None: "among sampled items"}[masks_seen(settings)]
    refitted = "refitted on training and validation parts" if settings.get("refit") else "not refitted"
    return f"{masked}, {refitted}, sees the {model_input(settings)}"


def result_table(record: dict[str, Any]) -> str:
    """The validation and test metrics of a record as a small text table."""
    width = max((len(name) for name in record["test"]), default=6)
    lines = [f"{'metric':<{width}}  {'valid':>8}  {'test':>8}"]
    lines += [
        f"{name:<{width}}  {record['valid'].get(name, float('nan')):8.4f}  {value:8.4f}"
        for name, value in record["test"].items()
    ]
    return "\n".join(lines)


def _describe_data(parts: dict[str, Any]) -> dict[str, Any]:
    """Counts of each part and a fingerprint of all (user, item) pairs in order, after RecBole's filtering and splitting."""
    digest = hashlib.sha256()
    counts: dict[str, Any] = {}
    for name, part in parts.items():
        pairs = np.stack([part.inter_feat[part.uid_field].numpy(), part.inter_feat[part.iid_field].numpy()])
        digest.update(np.ascontiguousarray(pairs, dtype=np.int64).tobytes())
        counts[name] = int(pairs.shape[1])
    train = parts["train"]
    return {
        "users": int(train.user_num - 1),
        "items": int(train.item_num - 1),
        "rows": counts,
        "fingerprint": digest.hexdigest()[:16],
    }


def _median(values: Any) -> float | None:
    collected = sorted(values)
    return float(np.median(collected)) if collected else None


def _peak_memory_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource  # Windows has none
    except ImportError:
        return psutil.Process().memory_info().peak_wset / 2**20
    # Linux counts kibibytes, macOS bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_state() -> tuple[str | None, bool | None]:
    """Revision of the source tree that this code runs from, and whether it has changes; None for an installed package."""

    def git(*arguments: str) -> str:
        folder = Path(__file__).resolve().parent
        return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True).stdout

    try:
        if not git("ls-files", "--", __file__).strip():
            return None, None
        return git("rev-parse", "HEAD").strip(), bool(git("status", "--porcelain").strip())
    except (OSError, subprocess.CalledProcessError):
        return None, None
