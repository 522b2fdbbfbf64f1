"""Inert stand-ins for the pandas, numpy and pyarrow classes that a pickled data frame names.

:mod:`recbole_diffusion.convert.safe_pickle` hands these to the unpickler instead of the real ones. They record plain data;
``build()`` turns the record into arrays, an index, a frame.
"""

from __future__ import annotations

import itertools
import pickle
import re
from typing import Any

import numpy as np
import pandas as pd


class _StandIn:
    """Base of all stand-ins.

    Each has a ``__setstate__``: without one, pickle would set arbitrary attributes, also on the class itself. On a
    class the call lacks ``self`` and fails.
    """

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"unexpected state for {type(self).__name__}")


class DType(_StandIn):
    """``numpy.dtype`` of booleans, integers, floats and objects."""

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        if not re.fullmatch(r"b1|[iu][1248]|f[248]|O8?", code):
            raise pickle.UnpicklingError(f"array type {code!r} is not supported")
        self.code, self.order = code[0] if code[0] == "O" else code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, order, *fields = state[:5]
        if order not in ("<", ">", "=", "|") or fields != [None, None, None]:
            raise pickle.UnpicklingError("structured array types are not supported")
        self.order = order

    def build(self) -> np.dtype[Any]:
        return np.dtype(self.code) if self.code == "O" else np.dtype(self.order + self.code)


class Array(_StandIn):
    """``numpy.ndarray``: shape, type, memory order, and bytes or (for objects) a list of cells."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, self.shape, self.dtype, self.fortran, self.data = state

    def build(self) -> np.ndarray[Any, Any]:
        dtype = self.dtype.build()
        if dtype.hasobject:
            flat = np.fromiter(map(_plain, self.data), dtype=object, count=len(self.data))
        else:
            # A copy, because frombuffer's result cannot be written to; native order, because pandas wants it.
            flat = np.frombuffer(_as_bytes(self.data), dtype=dtype).astype(dtype.newbyteorder("="))
        return flat.reshape(self.shape, order="F" if self.fortran else "C")


class Reconstruct(_StandIn):
    """``numpy._reconstruct``: an empty array, whose state follows."""

    def __new__(cls, kind: Any, shape: Any, code: Any) -> Any:
        if kind is not Array:
            raise pickle.UnpicklingError("subclasses of numpy.ndarray are not supported")
        return Array()


class FromBuffer(_StandIn):
    """``numpy._frombuffer``: how protocol 5 stores an array."""

    def __new__(cls, data: Any, dtype: Any, shape: Any, order: str) -> Any:
        array = Array()
        array.__setstate__((1, shape, dtype, order == "F", data))
        return array


class Scalar(_StandIn):
    """``numpy.scalar``: becomes a Python number at once."""

    def __new__(cls, dtype: DType, data: Any) -> Any:
        built = dtype.build()
        if built.hasobject:
            raise pickle.UnpicklingError("a numpy scalar of objects is not supported")
        return np.frombuffer(_as_bytes(data), dtype=built, count=1)[0].item()


class Encode(_StandIn):
    """``_codecs.encode``: how protocols before 3 store bytes."""

    def __new__(cls, text: str, encoding: str) -> Any:
        return _as_bytes(text, encoding)


class ByteArray(_StandIn):
    """``bytearray`` (and empty ``bytes``); the real one would allocate any size that it is asked for."""

    def __new__(cls, data: Any = b"", encoding: str = "latin-1") -> Any:
        return _as_bytes(data, encoding)


class Slice(_StandIn):
    """``slice``: which columns a block holds."""

    def __new__(cls, *bounds: Any) -> Any:
        return slice(*bounds)


class Placement(_StandIn):
    """``BlockPlacement``: the columns of a block, as the slice or array that it wraps."""

    def __new__(cls, where: Any) -> Any:
        return where


class Block(_StandIn):
    """``_unpickle_block``: the values of some columns, and which columns they are."""

    def __new__(cls, values: Any, placement: Any, ndim: int = 2) -> Any:
        return values, placement


class BlockManager(_StandIn):
    """``BlockManager``: axes and blocks, given to the constructor (pandas >= 1.3) or as a state (before)."""

    def __init__(self, blocks: Any, axes: Any) -> None:
        self.blocks, self.axes = list(blocks), list(axes)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        content = state[3]["0.14.1"]  # The three entries before it repeat this for readers of still older pandas.
        self.axes = content["axes"]
        self.blocks = [(block["values"], block["mgr_locs"]) for block in content["blocks"]]


class Frame(_StandIn):
    """``DataFrame``: a dictionary with the block manager, or (very old) the manager itself."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            state = state["_mgr"] if "_mgr" in state else state["_data"]
        if not isinstance(state, BlockManager):
            raise pickle.UnpicklingError("a DataFrame without blocks")
        self.manager = state

    def build(self) -> pd.DataFrame:
        columns, index = (axis.build() for axis in self.manager.axes)
        found: dict[int, np.ndarray[Any, Any]] = {}
        for stand_in, placement in self.manager.blocks:
            values = stand_in.build()
            where = placement.build() if isinstance(placement, Array) else placement
            positions = np.arange(len(columns))[where]
            # A block of an extension type is one column and has one dimension.
            found.update(zip(positions.tolist(), values.reshape(len(positions), len(index)), strict=True))
        if len(found) != len(columns):
            raise pickle.UnpicklingError(f"{len(found)} of {len(columns)} columns have values")
        series = {i: pd.Series(found[i], index=index, dtype=found[i].dtype) for i in range(len(columns))}
        frame = pd.DataFrame(series, index=index)
        frame.columns = columns
        return frame


