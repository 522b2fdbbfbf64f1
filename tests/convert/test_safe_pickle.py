"""The restricted reader of pickled data frames: reads what pandas writes, runs nothing."""

import base64
import functools
import os
import pickle
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recbole_diffusion.convert import stand_ins
from recbole_diffusion.convert.safe_pickle import read_dataframe

# Written with pickle.dumps by pandas 1.5.3 / numpy 1.23.5 (rows 1 and 2 of FRAME, hence an Int64Index; protocol 4), by
# pandas 2.2.3 / numpy 1.26.4 (protocol 5), and by pandas 3.1.1 / numpy 2.4.6 with pyarrow (protocol 4); zlib, base 64.
PANDAS_1 = (
    "eNptUt9rE0EQTu6HGhVrELVQEB98iC/xRYpIQTEitIcRfA/L3t00d3Rvc+7u0QYs6IOxgX3r+Pfq7F4OU+0e7Mzezsz37XzzLfo1DHt+2WHNZc71"
    "OFsoGB8rXgHawXtu+AfvX+Lz73iOIxuxaq7QPtkOL6UBJbnQ44pLPgel0d59JxbZycf2TOn20SaDiTLVf1PQ7rBG1mV2IoClLscFP5RNVS/b6lUj"
    "TMmV4kuqyhRkC6mNajLjAmMfiPYm1fYhl5j0fuCkn+JP/IyjpE9fsMJix8a5WdbuJTb49ArXF+19aPtfcTqdHv2m5bfkjcF0PcPRzF0nA3B2QBbo"
    "v72VNiXxkUQ81qLMwCM6GFcvCdxe3CnuFUPHo3jQsQg8i10blFewD/7B7jnsydN+q0qvs9HGxhuLFFY8o7LhNu4KiardvSpNDmegxynXJOhtJuGU"
    "Hbp/RLt4bePO99LmJDf+Tz2kw55riA01fKFeC5DMe5GEM4O+L5F0YzJtVu79B3bvOhKkFagyIx6H0uy/3MIu3l7TMTq8WE/udz0Itt9+1CKB22gm"
    "SVkaV8e/G11WgeH+QTNSihtDQ3mO9gY7Fnzu3cdciMWpZnlTk47cABM8BZrIC92k4z/AVSbV"
)
PANDAS_2 = (
    "eNptUlFr1EAQviQX9axYqqgVwTfhfDkEX3xQClYEDT2h78eyyc1dQjebdHdDe2BBH6wtzFtH/67O7t3htbiBndnszOw333zf0l+vk15YuNNKPZV2"
    "VDQGRjMjayAcfJBOfgz+Fb38Tmc0xL6o54bw+WZ4pR0YLZUd1VLLORhLeO+9aoqjg+WZ0/HxKkOoKrf/Ugi3RafbqjhSIHKf44Mf6a5uF8vqdadc"
    "JY2RC64qDBSNts50hfOBaQgkvM21Q8gVZb0ftB/l9JMOaZhF/CXnVG5jOnWL1neC8Zc3dHmxvE8w+krj8fjzH15hy/Yc5ZcTGk5CegzeJtkg2AFb"
    "4Hu8k3cV49LcQGpVVUB42T/n62ax38stfLDRCLtgqoJwS8xMU+fdbBaoGf5+tRxCL17Z6IZdDanXX9l0Zancxbi61szbG830GGwWewow2ifnUb3w"
    "lGziPCduDXevj3QKp2BHubQshLtCw4n45P8x3vIdpms/SGLKMqHyfrnjqS8frolP+PDME4mJhWOekQItgtfXcOoo8NjXXl7j7twj28On/wNhpJ57"
    "FIfebrxcHoyZfCeNY+qxb13TEnPADrAThZrgN1Ytz54F7ZGuxS1qcDJAn/AMpXMs2zPCW2Km5Dy4T6RSzYkV067lCUsHQskcWLMXtstHfwEBcTO2"
)
PANDAS_3_ARROW = (
    "eNpdU01v00AQdb5akpQUhAQ9ISSEFC4WRw4gVFLxFWGkwDVarZ1J1upmY9ZrpZGogENDK+2tw09F4gazawfa2LJn7Z03+2bezLfmz1+NwF92J+Nq"
    "wnO07SNu+CvN54CX+Pg7nmLfNtl8ptHeL33CZKEhTJUBrbjMwzlXfAaasHsv5SI5fl9+E9zerRBMpnH+H4J2nxUqS5NjCSx2GO+sinm2CpkPPy+k"
    "SbnWfEVhmYZkoXKji8Q4z5b3RLtLwb3LJQ6DMxzUYvyBI+wPa3Q31ij2bWtiVplLxdY/PMWL83K/YWtfMIqid3/o8q/hC4PxxRj7Yw+vg7ONYdvb"
    "NlmgfXsjLlLipSiDVi7TBPzJ7jgXd1h3b9EVPXHb8RF3Nmzqns2BrafXODzb4hA4DoMn9VKToLZlK62CZmVblUWCiUcu5as81kjU7cF1zSZwAnkY"
    "8xzQdpiCJXvr/lEaIrCtzdprPqE+QHuzwvs6U9q3DrVeLD8anarZYVX7qkvaLOOskqybrbhzDEl4tD0SMDfEgG3k6os3tueUYdOFZlym1Hqk0Z7k"
    "egYs9+HxzOXSoPoGlElEiHa2YnExnfrmEg9tO14Z2IQcPAi26tSpbG9TJxfQPWIkPg16OXyWoBgZBSfm3yYpHpVfdoeV3UO16ZYpH226abdKEF9/"
    "/V1GX5eIhCcCqB5FbJvKTVFUuB3xnIJ0RlzN4EqVxXFEjWS4NtRGtkk1yihjtwBa1DwSfOAmo5NpOp0qUz+dVO85GO5lGlM/cmNoBk8dh6nkM7+8"
    "x6VcLHM2KTLqVm6ASR4DDeB5XsThX8QUedc="
)
FRAME = pd.DataFrame({"seq": [[1, 2], [3, 9], [9, 9]], "len_seq": [2, 1, 1], "next": [3, 4, 5]})


