import numpy as np
import pytest
import torch
from contract import ModelContract, Prepared


class TestBSPM(ModelContract):
    name = "BSPM"
    settings = {"ideal_cutoff": 4}
    variants = [{}, {"form": "sparse"}, {"form": "sparse", "ideal_weight": 0.0}, {"merge": "late", "solver": "euler"}]
    closed_form = True

    def test_same_seed_same_result(self, tmp_path):
        """A closed form: any seed gives the same."""
        runs = [Prepared(self.name, self.settings | {"seed": seed}, tmp_path / str(seed)) for seed in (1, 2)]
        batch = runs[0].batch()
        assert torch.equal(*(run.model.full_sort_predict(batch) for run in runs))

    def test_faster_training_still_trains(self, tmp_path):
        """There is no training that could be faster: one pass, and the matrix is what it was."""
        run = Prepared(self.name, self.settings | {"enable_amp": True}, tmp_path)
        before = run.model.filter.matrix.clone()
        run.fit()
        assert list(run.trainer.train_loss_dict) == [0]
        assert torch.equal(run.model.filter.matrix, before)


def scores_by_integration(run, settings):
    """The model as its paper has it: vectors, matrices and a Runge-Kutta loop (3/8 rule), in numpy."""
    dataset = run.train._dataset
    R = np.zeros((dataset.user_num - 1, dataset.item_num - 1))
    R[dataset.inter_feat["user_id"].numpy() - 1, dataset.inter_feat["item_id"].numpy() - 1] = 1
    by_user, by_item = np.maximum(R.sum(1), 1), np.maximum(R.sum(0), 1)
    tilde = R / np.sqrt(by_user)[:, None] / np.sqrt(by_item)
    P = tilde.T @ tilde
    V = np.linalg.svd(tilde)[2][: settings["ideal_cutoff"]].T
    low = settings["ideal_weight"] * R @ np.diag(by_item**-0.5) @ V @ V.T @ np.diag(by_item**0.5)
    y = R @ P + (low if settings["merge"] == "early" else 0)
    h = settings["sharpening_time"] / settings["sharpening_steps"]
    for _ in range(settings["sharpening_steps"]):
        k1 = -y @ P
        k2 = -(y + h / 3 * k1) @ P
        k3 = -(y + h * (k2 - k1 / 3)) @ P
        k4 = -(y + h * (k1 - k2 + k3)) @ P
        y = y + (h * k1 if settings["solver"] == "euler" else h * (k1 + 3 * k2 + 3 * k3 + k4) / 8)
    return torch.from_numpy(y + (low if settings["merge"] == "late" else 0)).float()


@pytest.mark.parametrize("form", ["matrix", "sparse"])
@pytest.mark.parametrize("merge", ["early", "late"])
@pytest.mark.parametrize(
    ("time", "steps", "solver", "cutoff"),
    # Two of the checkerboard's singular values are 1, the third lies apart: a cutoff of 2 cuts no pair in two.
    [(2.5, 1, "rk4", 2), (2.2, 2, "rk4", 448), (1.2, 3, "euler", 2), (0.0, 1, "rk4", 2)],
)
def test_scores_are_the_integrated_equation_s(form, merge, time, steps, solver, cutoff, tmp_path):
    settings = {"merge": merge, "sharpening_time": time, "sharpening_steps": steps, "solver": solver, "ideal_weight": 0.4,
                "ideal_cutoff": cutoff, "form": form}  # fmt: skip
    run = Prepared("BSPM", settings, tmp_path)
    users = torch.arange(1, run.model.n_users)
    scores = run.model.full_sort_predict({"user_id": users})
    torch.testing.assert_close(scores[:, 1:], scores_by_integration(run, settings), rtol=1e-4, atol=1e-5)
