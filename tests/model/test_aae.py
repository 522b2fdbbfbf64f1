import copy
import math

import pytest
import torch
from contract import ModelContract, Prepared

FAST = {"hidden": [32], "latent_dimension": 8, "d_hidden": [16], "dropout": 0.2, "learning_rate": 0.01,
        "g_learning_rate": 0.001, "train_batch_size": 8, "epochs": 40, "eval_step": 5, "stopping_step": 20}  # fmt: skip


class TestAAE(ModelContract):
    name = "AAE"
    settings = FAST
    loss_falls = False


class TestBinaryAAE(ModelContract):
    name = "AAE"
    settings = FAST | {"reconstruction": "bce"}
    loss_falls = False


PHASES = {
    "reconstruction": {"encoder", "decoder"},
    "discriminator": {"discriminator"},
    "generator": {"encoder"},
}


def test_every_phase_moves_its_own_player_only(tmp_path):
    run = Prepared("AAE", FAST, tmp_path)
    number, moves = run.trainer.moves(run.train, 0)
    assert number == 15
    names = []
    for batch, move in enumerate(moves):
        before = copy.deepcopy(run.model.state_dict())
        run.trainer._make(move, 0, batch)
        moved = {name.split(".")[0] for name, value in run.model.state_dict().items() if not torch.equal(value, before[name])}
        assert moved == PHASES[move.name], move.name
        names.append(move.name)
    assert names == list(PHASES) * 5


@pytest.mark.parametrize("reconstruction", ["multinomial", "bce"])
def test_reconstruction_loss_equals_its_equation(reconstruction, tmp_path):
    model = Prepared("AAE", FAST | {"reconstruction": reconstruction}, tmp_path).model.eval()
    users, total = torch.tensor([1, 2, 39]), 0.0
    for user in users.tolist():
        x = model.rows.dense(torch.tensor([user]))
        logits = model.decoder(model.encoder(x / x.square().sum().sqrt()))[0].detach().double()
        for j in range(len(logits)):
            if reconstruction == "multinomial":
                total -= float(x[0, j]) * math.log(logits[j].exp() / logits.exp().sum())
            else:
                p = 1 / (1 + math.exp(-logits[j]))
                total -= math.log(p if x[0, j] else 1 - p)
    assert model.reconstruction_loss(users).item() == pytest.approx(total / 3, rel=1e-4)


def test_adversarial_losses_equal_their_equations(tmp_path, monkeypatch):
    model = Prepared("AAE", FAST | {"prior_std": 3.0}, tmp_path).model.eval()
    users = torch.arange(1, 9)
    prior = torch.randn(8, 8)
    monkeypatch.setattr(torch, "randn_like", lambda like: prior)
    with torch.no_grad():
        fake = model.discriminator(model._code(model.rows.dense(users))).sigmoid()
        real = model.discriminator(3 * prior).sigmoid()
        assert model.discriminator_loss(users).item() == pytest.approx(-(real.log() + (1 - fake).log()).mean().item(), rel=1e-4)
        assert model.generator_loss(users).item() == pytest.approx(-fake.log().mean().item(), rel=1e-4)


def test_the_game_makes_the_codes_gaussian(tmp_path):
    """Mean and spread of the codes come near the prior's; without the generator's moves they are far off."""
    off = []
    for rate in (0.003, 1e-12):
        run = Prepared("AAE", FAST | {"g_learning_rate": rate, "d_learning_rate": 0.003, "epochs": 60, "latent_dimension": 2,
                                      "hidden": [16], "dropout": 0.0, "prior_std": 0.3}, tmp_path / str(rate))  # fmt: skip
        run.trainer.fit(run.train, None, verbose=False, saved=False)
        with torch.no_grad():
            code = run.model.eval()._code(run.model.rows.dense(torch.arange(1, 41)))
        off.append(float((code.square().mean() - 0.09).abs()))
    assert off[0] < off[1] / 3