def write(path, data):
    path.write_bytes(data)
    return path


def assert_same(found, expected):
    pd.testing.assert_frame_equal(found, expected, check_column_type=False, check_index_type=False)


# ------------------------------------------------------------------------------------------- a pickle writer for tests


class Name:
    """A global, written whether or not it exists."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Made:
    """``function(*args)``, then ``__setstate__(state)`` if one is given; ``new``: through ``cls.__new__``."""

    def __init__(self, function, *args, state=None, new=False):
        self.function, self.args, self.state, self.new = function, args, state, new


def dumps(thing):
    """Assembles a pickle (protocol 3) of plain data, names and calls, without importing what it names."""

    def item(x):
        if isinstance(x, Name):
            return f"c{x.module}\n{x.name}\n".encode()
        if isinstance(x, Made):
            made = item(x.function) + item(tuple(x.args)) + (pickle.NEWOBJ if x.new else pickle.REDUCE)
            return made if x.state is None else made + item(x.state) + pickle.BUILD
        if isinstance(x, (tuple, list)):
            return b"(" + b"".join(map(item, x)) + (pickle.TUPLE if isinstance(x, tuple) else pickle.LIST)
        if isinstance(x, dict):
            return b"(" + b"".join(item(part) for pair in x.items() for part in pair) + pickle.DICT
        return pickle.dumps(x, protocol=3)[2:-1]  # without the protocol's header and the final dot

    return pickle.PROTO + b"\x03" + item(thing) + pickle.STOP


def dtype(code, order="<", flags=0):
    state = (3, order, None, None, None, -1, -1, flags)
    return Made(Name("numpy", "dtype"), code, False, True, state=state)


def array(shape, kind, data, module="numpy.core.multiarray"):
    return Made(Name(module, "_reconstruct"), Name("numpy", "ndarray"), (0,), b"b", state=(1, shape, kind, False, data))


def index(module, kind, **content):
    return Made(Name("pandas.core.indexes.base", "_new_Index"), Name(module, kind), {**content, "name": None})


def old_frame(cells, numbers, dtype_of_numbers=None, columns=("seq", "next")):
    """A frame in the format of pandas 1.1, which DreamRec's official files have: the manager's content is a state."""
    rows = len(cells)
    raw = np.array(numbers, dtype="<i8").tobytes()
    axes = [
        index("pandas.core.indexes.base", "Index", data=array((2,), dtype("O8", "|", 63), list(columns))),
        index("pandas.core.indexes.range", "RangeIndex", start=0, stop=rows, step=1),
    ]
    blocks = [
        {
            "values": array((1, rows), dtype_of_numbers or dtype("i8"), raw),
            "mgr_locs": Made(Name("builtins", "slice"), 1, 2, 1),
        },
        {"values": array((1, rows), dtype("O8", "|", 63), cells), "mgr_locs": Made(Name("builtins", "slice"), 0, 1, 1)},
    ]
    state = (axes, [], [], {"0.14.1": {"axes": axes, "blocks": blocks}})
    manager = Made(Name("pandas.core.internals.managers", "BlockManager"), state=state, new=True)
    content = {"_mgr": manager, "_typ": "dataframe", "_metadata": [], "attrs": {}}
    return Made(Name("pandas.core.frame", "DataFrame"), state=content, new=True)


# ----------------------------------------------------------------------------------------------- what it has to read


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "frame",
    [
        FRAME,
        FRAME[1:],
        FRAME.set_index(pd.Index(["x", "y", "z"])),
        FRAME.assign(f=[1.5, 2.0, float("nan")], flag=[True, False, True], text=["p", "q", "r"]),
        FRAME.assign(seq=[np.array([1, 2]), np.array([3]), np.array([], dtype=np.int32)]),
        FRAME.astype({"len_seq": np.int32, "next": np.uint8}),
        FRAME.iloc[:0],
    ],
    ids=["plain", "int index", "text index", "more types", "array cells", "small integers", "empty"],
)
def test_reads_what_this_pandas_writes(tmp_path, frame, protocol):
    found = read_dataframe(write(tmp_path / "a.df", pickle.dumps(frame, protocol=protocol)))
    assert list(found.columns) == list(frame.columns)
    assert list(found.index) == list(frame.index)
    for column in frame.select_dtypes(["number", "bool"]):
        assert found[column].dtype == frame[column].dtype
        np.testing.assert_array_equal(found[column].to_numpy(), frame[column].to_numpy())
    assert [list(cell) for cell in found["seq"]] == [list(cell) for cell in frame["seq"]]
    if "text" in frame:
        assert list(found["text"]) == ["p", "q", "r"]


def test_numpy_numbers_in_cells_become_python_numbers(tmp_path):
    frame = pd.DataFrame({"seq": [[np.int64(7), np.float32(0.5)], [np.bool_(True)]]})
    found = read_dataframe(write(tmp_path / "a.df", pickle.dumps(frame)))
    assert found["seq"].tolist() == [[7, 0.5], [True]]
    assert type(found["seq"][0][0]) is int


@pytest.mark.parametrize(
    ("text", "expected"),
    [(PANDAS_1, FRAME[1:]), (PANDAS_2, FRAME), (PANDAS_3_ARROW, FRAME)],
    ids=["pandas 1", "pandas 2", "pandas 3 with pyarrow"],
)
def test_reads_files_of_other_versions(tmp_path, text, expected):
    found = read_dataframe(write(tmp_path / "a.df", zlib.decompress(base64.b64decode(text))))
    assert_same(found, expected)


def test_reads_the_format_before_pandas_1_3(tmp_path):
    found = read_dataframe(write(tmp_path / "a.df", dumps(old_frame([[1, 2], [3]], [4, 5]))))
    assert_same(found, pd.DataFrame({"seq": [[1, 2], [3]], "next": [4, 5]}))


def test_big_endian_and_fortran_order(tmp_path):
    frame = old_frame([[1], [2]], np.array([4, 5], dtype=">i8").view("<i8"), dtype("i8", ">"))
    assert read_dataframe(write(tmp_path / "a.df", dumps(frame)))["next"].tolist() == [4, 5]
    transposed = pd.DataFrame(np.asfortranarray([[1, 2, 3], [4, 5, 6]]))
    assert_same(read_dataframe(write(tmp_path / "b.df", pickle.dumps(transposed))), transposed)


# ------------------------------------------------------------------------------------------------ what it must not run


class Evil:
    """Runs a command when unpickled."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def evil_pickles(tmp_path):
    touch = f"echo > {tmp_path / 'marker'}"
    system = Evil(os.system, touch)
    code = f"open({str(tmp_path / 'marker')!r}, 'w')"
    cells = np.empty(1, dtype=object)
    cells[0] = system
    module = Made(Name("builtins", "__import__"), "os")
    return {
        f"{os.name}.system": pickle.dumps(system),
        "builtins.eval": pickle.dumps(Evil(eval, code)),
        "builtins.exec": pickle.dumps(Evil(exec, code)),
        "builtins.getattr": dumps(Made(Made(Name("builtins", "getattr"), module, "system"), touch)),
        "builtins.__import__": dumps(module),
        "functools.partial": pickle.dumps(Evil(functools.partial(os.system, touch))),
        "pandas.read_pickle": dumps(Made(Name("pandas", "read_pickle"), "a.df")),
        "pandas.DataFrame.to_csv": dumps(Made(Name("pandas", "DataFrame.to_csv"), FRAME["next"].tolist())),
        "pandas.core.series.Series": dumps(Name("pandas.core.series", "Series")),
        "numpy.load": dumps(Made(Name("numpy", "load"), "a.npy", None, True)),
        "numpy.core.multiarray.fromfile": dumps(Name("numpy.core.multiarray", "fromfile")),
        "operator.attrgetter": dumps(Made(Name("operator", "attrgetter"), "system")),
        "array of objects": pickle.dumps(cells),
        "cell of a frame": pickle.dumps(pd.DataFrame({"seq": [system]})),
        "list in a cell": pickle.dumps(pd.DataFrame({"seq": [[1, system]]})),
        "cell of an old frame": dumps(old_frame([Made(Name("os", "system"), touch)], [1])),
        "attrs of a frame": dumps(
            Made(Name("pandas", "DataFrame"), state={"attrs": Made(Name("os", "system"), touch)}, new=True)
        ),
    }


