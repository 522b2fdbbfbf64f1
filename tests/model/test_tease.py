import numpy as np
import pytest
import torch
from contract import ModelContract, Prepared
from recbole.model.general_recommender import EASE

from recbole_diffusion.model.interaction_rows import InteractionRows
from recbole_diffusion.settings import SettingsError


class TestTEASE(ModelContract):
    name = "TEASE"
    settings = {"reg_weight": 1.0}
    closed_form = True

    def test_same_seed_same_result(self, tmp_path):
        """A closed form: any seed gives the same."""
        runs = [Prepared(self.name, self.settings | {"seed": seed}, tmp_path / str(seed)) for seed in (1, 2)]
        batch = runs[0].batch()
        assert torch.equal(*(run.model.full_sort_predict(batch) for run in runs))

    def test_faster_training_still_trains(self, tmp_path):
        """There is no training that could be faster: one pass, and the weights are what they were."""
        run = Prepared(self.name, self.settings | {"enable_amp": True}, tmp_path)
        before = run.model.item_similarity.copy()
        run.fit()
        assert list(run.trainer.train_loss_dict) == [0]
        assert np.array_equal(run.model.item_similarity, before)


@pytest.fixture
def run(tmp_path):
    return Prepared("TEASE", {"reg_weight": 3.0, "w_min": 0.2, "w_max": 0.8}, tmp_path)


def test_scores_are_ridge_regressions_of_weighted_rows(run):
    """Each item regressed on all others over the 0/1 rows; the row that is then scored weighs its items in time order."""
    data = run.train._dataset.inter_feat
    users, items, times = (data[field].numpy() for field in ("user_id", "item_id", "timestamp"))
    X = np.zeros((run.model.n_users, run.model.n_items))
    X[users, items] = 1
    B = np.zeros((run.model.n_items,) * 2)
    for item in range(run.model.n_items):
        others = np.delete(np.arange(run.model.n_items), item)
        A = X[:, others]
        B[others, item] = np.linalg.solve(A.T @ A + 3.0 * np.eye(len(others)), A.T @ X[:, item])
    batch = run.batch()
    scores = run.model.full_sort_predict(batch)
    for row, user in enumerate(batch["user_id"].tolist()):
        own = items[users == user][np.argsort(times[users == user])]
        x = np.zeros(run.model.n_items)
        x[own] = np.linspace(0.2, 0.8, len(own))
        torch.testing.assert_close(scores[row, 1:], torch.from_numpy(x @ B)[1:].float(), rtol=1e-4, atol=1e-5)


def test_with_equal_weights_it_is_ease(run):
    run.config.final_config_dict |= {"w_min": 1.0, "w_max": 1.0}
    ours, stock = (cls(run.config, run.train._dataset).full_sort_predict(run.batch()) for cls in (type(run.model), EASE))
    assert torch.equal(ours[:, 1:], stock.view(ours.shape)[:, 1:])


def test_histories_of_another_part_are_weighted_alike(run):
    run.model.read_histories(run.valid._dataset)
    expected = InteractionRows.from_dataset(run.valid._dataset, (0.2, 0.8)).dense(torch.arange(run.model.n_users))
    assert np.array_equal(run.model.interaction_matrix.toarray()[:, 1:], expected.numpy())


def test_weights_out_of_order_are_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"w_min = 0.9: must be <= w_max = 0.1"):
        Prepared("TEASE", {"w_min": 0.9, "w_max": 0.1}, tmp_path)


@pytest.mark.parametrize("model", ["TEASE", "TDiffRec"])
def test_time_weights_need_a_time(model, tmp_path):
    with pytest.raises(SettingsError, match=r"TIME_FIELD = 'when': the data has no such field; time weights need it"):
        Prepared(model, {"TIME_FIELD": "when"}, tmp_path)
