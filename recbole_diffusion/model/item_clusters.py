"""Groups of similar items: k-means over item embeddings that the user brings, or that a truncated SVD makes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD

from recbole_diffusion.model.item_filter import degree_normalised
from recbole_diffusion.settings import SettingsError


def svd_embeddings(matrix: scipy.sparse.csr_matrix, rank: int, seed: int) -> np.ndarray:
    """Item embeddings from the truncated SVD of the degree-normalised interaction matrix.

    With N = D_u^(-1/2) R D_i^(-1/2) and N ~ U S V^T its best approximation of this rank, the embeddings are V S: their inner
    products are the best approximation of N^T N, the normalised co-occurrence of items.

    Args:
        matrix: R, ``[n_users, n_items]``, 0/1.
        rank: number of singular vectors, at least 1; cut to ``min(n_users, n_items) - 1``, the most that ARPACK finds.
        seed: of ARPACK's start vector.

    Returns:
        float64 ``[n_items, rank]``; zero rows for items without interactions.
    """
    normalised = degree_normalised(matrix)
    smaller = min(matrix.shape)
    if smaller == 1:  # a single user or item: the matrix is its own factor, and ARPACK needs two of each
        return normalised.T.toarray()[:, :1]
    svd = TruncatedSVD(min(rank, smaller - 1), algorithm="arpack", random_state=seed).fit(normalised)
    return svd.components_.T * svd.singular_values_


def read_embeddings(file: str | Path, tokens: Sequence[str]) -> np.ndarray:
    """Reads item embeddings and puts them into the data set's order.

    Two kinds of files, neither of which can hold a pickle:

    * ``.npz`` with the arrays ``item_id`` ``[n]``, the items' ids as the data set's files have them (text or numbers), and
      ``embedding`` ``[n, d]``;
    * ``.npy`` ``[n, d]``, for data sets whose ids are numbers: row r is the item with id r. The authors' ``item_emb.npy``
      is one, for the data sets that ``recbole-diffusion convert`` makes.

    Args:
        file: the file; rows of items that the data set does not have are skipped.
        tokens: the items' ids in the order wanted.

    Returns:
        float64 ``[len(tokens), d]``.

    Raises:
        SettingsError: cannot be read, another shape, numbers that are not finite, or an item without an embedding.
    """
    try:
        content = np.load(file, allow_pickle=False)
        if hasattr(content, "files"):
            with content:
                ids, values = [str(token) for token in content["item_id"].tolist()], content["embedding"]
        else:
            values = content
            ids = [str(row) for row in range(len(values))]
        values = np.asarray(values, dtype=np.float64)
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        why = " ".join(str(error).split())
        raise _refused(file, f"must be a .npz with item_id and embedding, or a .npy ({why})") from error
    if values.ndim != 2 or not values.shape[1] or len(values) != len(ids):
        raise _refused(file, f"must be [items, dimensions] for {len(ids)} ids, has shape {list(values.shape)}")
    row = {token: index for index, token in enumerate(ids)}
    if len(row) < len(ids):
        raise _refused(file, "names an item more than once")
    missing = [token for token in tokens if token not in row]
    if missing:
        raise _refused(file, f"must hold every item, lacks {len(missing)} of {len(tokens)}, {missing[0]!r} among them")
    values = values[[row[token] for token in tokens]]
    if not np.isfinite(values).all():
        raise _refused(file, "holds numbers that are not finite")
    return values


def _refused(file: Any, why: str) -> SettingsError:
    return SettingsError(f"item_embeddings = {str(file)!r}: {why}")


def cluster(points: np.ndarray, n: int, seed: int) -> np.ndarray:
    """k-means (Lloyd), the best of ten k-means++ starts (Arthur and Vassilvitskii 2007); clusters go by their first point.

    Args:
        points: ``[n_points, d]``.
        n: how many clusters, none of them empty.
        seed: of the starts.

    Returns:
        int64 ``[n_points]``, the cluster of each point.

    Raises:
        SettingsError: fewer distinct points than clusters.
    """
    distinct = len(np.unique(points, axis=0))
    if distinct < n:
        raise SettingsError(
            f"n_cate = {n}: k-means needs at least as many items as clusters (got {distinct} distinct items, {n} clusters)"
        )
    labels = KMeans(n, n_init=10, random_state=seed).fit_predict(points)
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)
