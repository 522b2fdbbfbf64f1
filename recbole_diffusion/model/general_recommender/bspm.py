"""BSPM: Choi et al., "Blurring-Sharpening Process Models for Collaborative Filtering", SIGIR 2023."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import scipy.sparse
import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType, ModelType
from torch import nn

from recbole_diffusion.diffusion.heat import Smooth, sharpen
from recbole_diffusion.model.interaction_rows import InteractionRows
from recbole_diffusion.model.item_filter import (
    DenseFilter,
    FactorFilter,
    SparseRows,
    degree_normalised,
    densified,
    top_right_vectors,
)
from recbole_diffusion.model.row_scorer import RowScorer
from recbole_diffusion.settings import Settings, setting

ORDERS = {"euler": 1, "rk4": 4}
MATRIX_ITEMS = 5_000  # up to so many items, the eigendecomposition takes a minute at most


@dataclasses.dataclass(frozen=True)
class BSPMSettings(Settings):
    """Types and ranges; meanings and defaults are in ``properties/model/BSPM.yaml``."""

    merge: str = setting(choices=("early", "late"))
    sharpening_time: float = setting(ge=0)
    sharpening_steps: int = setting(ge=1)
    solver: str = setting(choices=tuple(ORDERS))
    ideal_weight: float = setting(ge=0)
    ideal_cutoff: int = setting(ge=1)
    form: str = setting(choices=("auto", "matrix", "sparse"))


class BSPM(RowScorer, GeneralRecommender):
    """BSPM (SIGIR 2023): blurs and sharpens a user's row over the graph of items; not trained.

    With P = R~^T R~ for the degree-normalised matrix R~, its top K right singular vectors V and a row r: the blurred row is
    b = r P, the ideal low-pass one l = r D_i^(-1/2) V V^T D_i^(1/2), and S solves dy/dt = -y P for ``sharpening_time``.
    Early merge scores S(b + beta l), late merge S(b) + beta l. S is the same polynomial of P for any Runge-Kutta method of as
    many stages as its order (:func:`recbole_diffusion.diffusion.heat.sharpen`), so no solver runs. The scores have two forms:

    * ``matrix``: one eigendecomposition P = U diag(w) U^T gives V and every polynomial, hence the one item-item matrix that
      a row is multiplied with;
    * ``sparse``: products with R~ and its transpose, and a truncated SVD. No ``[items, items]`` matrix.

    ``auto`` takes the first up to 5,000 items.

    Departures from the paper: none known in the filters; the mean of blurred and sharpened rows that its code has for Yelp is
    left out. From the official code: it chooses by the data set's name what are settings here.
    """

    input_type = InputType.LISTWISE
    type = ModelType.TRADITIONAL
    settings_class = BSPMSettings

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        s = self.settings = self.settings_class.read(config)
        self.read_histories(dataset)
        matrix = s.form == "matrix" or (s.form == "auto" and self.n_items <= MATRIX_ITEMS)
        self.filter = (_matrix_form if matrix else _SparseForm)(self.rows.scipy(), s)
        self.dummy = nn.Parameter(torch.zeros(1))  # RecBole's trainer makes an optimiser

    def read_histories(self, dataset: Any) -> None:
        """Takes the users' rows from another part of the data (see :mod:`recbole_diffusion.adapter.eval_input`)."""
        self.rows = InteractionRows.from_dataset(dataset).to(self.device)

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """Zero: there is nothing to train."""
        return self.dummy.sum() * 0

    def score_rows(self, users: torch.Tensor, out: torch.Tensor) -> None:
        """Writes the users' scores; see :class:`recbole_diffusion.model.row_scorer.RowScorer`."""
        out[:] = self.filter.of_sparse(self.rows.sparse(users))


def _matrix_form(matrix: scipy.sparse.csr_matrix, settings: BSPMSettings) -> DenseFilter:
    """All of the model as one item-item matrix, by an eigendecomposition of P in float64."""
    factor = degree_normalised(matrix)
    blur = torch.from_numpy((factor.T @ factor).toarray(order="C"))
    values, vectors = torch.linalg.eigh(blur)
    sharpened = (vectors * _sharpen(torch.ones_like(values), lambda y: y * values, settings)) @ vectors.T
    if settings.ideal_weight == 0:
        return DenseFilter((blur @ sharpened).float())
    top, root = vectors[:, -settings.ideal_cutoff :], _root_degrees(matrix)
    low = settings.ideal_weight * (top / root[:, None]) @ (top * root[:, None]).T
    return DenseFilter(((blur + low) @ sharpened if settings.merge == "early" else blur @ sharpened + low).float())


class _SparseForm(nn.Module):
    """The same without an item-item matrix."""

    vectors: torch.Tensor
    root: torch.Tensor

    def __init__(self, matrix: scipy.sparse.csr_matrix, settings: BSPMSettings) -> None:
        super().__init__()
        factor = degree_normalised(matrix)
        self.settings, self.blur = settings, FactorFilter(factor)
        if settings.ideal_weight > 0:
            vectors = top_right_vectors(factor, settings.ideal_cutoff)[1]
            self.register_buffer("vectors", vectors, persistent=False)
            self.register_buffer("root", _root_degrees(matrix).float(), persistent=False)

    def of_sparse(self, rows: SparseRows) -> torch.Tensor:
        """Scores ``[B, n]`` of rows in CSR form."""
        x = densified(rows, self.blur.factor.shape[1])
        s, y = self.settings, self.blur(x)
        if s.ideal_weight == 0:
            return _sharpen(y, self.blur, s)
        low = (x / self.root) @ self.vectors @ self.vectors.T * (s.ideal_weight * self.root)
        return _sharpen(y + low, self.blur, s) if s.merge == "early" else _sharpen(y, self.blur, s) + low


def _sharpen(y: torch.Tensor, smooth: Smooth, settings: BSPMSettings) -> torch.Tensor:
    return sharpen(y, smooth, settings.sharpening_time, settings.sharpening_steps, ORDERS[settings.solver])


def _root_degrees(matrix: scipy.sparse.csr_matrix) -> torch.Tensor:
    """D_i^(1/2), float64 ``[n]``; 1 for items without interactions."""
    return torch.from_numpy(np.maximum(np.asarray(matrix.sum(0), dtype=np.float64).ravel(), 1.0)).sqrt()
