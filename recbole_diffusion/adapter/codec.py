"""Turns objects into tensors and plain data, which torch reads with ``weights_only=True``, and back."""

from __future__ import annotations

import os
from typing import Any, Literal

import numpy as np
import torch
from scipy import sparse

_TAG = "__recbole_diffusion__"


def encode(obj: Any, where: str = "value") -> Any:
    """Turns an object into tensors and plain data.

    Args:
        obj: tensor, bool, int, float, str, None, numpy array or scalar, scipy sparse matrix, or a list, tuple or
            dictionary of these. A tensor comes back detached, a subclass of dict or tuple as dict or tuple.
        where: name of the object, for the error text.

    Raises:
        ValueError: anything else, with its place and type.
    """
    if isinstance(obj, torch.nn.Parameter) or obj is None or type(obj) in (bool, int, float, str):
        return obj
    if isinstance(obj, torch.Tensor):
        return obj.detach()
    if isinstance(obj, (np.ndarray, np.generic)) and not isinstance(obj, np.ma.MaskedArray):
        return _encode_array(obj, where)
    if sparse.issparse(obj) and len(obj.shape) == 2:
        return _encode_sparse(obj, where)
    if isinstance(obj, (list, tuple)):
        items = [encode(item, f"{where}[{i}]") for i, item in enumerate(obj)]
        return items if isinstance(obj, list) else tuple(items)
    if isinstance(obj, dict):
        values = [(key, encode(value, f"{where}[{key!r}]")) for key, value in obj.items()]
        if all(type(key) in (bool, int, float, str) and key != _TAG for key in obj):
            return dict(values)
        return {_TAG: "dict", "items": [(encode(key, f"a key of {where}"), value) for key, value in values]}
    raise ValueError(
        f"{where} is a {type(obj).__module__}.{type(obj).__qualname__}, which a checkpoint cannot hold: allowed are "
        "tensors, numbers, strings, None, numpy arrays, sparse matrices, and lists, tuples and dictionaries of these"
    )


def _encode_array(obj: Any, where: str) -> dict[str, Any]:
    array = np.asarray(obj)
    if array.dtype.kind not in "biufcSUmM":
        raise ValueError(
            f"{where} is a numpy array of dtype {array.dtype}, which a checkpoint cannot hold: allowed are numbers, "
            "booleans, fixed-length strings, dates and time differences"
        )
    # The memory order is kept, because a product of matrices differs in its last digits with it.
    order: Literal["F", "C"] = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    data = torch.from_numpy(np.frombuffer(array.tobytes(order), np.uint8).copy())
    kind = "scalar" if isinstance(obj, np.generic) else "matrix" if isinstance(obj, np.matrix) else "array"
    return {_TAG: kind, "dtype": array.dtype.str, "shape": array.shape, "order": order, "data": data}


def _encode_sparse(obj: Any, where: str) -> dict[str, Any]:
    kept = obj if obj.format in ("csr", "csc", "coo") else obj.tocoo()
    parts = (kept.row, kept.col) if kept.format == "coo" else (kept.indices, kept.indptr)
    return {
        _TAG: "sparse",
        "format": obj.format,
        "stored": kept.format,
        "family": "array" if type(obj).__name__.endswith("_array") else "matrix",
        "shape": tuple(int(n) for n in obj.shape),
        "parts": [_encode_array(part, where) for part in (kept.data, *parts)],
    }


def decode(obj: Any) -> Any:
    """Turns what :func:`encode` made back into the object.

    Raises:
        ValueError: unknown kind of content; damaged content raises this, TypeError, KeyError or AttributeError.
    """
    if isinstance(obj, (list, tuple)):
        return type(obj)(decode(item) for item in obj)
    if not isinstance(obj, dict):
        return obj
    kind = obj.get(_TAG)
    if kind is None:
        return {key: decode(value) for key, value in obj.items()}
    if kind == "dict":
        return {decode(key): decode(value) for key, value in obj["items"]}
    if kind == "sparse":
        return _decode_sparse(obj)
    if kind not in ("array", "scalar", "matrix"):
        raise ValueError(f"unknown kind of content {kind!r}: allowed are array, scalar, matrix, sparse and dict")
    # Tensors may have been mapped to an accelerator on reading; numpy lives on the CPU.
    flat = np.frombuffer(obj["data"].cpu().numpy().tobytes(), np.dtype(obj["dtype"]))
    array = flat.reshape(obj["shape"], order=obj["order"]).copy(order="K")
    return array[()] if kind == "scalar" else np.asmatrix(array) if kind == "matrix" else array


def _decode_sparse(obj: dict[str, Any]) -> Any:
    data, first, second = (decode(part) for part in obj["parts"])
    if obj["stored"] not in ("csr", "csc", "coo") or obj["family"] not in ("array", "matrix"):
        raise ValueError(f"unknown kind of sparse matrix {obj['stored']}_{obj['family']}")
    make = getattr(sparse, f"{obj['stored']}_{obj['family']}")
    if obj["stored"] == "coo":
        return make((data, (first, second)), shape=obj["shape"]).asformat(obj["format"])
    matrix = make((data, first, second), shape=obj["shape"])
    matrix.check_format(full_check=True)  # scipy's compiled code trusts the indices
    return matrix


def plain(value: Any) -> Any:
    """Turns a setting into plain Python data: numpy scalars into numbers, devices and paths into strings.

    Raises:
        TypeError: it cannot be: tensors, arrays, enums, objects.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (torch.device, os.PathLike)):
        return str(value)
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, (list, tuple)):
        items = [plain(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    raise TypeError(f"{value!r} is not plain data: allowed are numbers, strings, None, lists, tuples, dictionaries")