@pytest.mark.parametrize("name", evil_pickles(Path("x")))
def test_refuses_other_names_and_runs_nothing(tmp_path, name):
    path = write(tmp_path / "evil.df", evil_pickles(tmp_path)[name])
    with pytest.raises(ValueError, match=r"evil\.df: refused, because it names .*nothing was executed") as caught:
        read_dataframe(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "marker").exists()
    named = {"functools.partial": ".partial"}.get(name, name if "." in name else ".system")
    assert named in str(caught.value)


@pytest.mark.parametrize("name", [f"{os.name}.system", "builtins.eval", "array of objects"])
def test_the_same_files_do_run_under_plain_pickle(tmp_path, name):
    # Otherwise the test above would prove nothing.
    pickle.loads(evil_pickles(tmp_path)[name])
    assert (tmp_path / "marker").exists()


def frame_of(values):
    """A frame of one row and one column whose block holds ``values``."""
    axes = [
        index("pandas", "RangeIndex", start=0, stop=1, step=1),
        index("pandas", "RangeIndex", start=0, stop=1, step=1),
    ]
    block = Made(Name("pandas._libs.internals", "_unpickle_block"), values, Made(Name("builtins", "slice"), 0, 1), 2)
    manager = Made(Name("pandas.core.internals.managers", "BlockManager"), (block,), axes)
    return Made(Name("pandas", "DataFrame"), state={"_mgr": manager}, new=True)


