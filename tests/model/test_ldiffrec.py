import numpy as np
import pytest
import torch
from contract import ModelContract, Prepared
from recbole.utils import get_trainer

from recbole_diffusion import load_data_and_model
from recbole_diffusion.adapter.trainer import tracked
from recbole_diffusion.model.general_recommender.category_vae import CategoryVAE, gaussian_kl, multinomial_nll, shares
from recbole_diffusion.settings import SettingsError

FAST = {"n_cate": 2, "in_dims": [16], "dims_dnn": [16], "steps": 5, "dropout": 0.1, "svd_rank": 4, "train_batch_size": 8,
        "epochs": 60, "learning_rate": 0.01, "denoiser_learning_rate": 0.005, "vae_anneal_cap": 0.05,
        "eval_step": 5, "stopping_step": 20}  # fmt: skip
CATEGORY = torch.tensor([1, 0, 1, 1, 2, 0, 1])


class TestLDiffRec(ModelContract):
    name = "LDiffRec"
    settings = FAST
    variants = [{}, {"sampler": "ancestral"}, {"sampling_noise": True}, {"sampling_steps": 3},
                {"sampling_steps": 3, "sampling_noise": True, "sampler": "ancestral"}]  # fmt: skip

    def test_exact_scores_are_the_plain_loop_s(self, scored):
        batch = scored.batch()
        plain = self.with_variant(scored, {"sampler": "ancestral"}).full_sort_predict(batch)
        torch.testing.assert_close(scored.model.full_sort_predict(batch), plain, rtol=1e-5, atol=1e-5)

    def test_categories_are_the_two_parities(self, scored):
        """The checkerboard has two kinds of items, even and odd, and the SVD tells them apart."""
        tokens = scored.train._dataset.id2token("item_id", np.arange(1, 41)).astype(int)
        category = scored.model.autoencoder.category.numpy()
        assert {len(set(category[tokens % 2 == parity])) for parity in (0, 1)} == {1} and category.sum() == 20


class TestLDiffRecOfOneCategory(ModelContract):
    name = "LDiffRec"
    settings = FAST | {"n_cate": 1, "in_dims": [12, 16], "out_dims": [16]}


class TestLDiffRecWithDeepDecoders(ModelContract):
    name = "LDiffRec"
    settings = FAST | {"n_cate": 3, "out_dims": [24], "in_dims": [12, 24], "reparam": False, "epochs": 100}


class TestTDiffRec(ModelContract):
    name = "TDiffRec"
    settings = {key: FAST[key] for key in FAST if key in ("steps", "train_batch_size", "epochs", "learning_rate", "eval_step",
                "stopping_step")} | {"dims_dnn": [16], "dropout": 0.2}  # fmt: skip


class TestLTDiffRec(ModelContract):
    name = "LTDiffRec"
    settings = FAST


# ------------------------------------------------------------------------------------------------- the loss's terms


def test_the_kl_is_torch_s():
    mean, log_var = torch.randn(4, 3, dtype=torch.double), torch.randn(4, 3, dtype=torch.double)
    q = torch.distributions.Normal(mean, torch.exp(log_var / 2))
    p = torch.distributions.Normal(torch.zeros_like(mean), 1.0)
    torch.testing.assert_close(gaussian_kl(mean, log_var), torch.distributions.kl_divergence(q, p).sum(1))


def test_the_multinomial_term_by_brute_force():
    logits, x = torch.randn(3, 5, dtype=torch.double), torch.rand(3, 5, dtype=torch.double)
    expected = []
    for row, weights in zip(logits.tolist(), x.tolist(), strict=True):
        total = sum(np.exp(value) for value in row)
        expected.append(-sum(weight * np.log(np.exp(value) / total) for value, weight in zip(row, weights, strict=True)))
    torch.testing.assert_close(multinomial_nll(logits, x), torch.tensor(expected, dtype=torch.double))


