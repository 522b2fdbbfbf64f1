"""Sums that cannot fit in memory, refused with their size.

:func:`within_memory` asks torch's ``meta`` device for the shape of every result before it is computed. That costs some
microseconds an operation, so it watches what is done once: reading settings and data, building the model, its first batch.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from recbole_diffusion.registry import model_of
from recbole_diffusion.settings import SettingsError

_LARGE = 10_000


@contextmanager
def within_memory(config: Any, about: str) -> Iterator[None]:
    """Refuses a tensor that is larger than the free memory, before it is allocated.

    Args:
        config: a RecBole ``Config``; its large settings are named in the error.
        about: what is being done.

    Raises:
        SettingsError: the shape, its size, what is free, and which settings are large.
    """
    with out_of_memory_is_one_line(config), _Watch(config, about):
        yield


@contextmanager
def out_of_memory_is_one_line(config: Any) -> Iterator[None]:
    """Turns an allocation that failed, torch's or numpy's, into one line of bad input."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        size = re.search(r"allocate ([\d.]+ ?[A-Za-z]+)", str(error))
        failed = isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)
        too_large = "Storage size calculation overflowed" in str(error) or "numel: integer multiplication" in str(error)
        if isinstance(error, SettingsError) or not (failed or too_large):
            raise
        wanted = f" {size[1]} could not be allocated." if failed and size else ""
        raise SettingsError(f"out of memory:{wanted} {_advice(config)}") from error


class _Watch(TorchDispatchMode):
    def __init__(self, config: Any, about: str) -> None:
        super().__init__()
        self.config, self.about = config, about

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not any(returned.alias_info for returned in func._schema.returns):  # neither a view nor in place
            for tensor in _shapes(func, args, kwargs):
                self._check(tensor)
        return func(*args, **kwargs)

    def _check(self, tensor: torch.Tensor) -> None:
        size = math.prod(tensor.shape) * tensor.element_size()
        if size < 2**20:
            return
        free = free_bytes(self.config)
        if size > free:
            raise SettingsError(
                f"out of memory: {self.about} needs a tensor of {list(tensor.shape)}, {readable(size)}; "
                f"{readable(free)} are free. {_advice(self.config)}"
            )


def _shapes(func: Any, args: Any, kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """The results of an operation on the meta device; none where it has no shapes without values."""
    try:
        args, kwargs = tree_map_only(torch.Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
        changed = {"device": torch.device("meta"), "generator": None, "pin_memory": None}
        kwargs = kwargs | {key: value for key, value in changed.items() if key in kwargs}
        results = func(*args, **kwargs)
    except Exception:  # shapes that depend on values, sparse tensors, operations that meta has not got
        return []
    return [result for result in tree_flatten(results)[0] if isinstance(result, torch.Tensor)]


def free_bytes(config: Any) -> int:
    """Free memory of the device that ``config`` names."""
    device = config["device"]
    if device is not None and device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return psutil.virtual_memory().available


def readable(size: float) -> str:
    """A number of bytes in the unit that fits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"


def _advice(config: Any) -> str:
    """Names the settings that may be too large: the large ones of those that were given."""
    large = {
        key: value
        for key, value in config.external_config_dict.items()
        if any(isinstance(item, (int, float)) and item >= _LARGE for item in (value if isinstance(value, list) else [value]))
        and key not in ("seed", "epochs")
    }
    named = ", ".join(f"{key} = {value}" for key, value in large.items()) or "batch sizes, widths and numbers of samples"
    return f"Make these smaller: {named}"


def check_training_memory(config: Any, model: torch.nn.Module) -> None:
    """Refuses a model whose gradients and optimiser state do not fit beside it.

    Raises:
        SettingsError: the size, and what is free.
    """
    copies = 1 if config["learner"].lower() == "sgd" else 3  # gradients, and Adam's two moments
    size = copies * sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    if size > (free := free_bytes(config)):
        raise SettingsError(f"out of memory: training needs {readable(size)} for gradients and optimiser; "
                            f"{readable(free)} are free. {_advice(config)}")  # fmt: skip


def watch_first_batches(config: Any, model: Any, valid_data: Any) -> None:
    """Scores one validation batch of a model of ours before it is trained, and watches its first training batch.

    An evaluation that cannot fit would otherwise end the run after its first epochs. Only our models are known to draw
    nothing from shared generators when they score, and to keep no state.

    Raises:
        SettingsError: see :func:`within_memory`.
    """
    if model_of(config.model_class) and not config["torch_compile"] and len(valid_data.dataset):
        with within_memory(config, "scoring a batch"), _same_draws(valid_data.generator), torch.no_grad():
            batch = next(iter(valid_data))[0].to(config["device"])
            model.eval()
            (model.full_sort_predict if config["eval_args"]["mode"]["valid"] == "full" else model.predict)(batch)
    loss = model.calculate_loss

    def watched(*args: Any, **kwargs: Any) -> Any:
        # RecBole's trainer holds on to this function for an epoch; from the second batch on it is the model's own.
        if vars(model).pop("calculate_loss", None) is None:
            return loss(*args, **kwargs)
        with within_memory(config, "a training batch"):
            return loss(*args, **kwargs)

    if not config["torch_compile"]:
        model.calculate_loss = watched


@contextmanager
def _same_draws(generator: torch.Generator | None) -> Iterator[None]:
    """Gives every generator of random numbers its state back."""
    states = np.random.get_state(), random.getstate(), generator and generator.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            np.random.set_state(states[0])
            random.setstate(states[1])
            if generator is not None:
                generator.set_state(states[2])
