"""What a run needs of the machine: folders that it can write to, and the GPU that was asked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from recbole_diffusion.settings import SettingsError


def check_surroundings(config: Any) -> None:
    """Refuses a run whose results would have no place, or that asks for a GPU that is not there.

    Raises:
        SettingsError: names the folder or the GPU.
    """
    _check_folder("checkpoint_dir", config["checkpoint_dir"])
    _check_folder("log folder", "log")  # RecBole's, in the working directory
    _check_gpu(config)


def _check_folder(name: str, folder: str) -> None:
    there = Path(folder)
    try:
        while not there.exists():
            there = there.parent
        writable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    except (OSError, ValueError) as error:  # a name that is too long, or cannot be one
        raise SettingsError(f"{name} = {folder!r}: cannot be a folder: {error}") from error
    if not writable:
        why = "is read-only" if there.is_dir() else "is no folder"
        raise SettingsError(f"{name} = {folder!r}: {str(there)!r} {why}; name a folder that can be written to")


def _check_gpu(config: Any) -> None:
    """RecBole takes the CPU in silence where the GPU is not there. Its defaults ask for one; only the user's word counts."""
    given = config.external_config_dict
    wanted = len(config["gpu_id"].split(",")) if "gpu_id" in given and config["gpu_id"] else int(given.get("use_gpu") is True)
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found < wanted:
        key = "gpu_id" if "gpu_id" in given and config["gpu_id"] else "use_gpu"
        raise SettingsError(
            f"{key} = {config[key]!r}: this machine has no such GPU; leave {key} out, or gpu_id='' takes the CPU"
        )
