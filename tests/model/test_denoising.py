"""DiffuRec, ADRec, BBDRec and FMRec: one network, four processes."""

import math

import pytest
import torch
from contract import ModelContract, Prepared
from torch import nn

from recbole_diffusion.adapter.trainer import tracked
from recbole_diffusion.diffusion import keyed_noise
from recbole_diffusion.model.sequential_recommender.denoising import TransformerDenoiser
from recbole_diffusion.settings import SettingsError

SMALL = {
    "hidden_size": 32, "inner_size": 32, "n_layers": 2, "n_heads": 2, "steps": 8, "embedding_dropout_prob": 0.0,
    "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "train_batch_size": 256, "epochs": 12, "learning_rate": 0.005,
    "eval_step": 3, "stopping_step": 20,
}  # fmt: skip
PACKED = SMALL | {"n_layers": 1, "epochs": 30, "eval_step": 10, "train_batch_size": 128}
VARIANTS = [{}, {"sampler": "one_pass"}, {"sampler_steps": 3}, {"lambda_noise": 0.5}]


class TestDiffuRec(ModelContract):
    name = "DiffuRec"
    settings = SMALL
    variants = VARIANTS
    hit = 0.9


class TestDiffuRecAtEveryPosition(ModelContract):
    name = "DiffuRec"
    settings = PACKED | {"train_positions": "all"}
    variants = VARIANTS
    hit = 0.9


class TestADRec(ModelContract):
    name = "ADRec"
    settings = PACKED | {"n_encoder_layers": 1, "pretrain_epochs": 2, "frozen_epochs": 1}
    variants = VARIANTS
    hit = 0.9


class TestBBDRec(ModelContract):
    name = "BBDRec"
    settings = PACKED | {"n_encoder_layers": 1, "pretrain_epochs": 0, "frozen_epochs": 1, "steps": 4}
    variants = VARIANTS
    hit = 0.9


class TestFMRec(ModelContract):
    name = "FMRec"
    settings = SMALL | {"decoder_dims": [16]}
    variants = VARIANTS
    hit = 0.9


# ----------------------------------------------------------------------------------------------------- the network


def make(norm_first, weight=0.7, random_weight=False, n_layers=2):
    torch.manual_seed(0)
    denoiser = TransformerDenoiser(8, n_layers, 2, 16, 0.0, 0.0, "gelu", norm_first, weight, random_weight).double().eval()
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return denoiser


def torch_s_own(denoiser, norm_first):
    """The same layers as torch has them, as a second implementation."""
    layers = []
    for layer in denoiser.layers:
        own = nn.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", batch_first=True, norm_first=norm_first).double().eval()
        attention = layer.attention
        state = {
            "self_attn.in_proj_weight": torch.cat([attention.query.weight, attention.key_value.weight]),
            "self_attn.in_proj_bias": torch.cat([attention.query.bias, torch.zeros(16, dtype=torch.float64)]),
            "self_attn.out_proj.weight": attention.output.weight,
            "self_attn.out_proj.bias": attention.output.bias,
        }
        names = {"feed_forward.0": "linear1", "feed_forward.2": "linear2", "norm_1": "norm1", "norm_2": "norm2"}
        for ours, theirs in names.items():
            for part in ("weight", "bias"):
                state[f"{theirs}.{part}"] = layer.get_parameter(f"{ours}.{part}")
        own.load_state_dict(state)
        layers.append(own)
    return layers


def timed(denoiser, time):
    """tau(t) by hand: cosines and sines at the frequencies 10^(-4 i / 4), then the MLP."""
    angle = time[..., None] * torch.tensor([10 ** (-i) for i in range(4)], dtype=torch.float64)
    return denoiser.time_net(torch.cat([angle.cos(), angle.sin()], -1))


@pytest.mark.parametrize("norm_first", [False, True])
def test_the_network_is_torch_s_transformer_on_history_and_noisy_item(norm_first):
    denoiser = make(norm_first)
    history, x = torch.randn(3, 5, 8).double(), torch.randn(3, 8).double()
    time, length = torch.tensor([0.0, 250.0, 968.75]).double(), torch.tensor([5, 2, 1])
    z = history + 0.7 * (x + timed(denoiser, time))[:, None]
    padding = torch.arange(5) >= length[:, None]
    for layer in torch_s_own(denoiser, norm_first):
        z = layer(z, src_key_padding_mask=padding)
    expected = denoiser.output(z)[torch.arange(3), length - 1]
    torch.testing.assert_close(denoiser.last(history, x, time, length), expected)
    history[1, 2:] = 99.0
    torch.testing.assert_close(denoiser.last(history, x, time, length), expected)