RAW = b"\x41" * 8
HOSTILE = {
    # numpy would take the bytes for a pointer: the flags that mark a type of objects are part of the pickled state.
    "objects from bytes": frame_of(array((1, 1), dtype("O8", "|", 0), RAW)),
    "objects from a buffer": frame_of(
        Made(Name("numpy.core.numeric", "_frombuffer"), RAW, dtype("O8", "|", 0), (1, 1), "C")
    ),
    "scalar of objects": frame_of(
        array((1, 1), dtype("O8", "|"), [Made(Name("numpy.core.multiarray", "scalar"), dtype("O8", "|"), RAW)])
    ),
    "structured type": frame_of(
        array(
            (1, 1),
            Made(Name("numpy", "dtype"), "i8", False, True, state=(3, "|", None, ("f",), {"f": 1}, 8, 1, 0)),
            RAW,
        )
    ),
    "text type": frame_of(array((1, 1), dtype("U2"), RAW)),
    "too few bytes": frame_of(array((1, 1), dtype("i8"), RAW[:4])),
    "shape of more than there is": frame_of(array((1 << 60, 1), dtype("i8"), RAW)),
    "subclass of an array": frame_of(
        Made(Name("numpy.core.multiarray", "_reconstruct"), Name("pandas", "DataFrame"), (0,), b"b")
    ),
    "huge bytearray": Made(Name("builtins", "bytearray"), 1 << 62),
    "name in a cell": frame_of(array((1, 1), dtype("O8", "|"), [Name("pandas", "DataFrame")])),
    "frame in a cell": frame_of(array((1, 1), dtype("O8", "|"), [Made(Name("pandas", "DataFrame"), new=True)])),
    "array without a state": frame_of(Made(Name("numpy", "ndarray"), new=True)),
    "frame without a state": Made(Name("pandas", "DataFrame"), new=True),
    "no frame": [1, 2, 3],
    "frame without blocks": Made(Name("pandas", "DataFrame"), state={"_mgr": [1]}, new=True),
    "Arrow text with holes": Made(Name("pyarrow.lib", "_restore_array"), ("<i8", 1, 1, 0, [None, b"", b""], [], None)),
    "unknown encoding": Made(Name("_codecs", "encode"), "x", "rot13"),
    "extension array of another kind": Made(
        Name("pandas._libs.arrays", "__pyx_unpickle_NDArrayBacked"), Name("pandas", "DataFrame"), 0, None
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_refuses_crafted_content(tmp_path, name):
    path = write(tmp_path / "evil.df", dumps(HOSTILE[name]))
    with pytest.raises(ValueError, match=r"evil\.df: not a readable pickle of a pandas DataFrame: \S") as caught:
        read_dataframe(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("state", [(None, {"build": 1}), {"build": 1}, (3, "<", None, None, None)], ids=str)
def test_a_file_cannot_change_the_stand_ins(tmp_path, state):
    before = {name: dict(vars(value)) for name, value in vars(stand_ins).items() if isinstance(value, type)}
    for kind in ("DataFrame", "Index", "RangeIndex", "StringDtype"):
        # BUILD on the class itself, where pickle would set attributes.
        data = pickle.PROTO + b"\x03" + f"cpandas\n{kind}\n".encode() + dumps(state)[2:-1] + pickle.BUILD + pickle.STOP
        with pytest.raises(ValueError, match="not a readable pickle"):
            read_dataframe(write(tmp_path / "evil.df", data))
    after = {name: dict(vars(value)) for name, value in vars(stand_ins).items() if isinstance(value, type)}
    assert after == before


@pytest.mark.parametrize(
    "data",
    [b"", b"not a pickle", pickle.dumps(FRAME)[:-20], b"\x80\x03Pid\n.", b"\x80\x03\x82\x01.", b"\x80\x05\x97."],
    ids=["empty", "text", "cut off", "persistent id", "extension code", "out-of-band buffer"],
)
def test_refuses_damaged_files(tmp_path, data):
    with pytest.raises(ValueError, match=r"a\.df: not a readable pickle of a pandas DataFrame"):
        read_dataframe(write(tmp_path / "a.df", data))


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"none\.df: No such file"):
        read_dataframe(tmp_path / "none.df")
    with pytest.raises(ValueError, match="directory"):
        read_dataframe(tmp_path)