class Index(_StandIn):
    """``Index`` and, before pandas 2, its numeric kinds; :class:`NewIndex` fills it."""

    content: dict[str, Any]

    def build(self) -> pd.Index:
        return pd.Index(self.content["data"].build(), name=self.content.get("name"))


class RangeIndex(Index):
    """``RangeIndex``."""

    def build(self) -> pd.Index:
        start, stop, step = (self.content[key] for key in ("start", "stop", "step"))
        return pd.RangeIndex(start, stop, step, name=self.content.get("name"))


class NewIndex(_StandIn):
    """``_new_Index``: an index from its class and content."""

    def __new__(cls, kind: Any, content: dict[str, Any]) -> Any:
        if kind not in (Index, RangeIndex):
            raise pickle.UnpicklingError("unknown kind of index")
        index = kind()
        index.content = content
        return index


class StringDType(_StandIn):
    """``StringDtype``, which pandas 3 gives to column names; text is text here, however it was stored."""

    def __init__(self, *storage: Any) -> None:
        pass


class StringArray(_StandIn):
    """``StringArray``: text in an object array."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.array = next(part for part in state if isinstance(part, Array))

    def build(self) -> np.ndarray[Any, Any]:
        return self.array.build()


class NDArrayBacked(_StandIn):
    """Cython's constructor of :class:`StringArray`."""

    def __new__(cls, kind: Any, checksum: int, state: Any = None) -> Any:
        if kind is not StringArray:
            raise pickle.UnpicklingError("unknown kind of extension array")
        array = StringArray()
        if state is not None:
            array.__setstate__(state)
        return array


class ArrowStringArray(_StandIn):
    """``ArrowStringArray``: what pandas 3 uses for text where pyarrow is installed."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.content = state["_pa_array"]

    def build(self) -> np.ndarray[Any, Any]:
        return self.content.build()


class ArrowArray(_StandIn):
    """``pyarrow.lib._restore_array`` of text without missing values: offsets into one run of UTF-8."""

    def __init__(self, content: tuple[Any, ...]) -> None:
        self.kind, self.length, nulls, self.start, self.buffers, *_ = content
        if nulls:
            raise pickle.UnpicklingError("missing values in an Arrow text array are not supported")

    def build(self) -> np.ndarray[Any, Any]:
        _valid, offsets, text = self.buffers
        ends = np.frombuffer(offsets, dtype=self.kind).tolist()[self.start : self.start + self.length + 1]
        cells = (text[low:high].decode() for low, high in itertools.pairwise(ends))
        return np.fromiter(cells, dtype=object, count=self.length)


class ArrowType(_StandIn):
    """``pyarrow.lib.type_for_alias``: the width of a text array's offsets."""

    def __new__(cls, alias: str) -> Any:
        return {"string": "<i4", "large_string": "<i8"}[alias]


class ArrowBuffer(_StandIn):
    """``pyarrow.lib.py_buffer``: bytes."""

    def __new__(cls, data: Any) -> Any:
        return _as_bytes(data)


def _as_bytes(data: Any, encoding: str = "latin-1") -> bytes:
    if isinstance(data, str) and encoding in ("latin1", "latin-1"):
        return data.encode("latin-1")
    if isinstance(data, (bytes, bytearray)):
        return bytes(data)
    raise pickle.UnpicklingError(f"expected bytes, found {type(data).__name__}")


def _plain(cell: Any) -> Any:
    """A cell without stand-ins: arrays are built, in containers too; anything else has no place in a cell."""
    if type(cell) in (int, str, float, bool, type(None), bytes):
        return cell
    if isinstance(cell, Array):
        return cell.build()
    if isinstance(cell, (list, tuple)):
        return type(cell)(map(_plain, cell))
    if isinstance(cell, dict):
        return {key: _plain(value) for key, value in cell.items()}
    raise pickle.UnpicklingError(f"a cell holds a {getattr(cell, '__name__', type(cell).__name__)}")