@pytest.mark.parametrize("norm_first", [False, True])
def test_the_causal_network_is_torch_s_and_its_last_position_can_be_had_alone(norm_first):
    denoiser = make(norm_first)
    history, x, time = torch.randn(3, 5, 8).double(), torch.randn(3, 5, 8).double(), torch.rand(3, 5).double() * 1000
    z = history + 0.7 * (x + timed(denoiser, time))
    for layer in torch_s_own(denoiser, norm_first):
        z = layer(z, src_mask=nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64))
    expected = denoiser.output(z)
    torch.testing.assert_close(denoiser(history, x, time), expected)
    last, rows = torch.tensor([4, 1, 0]), torch.arange(3)
    anything = x.clone()
    anything[rows, last] = 99.0
    estimate = denoiser.prepare(history, anything, time, last)
    for _ in range(2):  # one step leaves nothing behind for the next
        torch.testing.assert_close(estimate(x[rows, last], time[rows, last]), expected[rows, last])


def test_diffurec_s_lambda_is_normal_about_its_mean_while_training():
    denoiser = make(True, weight=0.3, random_weight=True)
    history, x, time = torch.zeros(200, 50, 8).double(), torch.ones(200, 1, 8).double(), torch.zeros(200, 1).double()
    noisy = 1 + timed(denoiser, time)
    weight = denoiser.train().mix(history, x, time) / noisy
    assert weight.mean().item() == pytest.approx(0.3, abs=0.005) and weight.std().item() == pytest.approx(0.3, abs=0.005)
    torch.testing.assert_close(denoiser.eval().mix(history, x, time), 0.3 * noisy.expand_as(history))


# ------------------------------------------------------------------------------------------------------- the models

FMREC_ALL = {"train_positions": "all", "reconstruction_weight": 0.0}
CAUSAL = [("DiffuRec", {"train_positions": "all"}), ("FMRec", FMREC_ALL), ("ADRec", {}), ("BBDRec", {"bridge_variance": 2.0})]
MODELS = [("DiffuRec", {}), ("FMRec", {"decoder_dims": [8]}), *CAUSAL]


def prepared(name, more, folder):
    return Prepared(name, SMALL | {"epochs": 1} | more, folder)


def estimate_of(model, items, length):
    """x_0 estimated from x and code t, for whole histories in the plain way."""
    d, T = model.settings.hidden_size, model.settings.steps
    rows, last = torch.arange(len(items)), length - 1

    def estimate(x, t):
        state = model.encode(items)
        if not model.causal:
            return model.denoiser.last(state, x, model.clock(torch.full((len(x),), t)), length)
        following = model.item_embedding(torch.cat([items[:, 1:], torch.zeros_like(items[:, :1])], 1)).clone()
        following[rows, last] = x
        time = torch.zeros(items.shape, dtype=torch.long)
        time[rows, last] = t
        return model.denoiser(state, following, model.clock(time))[rows, last]

    assert d == model.items.shape[1] and T == model.process.n_steps
    return estimate


def reversed_by_hand(model, name, items, length):
    """The published reverse process from its equations, with the model's own noise."""
    estimate, T = estimate_of(model, items, length), model.settings.steps
    noise = keyed_noise(model.keys(items), model.noise_seed)
    state = model.encode(items)[torch.arange(len(items)), length - 1]
    if name in ("DiffuRec", "ADRec"):
        s = 1000 / T
        beta = torch.linspace(1e-4 * s + 0.01, min(0.02 * s + 0.01, 1.0) if 0.02 * s + 0.01 <= 1 else 0.001 * s + 0.01, T)
        abar = torch.cat([torch.ones(1), (1 - beta.double()).cumprod(0)])
        x = noise(state, 0)
        for k, t in enumerate(range(T, 0, -1)):  # the paper's t
            b, a, before = beta[t - 1].item(), abar[t].item(), abar[t - 1].item()
            mean = math.sqrt(before) * b / (1 - a) * estimate(x, t - 1) + math.sqrt(1 - b) * (1 - before) / (1 - a) * x
            x = mean + (math.sqrt(b * (1 - before) / (1 - a)) * noise(x, k + 1) if t > 1 else 0)
        return x
    if name == "FMRec":  # x + (x_0 - z) / T from x = z
        z = x = noise(state, 0)
        for t in range(T, 0, -1):
            x = x + (estimate(x, t - 1) - z) / T
        return x
    b = [0.0, *(1e-4 + (1 - 2e-4) * i / (T - 1) for i in range(T))]  # b_0 = 0 is clean data
    m, x = model.settings.bridge_variance, state
    for k, t in enumerate(range(T, 0, -1)):
        delta, before, g = m * b[t] * (1 - b[t]), m * b[t - 1] * (1 - b[t - 1]), (1 - b[t]) / (1 - b[t - 1])
        D = delta - before * g**2
        end = b[t - 1] - b[t] * g * before / delta
        mean = before / delta * g * x + D / delta * (1 - b[t - 1]) * estimate(x, t - 1) + end * state
        x = mean + math.sqrt(D * before / delta) * noise(x, k + 1)
    return x


