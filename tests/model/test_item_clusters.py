import re

import numpy as np
import pytest
import scipy.sparse

from recbole_diffusion.model.item_clusters import cluster, read_embeddings, svd_embeddings
from recbole_diffusion.settings import SettingsError


def test_svd_embeddings_are_the_best_approximation():
    """Eckart and Young: what is left of N is the singular values behind the rank; inner products are those of N_d."""
    matrix = (np.random.default_rng(3).random((9, 7)) < 0.5).astype(float)
    normalised = matrix / np.sqrt(matrix.sum(1, keepdims=True)) / np.sqrt(matrix.sum(0, keepdims=True))
    u, singular, vt = np.linalg.svd(normalised, full_matrices=False)
    best = (u[:, :3] * singular[:3]) @ vt[:3]
    points = svd_embeddings(scipy.sparse.csr_matrix(matrix), 3, seed=5)
    np.testing.assert_allclose(points @ points.T, best.T @ best, atol=1e-10)
    basis = points / np.linalg.norm(points, axis=0)
    left = np.linalg.norm(normalised - normalised @ basis @ basis.T)
    np.testing.assert_allclose(left, np.sqrt(np.square(singular[3:]).sum()), rtol=1e-8)
    np.testing.assert_array_equal(points, svd_embeddings(scipy.sparse.csr_matrix(matrix), 3, seed=5))


def test_rank_is_cut_and_empty_items_are_zero():
    matrix = scipy.sparse.csr_matrix(np.array([[1, 0, 1, 0], [1, 1, 0, 0], [0, 1, 1, 0]]))
    points = svd_embeddings(matrix, 64, seed=0)
    assert points.shape == (4, 2) and not points[3].any()
    assert svd_embeddings(matrix[:1], 64, seed=0).shape == (4, 1)


def test_clusters_are_found_whatever_the_seed():
    random = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [5, 30, 10])
    points = np.array([[0, 0], [9, 0], [0, 9]])[truth] + random.normal(0, 0.1, (45, 2))
    for seed in range(5):
        np.testing.assert_array_equal(cluster(points, 3, seed), truth)
    shuffled = random.permutation(45)
    labels = cluster(points[shuffled], 3, 0)
    assert len({*zip(labels.tolist(), truth[shuffled].tolist(), strict=True)}) == 3
    assert not cluster(points, 1, 0).any()


def test_clusters_are_repeatable():
    points = np.random.default_rng(0).normal(size=(60, 3))
    np.testing.assert_array_equal(cluster(points, 7, 4), cluster(points, 7, 4))
    assert len(np.unique(cluster(points, 7, 4))) == 7


def test_too_few_distinct_points():
    message = r"n_cate = 3: k-means needs at least as many items as clusters \(got 2 distinct items, 3 clusters\)"
    with pytest.raises(SettingsError, match=message):
        cluster(np.repeat([[0.0], [1.0]], 5, axis=0), 3, seed=0)


def test_embeddings_go_by_the_items_own_ids(tmp_path):
    values = np.arange(8.0).reshape(4, 2)
    np.savez(tmp_path / "named.npz", item_id=np.array(["b", "x", "a", "c"]), embedding=values.astype(np.float32))
    np.testing.assert_array_equal(read_embeddings(tmp_path / "named.npz", ["a", "c", "b"]), values[[2, 3, 0]])
    np.save(tmp_path / "rows.npy", values)
    np.testing.assert_array_equal(read_embeddings(tmp_path / "rows.npy", ["3", "0"]), values[[3, 0]])
    np.savez(tmp_path / "numbers.npz", item_id=np.array([30, 10]), embedding=values[:2])
    np.testing.assert_array_equal(read_embeddings(tmp_path / "numbers.npz", ["10", "30"]), values[[1, 0]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"item_id": ["a"], "embedding": [[1.0]]}, "must hold every item, lacks 1 of 2, 'b' among them"),
        ({"item_id": ["a", "b"], "embedding": [1.0, 2.0]}, "must be [items, dimensions] for 2 ids, has shape [2]"),
        ({"item_id": ["a", "b"], "embedding": [[1.0]]}, "must be [items, dimensions] for 2 ids, has shape [1, 1]"),
        ({"item_id": ["a", "b", "a"], "embedding": [[1.0]] * 3}, "names an item more than once"),
        ({"item_id": ["a", "b"], "embedding": [[1.0], [np.nan]]}, "holds numbers that are not finite"),
        ({"item_id": ["a", "b"], "embedding": np.array([[1], [None]])}, "Object arrays cannot be loaded"),
        ({"items": ["a", "b"]}, "must be a .npz with item_id and embedding"),
    ],
)
def test_bad_files_are_one_clear_line(content, message, tmp_path):
    np.savez(tmp_path / "bad.npz", **content)
    with pytest.raises(SettingsError, match=re.escape(message)) as error:
        read_embeddings(tmp_path / "bad.npz", ["a", "b"])
    assert str(error.value).startswith("item_embeddings = ") and "\n" not in str(error.value)


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(SettingsError, match="nosuch.npy"):
        read_embeddings(tmp_path / "nosuch.npy", ["0"])
    (tmp_path / "text.npy").write_text("1 2 3\n")
    (tmp_path / "empty.npz").write_bytes(b"")
    for name in ("text.npy", "empty.npz"):
        with pytest.raises(SettingsError, match=name):
            read_embeddings(tmp_path / name, ["0"])
    np.save(tmp_path / "number.npy", np.float64(3))
    with pytest.raises(SettingsError, match="number.npy"):
        read_embeddings(tmp_path / "number.npy", ["0"])
