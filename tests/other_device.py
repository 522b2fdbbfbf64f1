"""A device that is not the CPU, on any machine: tensors on it compute as on the CPU, and nothing else may touch them.

A kernel that gets tensors of two devices, and ``numpy()`` of a tensor that is not on the CPU, fail as on a GPU. What it does
not show: kernels that only a GPU has, and what waits for one.
"""

from __future__ import annotations

import contextlib

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")  # torch lets it be named without a driver

INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index")


class Elsewhere(torch.Tensor):
    """A tensor that says it is on :data:`DEVICE`; ``values`` is on the CPU."""

    @staticmethod
    def __new__(cls, values):
        self = torch.Tensor._make_wrapper_subclass(
            cls, values.shape, strides=values.stride(), storage_offset=values.storage_offset(), dtype=values.dtype,
            device=DEVICE, requires_grad=values.requires_grad,
        )  # fmt: skip
        self.values_on_cpu = values
        return self

    def __repr__(self):
        return f"Elsewhere({self.values_on_cpu!r})"

    def tolist(self):  # torch itself has none for subclasses
        return self.values_on_cpu.tolist()

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        return dispatch(op, args, kwargs or {})


class FromPython(TorchFunctionMode):
    """What torch makes of lists without asking :class:`OtherDevice`: tensors, and indices."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is torch.tensor and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return function(*args, **kwargs).to(device)
        if function is torch.Tensor.__getitem__ and isinstance(args[1], list):
            args = (args[0], torch.tensor(args[1]))
        return function(*args, **kwargs)


class OtherDevice(TorchDispatchMode):
    """Within it, :data:`DEVICE` is there."""

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        return dispatch(op, args, kwargs or {})


def dispatch(op, args, kwargs):
    leaves = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
    here = [leaf for leaf in leaves if not isinstance(leaf, Elsewhere)]
    assert all(leaf.device.type == "cpu" for leaf in here), f"{op}: a tensor without values"
    away = len(leaves) > len(here)
    device = kwargs.get("device")
    moved = device is not None and torch.device(device).type == DEVICE.type
    name = op._schema.name
    copies = name in ("aten::_to_copy", "aten::copy_")
    # As on a GPU, only a single number may come from the CPU, and an index of a tensor that is on the device.
    strangers = [leaf for leaf in here if leaf.dim()]
    indexed = name in INDEXING and isinstance(args[0], Elsewhere)
    if away and strangers and not copies and not indexed:
        raise RuntimeError(f"{name}: tensors on {DEVICE} and on the CPU")
    if device is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    result = op(*tree_map(inside, args), **tree_map(inside, kwargs))
    if moved or (away and device is None):
        return tree_map(wrapper(leaves), result)
    return result


def inside(value):
    return value.values_on_cpu if isinstance(value, Elsewhere) else value


def wrapper(leaves):
    known = {id(leaf.values_on_cpu): leaf for leaf in leaves if isinstance(leaf, Elsewhere)}

    def wrap(value):
        if not isinstance(value, torch.Tensor) or isinstance(value, Elsewhere):
            return value
        return known.get(id(value)) if id(value) in known else Elsewhere(value)  # an operation in place

    return wrap


@contextlib.contextmanager
def other_device():
    with FromPython(), OtherDevice():
        yield DEVICE