def test_the_loss_is_put_together_from_its_terms(tmp_path, monkeypatch):
    """Deterministic parts and a fixed diffusion loss: likelihood + beta KL + lambda diffusion, at the 3rd update."""
    plain = {"dropout": 0.0, "ae_dropout": 0.0, "reparam": False}
    anneal = {"lamda": 0.5, "anneal_cap": 0.1, "anneal_steps": 10, "vae_anneal_cap": 0.3, "vae_anneal_steps": 8}
    run = Prepared("LDiffRec", FAST | plain | anneal, tmp_path)
    model, batch = run.model.train(), next(iter(run.train))
    monkeypatch.setattr(model, "_diffuse", lambda z: (torch.tensor(7.0), None, None, 2 * z))
    losses = [model.calculate_loss(batch).item() for _ in range(12)]
    x = model.autoencoder.ordered(model.rows.dense(batch["user_id"]))
    mean, log_var = model.autoencoder.encode(x)
    nll = -(model.autoencoder.decode(2 * mean).log_softmax(1) * x).sum(1).mean().item()
    kl = gaussian_kl(mean, log_var).mean().item()
    assert kl > 0.01
    for update, beta, lamda in [(0, 0, 0.5), (2, 2 / 8, 0.4), (3, 0.3, 0.35), (11, 0.3, 0.1)]:
        assert losses[update] == pytest.approx(nll + beta * kl + lamda * 7, rel=1e-5), update


def test_a_predicted_eps_is_decoded_as_a_latent(tmp_path, monkeypatch):
    """A network that knows the noise: what is decoded is the latent itself."""
    run = Prepared("LDiffRec", FAST | {"mean_type": "eps", "noise_scale": 1.0, "noise_min": 0.5, "noise_max": 0.9}, tmp_path)
    model, latent, decoded = run.model.train(), [], []
    sample, decode = model.autoencoder.sample, model.autoencoder.decode
    monkeypatch.setattr(model.autoencoder, "sample", lambda *args: latent.append(sample(*args)) or latent[-1])
    monkeypatch.setattr(model.autoencoder, "decode", lambda z: decoded.append(z) or decode(z))
    monkeypatch.setattr(model.network, "forward", lambda z_t, t: model.process.eps_from_x0(z_t, t, latent[-1]))
    model.calculate_loss(next(iter(run.train)))
    torch.testing.assert_close(decoded[0], latent[0], rtol=1e-4, atol=1e-5)


# --------------------------------------------------------------------------------------------------- the autoencoder


def test_scores_come_back_in_the_right_columns():
    """A decoder whose logit of an item is the item's number in the data set."""
    for decoder in ([], [9]):
        vae = CategoryVAE(CATEGORY, [6], decoder)
        for parameter in vae.decoders.parameters():
            torch.nn.init.zeros_(parameter)
        biases = torch.cat([each.last.bias for each in vae.decoders])
        assert len(biases) == 7
        start = 0
        for each in vae.decoders:
            each.last.bias.data = vae.order[start : start + len(each.last.bias)].float()
            start += len(each.last.bias)
        logits = vae.restored(vae.decode(torch.randn(2, 6)))
        assert logits.tolist() == [list(range(7))] * 2


def test_permuted_categories_permute_nothing_else():
    """The same encoders under other numbers give the same latent blocks, and the same scores of the same items."""
    renamed = torch.tensor([2, 0, 1])[CATEGORY]  # category 0 becomes 2, 1 becomes 0, 2 becomes 1
    one, other = CategoryVAE(CATEGORY, [7], [9]).eval(), CategoryVAE(renamed, [7], [9]).eval()
    for category, name in enumerate([2, 0, 1]):
        other.encoders[name], other.decoders[name] = one.encoders[category], one.decoders[category]
    other.split = [one.split[category] for category in (1, 2, 0)]
    x = torch.rand(3, 7)
    scores = [vae.restored(vae.decode(vae.encode(vae.ordered(x))[0])) for vae in (one, other)]
    torch.testing.assert_close(*scores)
    assert not torch.equal(one.ordered(x), other.ordered(x))


def test_an_item_reaches_the_latents_of_its_category_only():
    vae = CategoryVAE(CATEGORY, [6], []).eval()
    x = torch.zeros(7, 7)
    moved = (vae.encode(vae.ordered(torch.eye(7)))[0] - vae.encode(vae.ordered(x))[0]).abs() > 0
    of_latent = torch.repeat_interleave(torch.arange(3), torch.tensor(vae.split))
    assert (moved == (CATEGORY[:, None] == of_latent)).all()


def test_one_category_keeps_the_order():
    vae = CategoryVAE(torch.zeros(5, dtype=torch.long), [3], [])
    x = torch.rand(2, 5)
    assert torch.equal(vae.ordered(x), x) and torch.equal(vae.restored(x), x)