@pytest.mark.parametrize(("name", "more"), MODELS)
def test_the_loop_is_the_published_reverse_process(name, more, tmp_path):
    run = prepared(name, more | {"lambda_noise": 0.5}, tmp_path)
    model, batch = run.model.eval(), run.batch()
    length = batch["item_length"] - torch.arange(len(batch)) % 3
    items = batch["item_id_list"] * (torch.arange(batch["item_id_list"].shape[1]) < length[:, None])
    batch.update(type(batch)({"item_id_list": items, "item_length": length}))
    with torch.no_grad():
        expected = reversed_by_hand(model, name, items[:, : int(length.max())], length)
        torch.testing.assert_close(model.query(batch), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "more"), MODELS)
def test_one_pass_differs_by_the_order_of_lambda_and_by_nothing_at_0(name, more, tmp_path):
    found = {}
    for weight in (0.0, 1e-4, 1e-3):
        model = prepared(name, more | {"lambda_noise": weight}, tmp_path / str(weight)).model
        found[weight] = model.diagnostics()
        assert model.training
    rounding = 1e-5 if name == "FMRec" else 0  # which takes the mean of all estimates
    assert found[0.0]["one_pass_score_difference"] <= rounding * found[0.0]["score_spread"]
    assert found[0.0]["one_pass_same_top10"] == 1
    ratio = found[1e-3]["one_pass_score_difference"] / found[1e-4]["one_pass_score_difference"]
    assert ratio == pytest.approx(10, rel=0.3)
    assert found[1e-3]["score_spread"] > 0.1


@pytest.mark.parametrize(("name", "more"), MODELS)
def test_an_empty_history_and_a_history_of_one_have_scores(name, more, tmp_path):
    run = prepared(name, more, tmp_path)
    batch = run.batch()[[0, 1]]
    batch["item_id_list"][0] = 0
    batch["item_length"][0] = 0
    assert run.model.eval().full_sort_predict(batch)[:, 1:].isfinite().all()
    batch["item_id_list"][:, 1:] = 0
    batch["item_length"][:] = torch.tensor([0, 1])
    assert run.model.full_sort_predict(batch)[:, 1:].isfinite().all()


# ------------------------------------------------------------------------------------------------------------ FMRec


def test_fmrec_s_times_are_mode_samples(tmp_path):
    """The quantile at u of the mode sampler is its value there, for it falls in u: 2 - 2u - cos^2(pi u / 2) at s = 1."""
    model = prepared("FMRec", {"decoder_dims": [8]}, tmp_path).model
    time = 1 - model.draw_times((200_000,)).double()
    assert time.min() == pytest.approx(1e-3, abs=1e-6) and time.max() <= 1
    for u in (0.1, 0.3, 0.5, 0.9):
        quantile = 2 - 2 * u - math.cos(math.pi * u / 2) ** 2
        assert (time > quantile).double().mean().item() == pytest.approx(u, abs=0.005)
    assert model.clock(torch.tensor([7, 3, 0])).tolist() == pytest.approx([0, 999 / 2, 999 * 7 / 8])
    assert model.clock(torch.tensor([1.0, 0.25])).tolist() == pytest.approx([0, 999 * 0.75])


def test_fmrec_s_loss_row_by_row(tmp_path):
    model = prepared("FMRec", {"decoder_dims": [8], "ce_weight": 0.3}, tmp_path).model
    torch.manual_seed(1)
    estimate, target, items = torch.randn(2, 32), torch.tensor([3, 1]), torch.tensor([[2, 2, 5], [7, 0, 0]])
    x_0 = model.item_embedding(target)
    nll = [-(e @ model.items.T).log_softmax(0)[y] for e, y in zip(estimate, target, strict=True)]
    expected = ((estimate - x_0) ** 2).sum() / 64 + 0.3 * sum(nll) / 2
    torch.testing.assert_close(model.denoising_loss(estimate, target, x_0, torch.arange(2), 2), expected)
    output = model.decoder(estimate)
    rows = []
    for row, has in enumerate(({2, 5}, {7})):
        inside = [(output[row, i] - 1) ** 2 for i in has]
        outside = [output[row, i] ** 2 for i in range(1, model.n_items) if i not in has]
        rows.append((sum(inside) / len(inside) + sum(outside) / len(outside)) / 2)
    torch.testing.assert_close(model.reconstruction_error(estimate, items), sum(rows) / 2)


