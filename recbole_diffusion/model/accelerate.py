"""Optional ways to make training faster, for both kinds of models."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from recbole_diffusion.settings import SettingsError

PRECISIONS = ("highest", "high", "medium")


def aligned_rows(n: int, width: int, device: torch.device) -> torch.Tensor:
    """Memory for ``[n, width]`` float32 whose rows start at multiples of 64 bytes from the first.

    A BLAS writes a product into such rows up to 1.5 times as fast. The tensor is a view: its rows are not adjacent.
    """
    return torch.empty(n, -(-width // 16) * 16, device=device)[:, :width]


def accelerate(config: Any, *modules: nn.Module) -> None:
    """Checks the setting ``matmul_precision``, which the trainers apply (adapter/precision.py); applies ``torch_compile``.

    Args:
        config: RecBole ``Config``. ``matmul_precision`` is torch's for float32 products in training: below ``highest``, TF32
            or bfloat16 on a GPU, at ``medium`` bfloat16 on a CPU that has it. ``torch_compile`` compiles the forward pass of
            ``modules`` on first use, which needs a C++ compiler on a CPU. RecBole's own ``enable_amp`` is independent of both.
        *modules: what to compile. Parameters keep their names, so checkpoints do not depend on it.

    Raises:
        SettingsError: an unknown precision.
    """
    precision = config["matmul_precision"] or "highest"
    if precision not in PRECISIONS:
        raise SettingsError(f"matmul_precision = {precision!r}: must be one of {', '.join(PRECISIONS)}")
    if config["torch_compile"]:
        for module in modules:
            module.compile(dynamic=True)
