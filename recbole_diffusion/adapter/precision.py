"""The precision of float32 products: training has that of the setting ``matmul_precision``, scoring is always exact.

So a checkpoint ranks the same, whatever it was trained with. torch's precision is a state of the process, which also computes
other things: it is restored afterwards.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from recbole.trainer import Trainer

from recbole_diffusion.adapter.patch import replace
from recbole_diffusion.registry import model_of


def install() -> None:
    """Hangs the precision into RecBole's trainers; a second call changes nothing."""
    replace(Trainer, "fit", _training)
    replace(Trainer, "evaluate", _scoring)


@contextmanager
def matmul_precision(config: Any, precision: str = "highest") -> Iterator[None]:
    """Computes products in a precision inside the ``with`` block; leaves models that are not ours alone."""
    if not any(model_of(cls) for cls in config.model_class.__mro__):
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _training(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def fit(self: Any, *args: Any, **kwargs: Any) -> Any:
        with matmul_precision(self.config, self.config["matmul_precision"] or "highest"):
            return original(self, *args, **kwargs)

    return fit


def _scoring(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def evaluate(self: Any, *args: Any, **kwargs: Any) -> Any:
        with matmul_precision(self.config):
            return original(self, *args, **kwargs)

    return evaluate
