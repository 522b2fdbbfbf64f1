"""The truncated SVD against numpy's whole one."""

import numpy as np
import pytest
import scipy.sparse
import torch

from recbole_diffusion.model.item_filter import degree_normalised, top_right_vectors


@pytest.fixture(scope="module")
def matrix():
    """Random 0/1 interactions: a flat spectrum but for the first value; items of all popularities, users without any item."""
    rng = np.random.default_rng(5)
    dense = rng.random((900, 700)) < np.linspace(0, 0.5, 700) ** 2
    dense[:3] = 0
    return scipy.sparse.csr_matrix(dense.astype(np.float32))


def test_degrees_are_taken_out(matrix):
    dense = matrix.toarray().astype(np.float64)
    by_user, by_item = np.maximum(dense.sum(1), 1), np.maximum(dense.sum(0), 1)
    for power in (0.5, 0.25):
        expected = dense / by_user[:, None] ** power / np.sqrt(by_item)
        np.testing.assert_allclose(degree_normalised(matrix, power).toarray(), expected, rtol=1e-12)


@pytest.mark.parametrize("rank", [1, 40, 690])
def test_top_vectors_are_the_whole_decomposition_s(rank, matrix):
    normalised = degree_normalised(matrix)
    values, vectors = top_right_vectors(normalised, rank)
    _, expected, rows = np.linalg.svd(normalised.toarray(), full_matrices=False)
    np.testing.assert_allclose(values.numpy(), expected[:rank], rtol=2e-4, atol=1e-6)
    # Neighbouring values are close: what is compared is not vectors, but what their projector leaves of the matrix.
    left = normalised.toarray() @ (vectors @ vectors.T).double().numpy()
    assert np.linalg.norm(left) ** 2 == pytest.approx((expected[:rank] ** 2).sum(), rel=2e-4)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(rank), rtol=0, atol=1e-4)


def test_the_same_seed_gives_the_same_vectors(matrix):
    first, second = (top_right_vectors(degree_normalised(matrix), 30, seed=3)[1] for _ in range(2))
    assert torch.equal(first, second)


def test_a_matrix_of_low_rank_has_no_more_vectors():
    """Two blocks, as the checkerboard's: the space of 256 vectors that is searched is exhausted after two."""
    dense = np.kron(np.eye(2), np.ones((300, 250)))
    values, vectors = top_right_vectors(degree_normalised(scipy.sparse.csr_matrix(dense)), 5)
    torch.testing.assert_close(values, torch.tensor([1.0, 1, 0, 0, 0]), rtol=1e-5, atol=1e-3)
    expected = torch.kron(torch.eye(2), torch.full((250, 250), 1 / 250))
    torch.testing.assert_close(vectors @ vectors.T, expected, rtol=0, atol=1e-5)
