import pytest
import torch
from contract import ModelContract, Prepared

from recbole_diffusion.adapter.trainer import tracked

FAST = {"embedding_size": 8, "pretrain_epochs": 30, "pretrain_learning_rate": 0.02, "pretrain_batch_size": 64,
        "policy_samples": 16, "d_batch_size": 64, "train_batch_size": 16, "epochs": 34, "eval_step": 2,
        "stopping_step": 20}  # fmt: skip


class TestIRGAN(ModelContract):
    name = "IRGAN"
    settings = FAST
    loss_falls = False


class TestIRGANWithoutPretraining(ModelContract):
    name = "IRGAN"
    settings = FAST | {"pretrain_epochs": 0, "learning_rate": 0.02, "d_learning_rate": 0.02, "epochs": 60, "g_steps": 4}
    loss_falls = False


@pytest.fixture
def model(tmp_path):
    """Scores that differ: at the start all are about 0."""
    model = Prepared("IRGAN", FAST | {"importance_mix": 0.3}, tmp_path).model
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return model


def test_the_policy_gradient_is_that_of_the_expected_reward(model):
    """Summed over the whole catalogue with the proposal's probabilities, the estimator equals the exact gradient."""
    users, parameters = torch.tensor([1, 5, 30]), list(model.generator.parameters())
    every = torch.arange(model.n_items - 1).expand(3, -1)
    with torch.no_grad():
        proposal = model.proposal(users)
        reward = 2 * torch.sigmoid(model.discriminator(users)) - 1
    torch.testing.assert_close(proposal.sum(1), torch.ones(3))
    assert (proposal[model.rows.dense(users) > 0] >= 0.3 / 20).all()
    estimator = torch.autograd.grad((proposal * model.policy_loss(users, every)).sum(), parameters)
    exact = torch.autograd.grad(-(model.generator(users).softmax(1) * reward).sum(), parameters)
    for mine, theirs in zip(estimator, exact, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_the_generator_s_loss_is_drawn_from_the_proposal(model):
    model.settings = type(model.settings)(**vars(model.settings) | {"policy_samples": 20000})
    users = torch.tensor([3])
    drawn = []
    model.policy_loss = lambda users, items: drawn.append(items) or items.double()
    model.generator_loss(users)
    share = torch.bincount(drawn[0][0], minlength=model.n_items - 1) / 20000
    assert (share - model.proposal(users)[0]).abs().max() < 0.02


def test_dns_picks_the_highest_scored_of_what_the_user_has_not(model):
    users = torch.arange(1, 41)
    candidates = torch.randint(model.n_items - 1, (40, 6))
    candidates[0] = model.rows.dense(users[:1])[0].nonzero()[:6, 0]  # nothing but what the user has
    negatives, found = model.hardest(users, candidates)
    scores, own = model.generator(users), model.rows.dense(users) > 0
    assert not found[0] and found[1:].all()
    for row in range(1, 40):
        allowed = [j for j in candidates[row].tolist() if not own[row, j]]
        assert negatives[row] == max(allowed, key=lambda j, row=row: scores[row, j])


def test_a_pair_without_a_negative_does_not_count(model, monkeypatch):
    users, items = torch.tensor([1, 2]), torch.tensor([0, 1])
    own = model.rows.dense(users[:1])[0].nonzero()[:4, 0]
    theirs = (model.rows.dense(users[1:])[0] == 0).nonzero()[:4, 0]
    monkeypatch.setattr(torch, "randint", lambda *args, **kwargs: torch.stack([own, theirs]))
    s = model.generator(users)
    expected = -torch.sigmoid(s[1, 1] - s[1, theirs].max()).log() / 2
    torch.testing.assert_close(model.pretraining_loss(users, items), expected)


def test_contains_is_the_matrix(model):
    users, columns = torch.arange(41), torch.arange(model.n_items - 1).expand(41, -1)
    assert torch.equal(model.rows.contains(users, columns), model.rows.dense(users) > 0)


def test_discriminator_loss_equals_its_equation(model):
    users, real, fake = torch.tensor([1, 9]), torch.tensor([3, 4]), torch.tensor([7, 0])
    p = torch.sigmoid(model.discriminator(users))
    expected = -(p[[0, 1], real].log() + (1 - p[[0, 1], fake]).log()).mean()
    torch.testing.assert_close(model.discriminator_loss(users, real, fake), expected)


def test_fakes_stand_in_for_their_users_interactions(model):
    """One per interaction, drawn from the sharpened softmax of the interaction's own user."""
    with torch.no_grad():
        model.generator.bias.zero_()
        model.generator.user.zero_()
        model.generator.item.zero_()
        # Every user has one favourite, which the temperature makes next to certain.
        model.generator.bias[0] = 0.0
        model.generator.user[:, 0] = torch.arange(model.n_users) % 2 * 2.0 - 1
        model.generator.item[0, 0], model.generator.item[1, 0] = 5.0, -5.0
    fakes = model.generate()
    assert len(fakes) == len(model.rows.col)
    assert torch.equal(fakes, 1 - model.rows.owners() % 2)


def test_early_stopping_does_not_end_the_pretraining(tmp_path):
    settings = FAST | {"pretrain_epochs": 8, "epochs": 30, "eval_step": 1, "stopping_step": 2}
    run = Prepared("IRGAN", settings, tmp_path)
    trainer = tracked(type(run.trainer))(run.config, run.model)
    trainer._valid_epoch = lambda *args, **kwargs: (1.0 - len(trainer.curve), {"ndcg@5": 0.0})  # worse every time
    trainer.fit(run.train, run.valid, verbose=False)
    assert len(trainer.curve) == 8 + 3
    players = [set(entry["losses"]) for entry in trainer.curve]
    assert players == [{"pretraining"}] * 8 + [{"discriminator", "generator"}] * 3
