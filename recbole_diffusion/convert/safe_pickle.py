"""Reads a pickled pandas data frame without running anything that the file asks for.

A pickle is a program: it names callables and calls them. Here every name on the allow-list leads to an inert stand-in
that only records plain data, and any other name is refused. Nothing of pandas or numpy is ever called from the file:
even ``numpy.dtype`` takes a state that, crafted, makes numpy follow raw pointers. The frame is built from the record
afterwards, so the files of pandas 0.25 to 3 read the same under every pandas.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_diffusion.convert import stand_ins


def read_dataframe(path: str | Path) -> pd.DataFrame:
    """Reads the pickle of one ``pandas.DataFrame`` (protocol 2 or later) with plain number, boolean and object columns.

    Cells of object columns may be numbers, text, lists, tuples, dictionaries and numpy arrays of them.

    Raises:
        ValueError: no such file, not a pickle of a data frame, or a pickle that names anything but the data classes
            needed for one; the text holds the file and the refused name.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = _Unpickler(file).load()
        if not isinstance(content, stand_ins.Frame):
            raise pickle.UnpicklingError(f"holds a {type(content).__name__}, not a pandas DataFrame")
        return content.build()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from error
    except _Refused as error:
        raise ValueError(
            f"{path}: refused, because it names {error}; only a pandas DataFrame is read here, and nothing was executed"
        ) from error
    except Exception as error:  # A damaged or hostile file can fail anywhere in here, and always means the same.
        detail = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: not a readable pickle of a pandas DataFrame: {detail}") from error


class _Refused(pickle.UnpicklingError):
    """A global outside the allow-list."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None


# All that a file may name: old and new homes of the same things, in pandas 0.25 to 3 and numpy 1 and 2.
_ALLOWED: dict[tuple[str, str], type] = {
    ("pandas", "DataFrame"): stand_ins.Frame,
    ("pandas.core.frame", "DataFrame"): stand_ins.Frame,
    ("pandas.core.internals", "BlockManager"): stand_ins.BlockManager,
    ("pandas.core.internals.managers", "BlockManager"): stand_ins.BlockManager,
    ("pandas._libs.internals", "_unpickle_block"): stand_ins.Block,
    ("pandas._libs.internals", "BlockPlacement"): stand_ins.Placement,
    ("pandas.core.indexes.base", "_new_Index"): stand_ins.NewIndex,
    ("pandas", "Index"): stand_ins.Index,
    ("pandas.core.indexes.base", "Index"): stand_ins.Index,
    ("pandas.core.indexes.numeric", "Int64Index"): stand_ins.Index,
    ("pandas.core.indexes.numeric", "UInt64Index"): stand_ins.Index,
    ("pandas.core.indexes.numeric", "Float64Index"): stand_ins.Index,
    ("pandas", "RangeIndex"): stand_ins.RangeIndex,
    ("pandas.core.indexes.range", "RangeIndex"): stand_ins.RangeIndex,
    ("pandas", "StringDtype"): stand_ins.StringDType,
    ("pandas.core.arrays.string_", "StringDtype"): stand_ins.StringDType,
    ("pandas.arrays", "StringArray"): stand_ins.StringArray,
    ("pandas.core.arrays.string_", "StringArray"): stand_ins.StringArray,
    ("pandas._libs.arrays", "__pyx_unpickle_NDArrayBacked"): stand_ins.NDArrayBacked,
    ("pandas.arrays", "ArrowStringArray"): stand_ins.ArrowStringArray,
    ("pyarrow.lib", "_restore_array"): stand_ins.ArrowArray,
    ("pyarrow.lib", "type_for_alias"): stand_ins.ArrowType,
    ("pyarrow.lib", "py_buffer"): stand_ins.ArrowBuffer,
    ("numpy", "ndarray"): stand_ins.Array,
    ("numpy", "dtype"): stand_ins.DType,
    ("numpy.core.multiarray", "_reconstruct"): stand_ins.Reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): stand_ins.Reconstruct,
    ("numpy.core.multiarray", "scalar"): stand_ins.Scalar,
    ("numpy._core.multiarray", "scalar"): stand_ins.Scalar,
    ("numpy.core.numeric", "_frombuffer"): stand_ins.FromBuffer,
    ("numpy._core.numeric", "_frombuffer"): stand_ins.FromBuffer,
    ("builtins", "slice"): stand_ins.Slice,
    ("__builtin__", "slice"): stand_ins.Slice,
    ("builtins", "bytearray"): stand_ins.ByteArray,
    ("__builtin__", "bytearray"): stand_ins.ByteArray,
    ("__builtin__", "bytes"): stand_ins.ByteArray,
    ("_codecs", "encode"): stand_ins.Encode,
}