def test_shares_add_up():
    assert shares(300, [10]) == [300]
    assert shares(10, [30, 10]) == [7, 3] and shares(3, [100, 1, 1]) == [1, 1, 1]
    assert sum(shares(301, [7, 11, 13])) == 301
    with pytest.raises(ValueError, match="width of 2 cannot be split among 3"):
        shares(2, [1, 1, 1])


def test_a_sampled_latent_has_the_stated_moments():
    vae = CategoryVAE(CATEGORY, [6], [])
    mean, log_var = torch.full((20000, 2), 1.5), torch.tensor([[0.0, 1.0]]).expand(20000, 2)
    z = vae.sample(mean, log_var)
    torch.testing.assert_close(z.mean(0), mean[0], atol=0.05, rtol=0)
    torch.testing.assert_close(z.var(0), log_var[0].exp(), atol=0.1, rtol=0)
    assert vae.eval().sample(mean, log_var) is mean


# --------------------------------------------------------------------------------------------- training and loading


@pytest.mark.parametrize("name", ["LDiffRec", "LTDiffRec"])
def test_two_learning_rates(name, tmp_path):
    run = Prepared(name, FAST | {"learning_rate": 0.01, "denoiser_learning_rate": 0.002, "weight_decay": 0.1}, tmp_path)
    trainer_class = get_trainer(run.config["MODEL_TYPE"], name)
    for build in (trainer_class, tracked(trainer_class)):
        optimizer = build(run.config, run.model).optimizer
        assert type(optimizer) is torch.optim.AdamW and [group["lr"] for group in optimizer.param_groups] == [0.01, 0.002]
        assert all(group["weight_decay"] == 0.1 for group in optimizer.param_groups)
        assert bool(optimizer.param_groups[1].get("fused")) == (build is not trainer_class)
        groups = [{id(p) for p in group["params"]} for group in optimizer.param_groups]
        assert groups[0] == {id(p) for p in run.model.autoencoder.parameters()}
        assert groups[0] | groups[1] == {id(p) for p in run.model.parameters()} and not groups[0] & groups[1]


def test_loading_takes_over_the_stored_categories(tmp_path):
    """Saved with embeddings that split the items 30 to 10, loaded where there is no such file."""
    ids = np.random.default_rng(0).permutation(40)
    np.savez(tmp_path / "items.npz", item_id=ids.astype(str), embedding=(ids[:, None] % 4 == 0).astype(float))
    run = Prepared("LDiffRec", FAST | {"epochs": 2, "item_embeddings": str(tmp_path / "items.npz")}, tmp_path).fit()
    tokens = run.train._dataset.id2token("item_id", np.arange(1, 41)).astype(int)
    category = run.model.autoencoder.category.numpy()
    assert set(category[tokens % 4 == 0]) != set(category[tokens % 4 != 0]) and sorted(np.bincount(category)) == [10, 30]
    scores = run.model.eval().full_sort_predict(run.batch())
    (tmp_path / "items.npz").unlink()
    with pytest.raises(SettingsError, match="items.npz"):
        load_data_and_model(run.trainer.saved_model_file)
    _, model, *_, test = load_data_and_model(run.trainer.saved_model_file, overrides={"item_embeddings": None})
    assert torch.equal(model.eval().full_sort_predict(next(iter(test))[0]), scores)


def test_time_weights_reach_the_latent_model(tmp_path):
    run = Prepared("LTDiffRec", FAST | {"w_min": 0.2}, tmp_path)
    batch, seen = next(iter(run.train)), []
    stock = run.model.autoencoder.encode
    run.model.autoencoder.encode = lambda x: (seen.append(x), stock(x))[1]
    run.model.calculate_loss(batch)
    run.model.full_sort_predict(batch)
    for x in seen:
        x = run.model.autoencoder.restored(x)
        values = torch.sort(x, descending=True).values[:, :18]
        assert torch.equal(x, run.model.rows.dense(batch["user_id"]))
        torch.testing.assert_close(values, torch.linspace(1.0, 0.2, 18).expand(len(x), 18))
    assert len(seen) == 2


def test_more_categories_than_width_are_refused(tmp_path):
    with pytest.raises(SettingsError, match="n_cate = 9: must be <= every width of in_dims and out_dims, 8"):
        Prepared("LDiffRec", FAST | {"n_cate": 9, "in_dims": [8]}, tmp_path)
