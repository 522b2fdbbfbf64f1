"""The end of a training that has diverged: one line, and what was found until then is kept."""

from __future__ import annotations

import math
from typing import Any

from recbole_diffusion.settings import NonFiniteLossError


def check_finite(trainer: Any, name: str, value: float, epoch: int, batch: int) -> None:
    """Ends the training before a step is made with a loss that is no number.

    Args:
        trainer: RecBole's, for the model's name and the file of the best epoch.
        name: of the loss.
        value: of the loss.
        epoch: counted from 0, as in RecBole's log.
        batch: counted from 0 within the epoch.

    Raises:
        NonFiniteLossError: NaN or infinite.
    """
    if math.isfinite(value):
        return
    kept = f"; the best epoch so far is in {trainer.saved_model_file}" if trainer.best_valid_result else ""
    raise NonFiniteLossError(f"{trainer.config['model']}: {name} loss is {value} in epoch {epoch}, batch {batch}{kept}")
