import numpy as np
import pytest
import torch
from contract import ModelContract, Prepared
from recbole.utils import get_trainer

from recbole_diffusion.adapter.trainer import tracked
from recbole_diffusion.model.interaction_rows import InteractionRows

FAST = {"dims_dnn": [16], "steps": 5, "dropout": 0.2, "train_batch_size": 8, "epochs": 60, "learning_rate": 0.01,
        "eval_step": 5, "stopping_step": 20}  # fmt: skip


class TestDiffRec(ModelContract):
    name = "DiffRec"
    settings = FAST
    variants = [{}, {"sampler": "ancestral"}, {"sampling_noise": True}, {"sampling_steps": 3},
                {"sampling_steps": 3, "sampling_noise": True, "sampler": "ancestral"}]  # fmt: skip

    def test_exact_scores_are_the_plain_loop_s(self, scored):
        batch = scored.batch()
        plain = self.with_variant(scored, {"sampler": "ancestral"}).full_sort_predict(batch)
        torch.testing.assert_close(scored.model.full_sort_predict(batch), plain, rtol=1e-5, atol=1e-5)


class TestDiffRecEps(ModelContract):
    name = "DiffRec"
    # A predicted eps tells nothing about x_0 where there is hardly any noise: DiffRec's default range is no place for it.
    settings = FAST | {"mean_type": "eps", "noise_scale": 1.0, "noise_min": 0.9, "noise_max": 0.99, "beta_fixed": False,
                       "steps": 2, "dims_dnn": [32], "dropout": 0.0, "epochs": 100}  # fmt: skip
    variants = [{}, {"sampler": "ancestral"}]
    hit = 0.8


class TestDiffRecWithoutNoise(ModelContract):
    name = "DiffRec"
    settings = FAST | {"noise_scale": 0.0}


class TestTimeAwareDiffRec(ModelContract):
    name = "DiffRec"
    settings = FAST | {"time-aware": True}


class TestNormalisedDiffRec(ModelContract):
    name = "DiffRec"
    settings = FAST | {"norm": True}


def test_the_loss_history_is_saved(tmp_path):
    run = Prepared("DiffRec", FAST | {"epochs": 3}, tmp_path).fit()
    stored = torch.load(run.trainer.saved_model_file, weights_only=True)["state_dict"]
    assert any(key.startswith("timesteps.") and value.abs().sum() > 0 for key, value in stored.items())


def test_the_padding_user_is_not_trained_on(tmp_path):
    run = Prepared("DiffRec", FAST, tmp_path)
    seen = torch.cat([batch["user_id"] for batch in run.train])
    assert sorted(seen.tolist()) == list(range(1, 41))


def test_eval_batch_size_counts_users(tmp_path):
    run = Prepared("DiffRec", FAST | {"eval_batch_size": 16}, tmp_path)
    assert [len(batch[0]) for batch in run.test] == [16, 16, 8]


@pytest.mark.parametrize("weights", [None, (0.1, 1.0)])
def test_rows_of_the_matrix(tmp_path, weights):
    dataset = Prepared("DiffRec", FAST, tmp_path).train._dataset
    rows = InteractionRows.from_dataset(dataset, weights)
    expected = np.zeros((dataset.user_num, dataset.item_num - 1), dtype=np.float32)
    times = dataset.inter_feat["timestamp"].numpy()
    for user in range(1, dataset.user_num):
        index = np.flatnonzero(dataset.inter_feat["user_id"].numpy() == user)
        index = index[np.argsort(times[index], kind="stable")]
        values = np.ones(len(index)) if weights is None else np.linspace(*weights, len(index))
        for position, value in zip(index, values, strict=True):
            expected[user, dataset.inter_feat["item_id"][position] - 1] = value
    users = torch.tensor([3, 0, 3, 40])
    np.testing.assert_allclose(rows.dense(users).numpy(), expected[users], rtol=1e-6)
    crow, col, val = rows.sparse(users)
    np.testing.assert_allclose(
        torch.sparse_csr_tensor(crow, col, val, (4, rows.n_items)).to_dense(), expected[users], rtol=1e-6
    )


def test_the_fused_optimiser_steps_like_the_plain_one(tmp_path):
    run = Prepared("DiffRec", FAST, tmp_path)
    trainer = tracked(get_trainer(run.config["MODEL_TYPE"], "DiffRec"))(run.config, run.model)
    assert type(trainer.optimizer) is torch.optim.AdamW and trainer.optimizer.defaults["fused"]
    copies = [p.detach().clone().requires_grad_() for p in run.model.parameters()]
    plain = torch.optim.AdamW(copies, lr=run.config["learning_rate"], weight_decay=run.config["weight_decay"])
    for _ in range(3):
        for copy, p in zip(copies, run.model.parameters(), strict=True):
            copy.grad = torch.randn_like(p)
            p.grad = copy.grad.clone()
        plain.step()
        trainer.optimizer.step()
    for copy, p in zip(copies, run.model.parameters(), strict=True):
        torch.testing.assert_close(p, copy, rtol=1e-5, atol=1e-7)


def test_score_rows_are_aligned(tmp_path):
    run = Prepared("DiffRec", FAST, tmp_path)
    scores = run.model.eval().full_sort_predict(next(iter(run.test))[0])
    assert scores.stride() == (48, 1) and scores.shape[1] == 41
    assert scores.view(-1, 41).shape == scores.shape  # as RecBole's trainer reads it
