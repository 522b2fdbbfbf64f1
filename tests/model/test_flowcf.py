import pytest
import torch
from contract import ModelContract, Prepared

from recbole_diffusion.settings import SettingsError

FAST = {"dims_dnn": [32, 32], "train_batch_size": 8, "epochs": 60, "learning_rate": 0.01, "eval_step": 5, "stopping_step": 20}


class TestFlowCF(ModelContract):
    name = "FlowCF"
    settings = FAST
    variants = [{}, {"sampling_steps": 1}, {"sampling_steps": 9}]

    def test_two_steps_are_one_pass_where_nothing_flips(self, scored):
        batch = scored.batch()
        one = self.with_variant(scored, {"sampling_steps": 1}).full_sort_predict(batch)
        two = scored.model.full_sort_predict(batch)
        assert two[:, 1:].max() <= 1.3  # so that a flip would be a rare thing
        same = torch.isclose(one, two).all(1)
        flipped = scored.model.diagnostics()["flips"]
        assert same.all() if flipped == 0 else (~same).sum() <= flipped


@pytest.fixture
def run(tmp_path):
    return Prepared("FlowCF", FAST, tmp_path)


def row_of_output(run, value):
    """Makes the network say ``value`` for every item of every user."""
    with torch.no_grad():
        run.model.network.output.weight.zero_()
        run.model.network.output.bias.fill_(value)


def test_flips_are_counted(run):
    """Above 1 every unobserved item of every user flips; at 1 none."""
    observed = len(run.model.rows.col)
    row_of_output(run, 1.0)
    assert run.model.diagnostics() == {"flips": 0, "flips_per_user": 0}
    row_of_output(run, 1.01)
    assert run.model.diagnostics() == {"flips": 40 * 40 - observed, "flips_per_user": 40 - observed / 40}


def test_the_sampler_is_the_paper_s(run):
    """X := X or [X + v / n > 1/2], v = (f - X) / (1 - s), for s = (n - k) / n upwards, written from the paper's time."""
    model, n = run.model.eval(), 9
    model.settings.__dict__["sampling_steps"] = 4  # frozen for users, not for this test
    with torch.no_grad():
        model.network.output.weight.mul_(20)  # so that outputs are large enough to flip
        users = torch.arange(1, 41)
        x = start = model.rows.dense(users)
        for i in range(n - 4, n):
            s = i / n
            f = model.network(x, torch.full((40,), s))
            if i == n - 1:
                break
            x = torch.maximum(x, (x + (f - x) / (1 - s) / n > 0.5).float())
        assert (x != start).any()
        torch.testing.assert_close(model.full_sort_predict({"user_id": users})[:, 1:], f)


def test_popularity_is_the_share_of_users(run):
    data = run.train._dataset.inter_feat
    for item in (1, 7, 40):
        share = len(set(data["user_id"][data["item_id"] == item].tolist())) / 40
        assert float(run.model.process.prior_prob[item - 1]) == pytest.approx(share)


def test_more_passes_than_steps_are_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"sampling_steps = 10: must be <= steps = 9"):
        Prepared("FlowCF", FAST | {"sampling_steps": 10}, tmp_path)