def test_fmrec_does_not_reconstruct_at_every_position(tmp_path):
    with pytest.raises(SettingsError, match="reconstruction_weight = 0.4: must be 0 with train_positions = 'all'"):
        prepared("FMRec", {"train_positions": "all"}, tmp_path)


# ------------------------------------------------------------------------------------------------------- the stages


def test_each_stage_moves_what_it_should(tmp_path):
    run = prepared("ADRec", {"pretrain_epochs": 1, "frozen_epochs": 1, "epochs": 3}, tmp_path)
    model = run.model.train()

    def weights():
        parts = {"items": model.item_embedding.parameters(), "encoder": model.encoder.parameters()}
        parts["denoiser"] = model.denoiser.parameters()
        return {name: torch.cat([p.detach().flatten() for p in part]).clone() for name, part in parts.items()}

    for epoch, moves in enumerate(({"items", "encoder"}, {"encoder", "denoiser"}, {"items", "encoder", "denoiser"})):
        before = weights()
        run.trainer._train_epoch(run.train, epoch)
        assert {name for name, value in weights().items() if not torch.equal(value, before[name])} == moves, epoch


def test_pre_training_leaves_the_item_embeddings_and_nothing_else(tmp_path):
    model = prepared("BBDRec", {"pretrain_epochs": 2, "frozen_epochs": 3}, tmp_path).model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    begins = [model.begin_epoch(epoch) for epoch in range(7)]
    assert begins == [False, False, True, False, False, True, False]
    assert (model.item_embedding.weight == 7).all()
    assert not any((parameter == 7).any() for parameter in (*model.encoder.parameters(), *model.history_input.parameters()))
    assert model.fine_tunes and (model.begin_epoch(4), model.fine_tunes) == (False, False)


def test_only_fine_tuned_epochs_are_selected_from(tmp_path):
    settings = {"pretrain_epochs": 2, "frozen_epochs": 2, "epochs": 6, "eval_step": 1, "stopping_step": 1}
    settings |= {"learning_rate": 1e-12}
    run = prepared("BBDRec", settings, tmp_path)
    trainer = tracked(type(run.trainer))(run.config, run.model)
    trainer.fit(run.train, run.valid, verbose=False)
    assert [("valid_score" in entry) for entry in trainer.curve] == [False] * 4 + [True] * 2
    assert trainer.best_valid_score == trainer.curve[-1]["valid_score"]


def test_the_loss_is_cross_entropy_and_a_squared_error_averaged_by_rows(tmp_path):
    model = prepared("ADRec", {"loss_scale": 0.3}, tmp_path).model
    torch.manual_seed(1)
    estimate, target, row = torch.randn(5, 32), torch.tensor([3, 1, 4, 1, 5]), torch.tensor([0, 0, 0, 2, 2])
    x_0 = model.item_embedding(target)
    errors = [((e - x) ** 2).mean() for e, x in zip(estimate, x_0, strict=True)]
    of_rows = [(errors[0] + errors[1] + errors[2]) / 3, torch.tensor(0.0), (errors[3] + errors[4]) / 2]
    nll = [-(e @ model.items.T).log_softmax(0)[y] for e, y in zip(estimate, target, strict=True)]
    expected = sum(nll) / 5 + 0.3 * sum(of_rows) / 3
    torch.testing.assert_close(model.denoising_loss(estimate, target, x_0, row, 3), expected)
    expected.backward()
    assert model.item_embedding.weight.grad[5].norm() > 0  # the target is moved by both


def test_targets_alone_are_noisy(tmp_path):
    """What stands at the other positions is the clean next item at the least time, in training as in scoring."""
    run = prepared("ADRec", {"lambda_noise": 1.0}, tmp_path)
    model, seen = run.model, {}
    model.denoiser.forward = lambda state, x, time: seen.update(x=x, time=time) or state
    items, targets = torch.tensor([[3, 4, 5], [6, 7, 0]]), torch.tensor([[0, 5, 9], [0, 8, 0]])
    model._loss_at_positions(items, targets)
    clean = model.item_embedding(torch.tensor([[4, 5, 9], [7, 8, 0]]))
    same = (seen["x"] == clean).all(-1)
    assert same.tolist() == [[True, False, False], [True, False, True]]
    assert (seen["time"][same] == 0).all()
