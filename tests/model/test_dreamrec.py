import pytest
import torch
from contract import ModelContract, Prepared
from torch.nn.functional import cross_entropy

from recbole_diffusion.adapter.trainer.tracked import tracked
from recbole_diffusion.model.sequential_recommender.transformer import CausalTransformer

FAST = {
    "hidden_size": 32,
    "inner_size": 32,
    "guidance_scale": 0.5,
    "steps": 20,
    "beta_end": 0.3,
    "train_batch_size": 64,
    "epochs": 30,
    "learning_rate": 0.01,
    "eval_step": 5,
    "stopping_step": 20,
    "hidden_dropout_prob": 0.0,
    "attn_dropout_prob": 0.0,
}


class TestDreamRec(ModelContract):
    name = "DreamRec"
    settings = FAST
    variants = [{}, {"sampler": "mean"}, {"sampler": "ancestral"}, {"sampler": "ddim", "sampler_steps": 7},
                {"sampler": "dpmpp_2m", "sampler_steps": 7}, {"n_samples": 3}, {"guidance_scale": 0.0},
                {"ranking": "centred"}]  # fmt: skip
    hit = 0.9


class TestDreamRecTwoLayers(ModelContract):
    name = "DreamRec"
    settings = FAST | {"denoiser": "mlp2", "sampler_steps": 10, "n_layers": 2, "n_heads": 2, "epochs": 60}
    hit = 0.9


class TestDreamRecEps(ModelContract):
    name = "DreamRec"
    settings = FAST | {"mean_type": "eps", "guidance_scale": 1.0}
    hit = 0.5


@pytest.mark.parametrize(("mean_type", "target_gradient"), [("x0", False), ("x0", True), ("eps", True)])
def test_the_cross_entropy_is_that_of_the_estimated_embedding(mean_type, target_gradient, tmp_path):
    """Target by target from abar and a softmax; it moves the embeddings if the loss is to move the target."""
    settings = FAST | {"mean_type": mean_type, "uncond_prob": 0.0, "target_gradient": target_gradient}
    model = Prepared("DreamRec", settings, tmp_path / "a").model
    other = Prepared("DreamRec", settings | {"loss": "mse+ce"}, tmp_path / "b").model
    other.load_state_dict(model.state_dict())
    torch.manual_seed(0)
    cond, eps, target, t = torch.randn(3, 32), torch.randn(3, 32), torch.tensor([3, 1, 24]), torch.tensor([0, 7, 19])
    draws = cond, target, torch.zeros(3, 1, dtype=torch.bool), t, torch.ones(3), eps
    abar = (1 - torch.linspace(1e-4, 0.3, 20).double()).cumprod(0).float()
    expected = 0
    for row in range(3):
        a = abar[t[row]]
        x_t = a.sqrt() * model.item_embedding.weight[target[row]] + (1 - a).sqrt() * eps[row]
        output = model.network(x_t[None], cond[[row]], t[[row]])[0]
        estimate = output if mean_type == "x0" else (x_t - (1 - a).sqrt() * output) / a.sqrt()
        expected = expected - (estimate @ model.item_embedding.weight.T / 32**0.5).log_softmax(0)[target[row]] / 3
    loss = other.denoising_loss(*draws)
    torch.testing.assert_close(loss - model.denoising_loss(*draws), expected, rtol=1e-4, atol=1e-4)
    loss.backward()
    assert (other.item_embedding.weight.grad is not None) == target_gradient


def test_pre_training_moves_the_embeddings_and_leaves_the_encoder_as_it_was(tmp_path):
    """Its loss is torch's cross-entropy of the encoded histories; the denoiser has no part in it."""
    run = Prepared("DreamRec", FAST | {"pretrain_epochs": 2, "epochs": 3, "eval_step": 1}, tmp_path)
    model, batch = run.model, next(iter(run.train))
    encoder = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    before = model.item_embedding.weight.detach().clone()
    assert model.begin_epoch(0) is False and not model.fine_tunes
    cond, target, _ = model.positions(batch)
    loss = model.calculate_loss(batch)
    torch.testing.assert_close(loss, cross_entropy(cond @ model.item_embedding.weight.T / 32**0.5, target))
    loss.backward()
    assert all(weight.grad is None for weight in model.network.parameters())
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert any(not torch.equal(value, encoder[name]) for name, value in model.encoder.state_dict().items())
    assert [model.begin_epoch(epoch) for epoch in (1, 2)] == [False, True] and model.fine_tunes
    for name, value in model.encoder.state_dict().items():
        assert torch.equal(value, encoder[name])
    assert not torch.equal(model.item_embedding.weight, before)
    trainer = tracked(type(run.trainer))(run.config, model)
    trainer.fit(run.train, run.valid, verbose=False)
    assert ["valid_score" in entry for entry in trainer.curve] == [False, False, True]


