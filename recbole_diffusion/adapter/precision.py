"""Sets torch's precision of float32 products while one of our models is trained or evaluated, and restores it afterwards.

The precision is a state of the process, which also computes other things.
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
    """Hangs the setting ``matmul_precision`` into RecBole's trainers; a second call changes nothing."""
    for name in ("fit", "evaluate"):
        replace(Trainer, name, _with_precision)


@contextmanager
def matmul_precision(config: Any) -> Iterator[None]:
    """Computes as the setting says inside the ``with`` block; leaves models that are not ours alone."""
    if not any(model_of(cls) for cls in config.model_class.__mro__):
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(config["matmul_precision"] or "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _with_precision(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def precise(self: Any, *args: Any, **kwargs: Any) -> Any:
        with matmul_precision(self.config):
            return original(self, *args, **kwargs)

    return precise
