"""A trained model and its data, for commands: quiet, and every fault of the file in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from recbole_diffusion.adapter.checkpoint import config_from, load_checkpoint, load_data_and_model
from recbole_diffusion.adapter.config import check_dataset
from recbole_diffusion.settings import SettingsError


def load_trained(
    file: str, trust_pickle: bool = False, check: Callable[[Any], None] = lambda config: None
) -> tuple[Any, Any, Any, Any, Any, Any]:
    """What :func:`recbole_diffusion.adapter.checkpoint.load_data_and_model` returns, without its log.

    Args:
        file: a checkpoint.
        trust_pickle: also read RecBole's pickles, which can run any code.
        check: called with the ``Config`` before the data are read.

    Raises:
        SettingsError: one line that names the file.
    """
    try:
        config = config_from(load_checkpoint(file, "cpu", trust_pickle))
        check(config)
        check_dataset(config)
        return load_data_and_model(file, trust_pickle, {"state": "WARNING", "show_progress": False})
    except (OSError, ValueError, RuntimeError) as error:
        text = " ".join(str(error).split())
        if "trust_pickle=True" in text:
            text = f"checkpoint {file!r} is a pickle, which can run any code: if you trust its writer, add --trust-pickle"
        raise SettingsError(text if file in text else f"checkpoint {file!r}: {text[:300]}") from error
