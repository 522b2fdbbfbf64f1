import numpy as np
import pytest
import scipy.sparse
import torch

from recbole_diffusion.model.coverage import gini, item_coverage
from recbole_diffusion.model.interaction_rows import InteractionRows


class Table(torch.nn.Module):
    USER_ID = "user_id"

    def __init__(self, scores):
        super().__init__()
        self.scores = scores

    def full_sort_predict(self, interaction):
        assert not self.training
        return self.scores[interaction["user_id"]].clone()


def test_coverage_equals_a_count_by_hand():
    generator = torch.Generator().manual_seed(0)
    own = torch.rand(30, 25, generator=generator) < 0.3
    own[0] = own[7] = False  # padding, and a user without history: not asked
    own[9] = torch.arange(25) >= 2  # fewer than k items are left for this one
    scores = torch.randn(30, 26, generator=generator)
    counts = np.zeros(25)
    for user in range(30):
        if own[user].any():
            ranked = sorted(range(25), key=lambda j, user=user: -scores[user, j + 1])
            for j in [j for j in ranked if not own[user, j]][:3]:
                counts[j] += 1
    model = Table(scores)
    rows = InteractionRows(scipy.sparse.csr_matrix(own.numpy().astype(np.float32)))
    result = item_coverage(model, rows, k=3, batch_size=8)
    by_pairs = np.abs(counts[:, None] - counts[None]).mean() / (2 * counts.mean())
    assert result == {"item_coverage@3": (counts > 0).mean(), "item_gini@3": pytest.approx(by_pairs)}
    assert model.training


def test_a_collapsed_model_shows():
    rows = InteractionRows(scipy.sparse.csr_matrix(np.eye(50, 200, dtype=np.float32)))
    same = Table(torch.arange(201.0).repeat(50, 1))
    spread = Table(torch.rand(50, 201, generator=torch.Generator().manual_seed(0)))
    assert item_coverage(same, rows) == {"item_coverage@10": 10 / 200, "item_gini@10": pytest.approx(0.95)}
    assert item_coverage(spread, rows)["item_coverage@10"] > 0.85


@pytest.mark.parametrize(("counts", "expected"), [([2, 2, 2], 0), ([0, 0, 3], 2 / 3), ([0, 0], 0), ([1, 3], 0.25)])
def test_gini(counts, expected):
    assert gini(torch.tensor(counts)) == pytest.approx(expected)
