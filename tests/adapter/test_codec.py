"""What goes into a checkpoint comes back, and what does not belong there is refused."""

from collections import defaultdict

import numpy as np
import pytest
import torch
from scipy import sparse

from recbole_diffusion.adapter.codec import decode, encode

MATRIX = sparse.csr_matrix(np.array([[0, 2.5, 0], [1, 0, 0]], np.float32))
ARRAYS = [
    np.arange(6, dtype=np.int32).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.zeros((0, 4), np.float16),
    np.array(3.5),
    np.array([1 + 2j]),
    np.array([True, False]),
    np.array(["a", "long"]),
    np.array([2**63], np.uint64),
    np.array(["2020-01-01"], "datetime64[D]"),
    np.matrix([[1.0, 2.0]]),
]
SCALARS = [np.float32(1.5), np.int64(-3), np.bool_(True), np.str_("x"), np.uint16(7)]
PLAIN = [None, True, 5, 2**70, -1.5, float("inf"), "x", [1, [2]], (1, (2, "a")), {"a": 1, 2: None}, {}, [], ()]


def through_a_file(obj, tmp_path):
    torch.save(encode(obj), tmp_path / "x.pt")
    return decode(torch.load(tmp_path / "x.pt", weights_only=True))


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{type(a).__name__}-{a.dtype}")
def test_arrays_come_back(array, tmp_path):
    back = through_a_file({"x": [array]}, tmp_path)["x"][0]
    assert type(back) is type(array) and back.dtype == array.dtype and back.shape == array.shape
    assert back.flags.f_contiguous == array.flags.f_contiguous and back.flags.writeable
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("scalar", SCALARS, ids=repr)
def test_numpy_scalars_come_back(scalar, tmp_path):
    back = through_a_file(scalar, tmp_path)
    assert type(back) is type(scalar) and back == scalar


@pytest.mark.parametrize("family", ["matrix", "array"])
@pytest.mark.parametrize("form", ["csr", "csc", "coo", "dok", "lil", "dia", "bsr"])
def test_sparse_matrices_come_back(form, family, tmp_path):
    matrix = getattr(sparse, f"{form}_{family}")(MATRIX)
    back = through_a_file(matrix, tmp_path)
    assert type(back) is type(matrix) and back.dtype == matrix.dtype
    np.testing.assert_array_equal(back.toarray(), matrix.toarray())


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_plain_data_come_back(value, tmp_path):
    back = through_a_file(value, tmp_path)
    assert type(back) is type(value) and back == value


def test_tensors_and_odd_dictionaries_come_back(tmp_path):
    tensors = {
        "d": torch.rand(2, dtype=torch.float64),
        "i": torch.arange(3, dtype=torch.int16),
        "b": torch.tensor(True),
    }
    back = through_a_file(tensors | {"p": torch.nn.Parameter(torch.ones(1))}, tmp_path)
    assert all(back[key].dtype == value.dtype and torch.equal(back[key], value) for key, value in tensors.items())
    assert isinstance(back["p"], torch.nn.Parameter)
    assert not through_a_file(torch.ones(1, requires_grad=True) * 2, tmp_path).requires_grad
    ripples = defaultdict(list, {3: [(torch.ones(1), torch.zeros(1))]})
    assert through_a_file(ripples, tmp_path)[3][0][0] == 1
    for odd in ({(1, "a"): 2, np.int64(5): None}, {"__recbole_diffusion__": "array"}):
        assert through_a_file(odd, tmp_path) == odd


@pytest.mark.parametrize("value", [object(), {1, 2}, b"x", np.array([object()]), np.ma.array([1]), print, 2j])
def test_what_is_not_data_is_refused(value):
    with pytest.raises(ValueError, match=r"other_parameter\['w'\]\[0\].* a checkpoint cannot hold: allowed are"):
        encode({"w": [value]}, "other_parameter")


@pytest.mark.parametrize("change", [{"indices": [0, 9]}, {"indptr": [0, 1, 7]}])
def test_a_matrix_with_indices_out_of_range_is_refused(change):
    """scipy would read and write outside its arrays."""
    content = encode(MATRIX)
    parts = {"data": MATRIX.data, "indices": MATRIX.indices, "indptr": MATRIX.indptr}
    parts |= {name: np.array(value, np.int32) for name, value in change.items()}
    with pytest.raises(ValueError):
        decode(content | {"parts": [encode(part) for part in parts.values()]})