@pytest.mark.parametrize("n_layers", [1, 2])
def test_padding_does_not_reach_the_condition(n_layers):
    torch.manual_seed(0)
    encoder = CausalTransformer(8, 6, n_layers=n_layers, n_heads=2).eval()
    embedded, length = torch.randn(3, 6, 8), torch.tensor([2, 6, 1])
    expected = encoder.last(embedded, length)
    embedded[0, 2:] = 99.0
    embedded[2, 1:] = -99.0
    torch.testing.assert_close(encoder.last(embedded, length), expected)
    torch.testing.assert_close(encoder.last(embedded[:1, :2], length[:1]), expected[:1])


def test_only_the_latest_items_are_read(tmp_path):
    model = Prepared("DreamRec", FAST | {"history_length": 3}, tmp_path).model
    history = torch.tensor([[1, 2, 3, 4, 5, 0], [1, 2, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6]])
    latest, length = model._latest({"item_id_list": history, "item_length": torch.tensor([5, 2, 0, 6])})
    assert latest.tolist() == [[3, 4, 5], [1, 2, 0], [0, 0, 0], [4, 5, 6]]
    assert length.tolist() == [3, 2, 0, 3]


def test_an_empty_history_has_scores(tmp_path):
    run = Prepared("DreamRec", FAST, tmp_path)
    batch = run.batch()
    batch["item_id_list"][0] = 0
    batch["item_length"][0] = 0
    scores = run.model.eval().full_sort_predict(batch)
    assert scores[:, 1:].isfinite().all()


@pytest.mark.parametrize("sampler", ["exact", "ancestral"])
def test_one_dimension_and_one_history(tmp_path, sampler):
    run = Prepared(
        "DreamRec", FAST | {"hidden_size": 1, "train_batch_size": 1, "epochs": 1, "sampler": sampler}, tmp_path
    )
    assert run.model.eval().full_sort_predict(run.batch()[[0]])[:, 1:].isfinite().all()
    run.model.train().calculate_loss(run.train._dataset[[0]]).backward()


def test_topk_is_the_head_of_the_full_ranking(tmp_path):
    run = Prepared("DreamRec", FAST, tmp_path)
    model, batch = run.model.eval(), run.batch()
    with torch.no_grad():
        expected = model.full_sort_predict(batch).topk(5)
    scores, items = model.topk(batch, 5)
    torch.testing.assert_close(scores, expected.values)
    assert torch.equal(items, expected.indices)


def test_compiling_changes_no_names(tmp_path):
    """A checkpoint of a compiled model is one of the model. (Compiling itself takes a minute on a CPU and is torch's.)"""
    plain = Prepared("DreamRec", FAST, tmp_path / "a").model
    compiled = Prepared("DreamRec", FAST | {"torch_compile": True}, tmp_path / "b").model
    assert compiled.network._compiled_call_impl is not None and plain.network._compiled_call_impl is None
    assert list(compiled.state_dict()) == list(plain.state_dict())


def test_centred_ranking_does_not_see_a_shift_of_all_embeddings(tmp_path):
    """(x - m) . (e - m) by hand, up to a constant of each row."""
    run = Prepared("DreamRec", FAST | {"ranking": "centred"}, tmp_path)
    model, batch = run.model.eval(), run.batch()
    scores = model.full_sort_predict(batch)[:, 1:]
    items = model.item_embedding.weight[1:]
    mean = items.mean(0)
    expected = (model.generate(batch) - mean) @ (items - mean).T
    difference = scores - expected
    torch.testing.assert_close(difference, difference[:, :1].expand_as(difference), rtol=0, atol=1e-4)
    top, _ = model.topk(batch, 5)
    torch.testing.assert_close(top, scores.topk(5).values)


def test_diagnostics_tell_a_collapse(tmp_path):
    model = Prepared("DreamRec", FAST, tmp_path).model
    n, d = model.n_items - 1, model.settings.hidden_size
    weight = model.item_embedding.weight.data
    weight[1:] = torch.eye(n, d)  # 24 orthogonal directions in 32
    spread = model.diagnostics()
    assert spread["effective_rank"] == pytest.approx(n) and spread["mean_cosine"] == pytest.approx(0, abs=1e-6)
    weight[1:] = 0.01 * torch.ones(n, d)
    collapsed = model.diagnostics()
    assert collapsed["effective_rank"] == pytest.approx(1) and collapsed["mean_cosine"] == pytest.approx(1)
    assert collapsed["median_norm"] == pytest.approx(0.01 * d**0.5, rel=1e-5)
    torch.manual_seed(0)
    weight[1:] = torch.randn(n, d)
    unit = torch.nn.functional.normalize(weight[1:].double())
    off_diagonal = (unit @ unit.T)[~torch.eye(n, dtype=torch.bool)]
    assert model.diagnostics()["mean_cosine"] == pytest.approx(float(off_diagonal.mean()), rel=1e-4)
