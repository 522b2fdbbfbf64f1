import math

import pytest
import torch
from contract import ModelContract, Prepared
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_trainer, init_seed

from recbole_diffusion.adapter.config import build_config
from recbole_diffusion.adapter.trainer import tracked
from recbole_diffusion.model.general_recommender.cfgan import CFGAN, sample_zeros
from recbole_diffusion.settings import SettingsError
from toy import COLUMNS, QUIET, write_inter

FAST = {"g_hidden": [32], "d_hidden": [16], "learning_rate": 0.01, "d_learning_rate": 0.01, "g_steps": 2, "d_steps": 1,
        "train_batch_size": 8, "d_batch_size": 16, "epochs": 40, "eval_step": 5, "stopping_step": 20}  # fmt: skip


class TestItemBased(ModelContract):
    name = "CFGAN"
    settings = FAST
    loss_falls = False


class TestUserBased(ModelContract):
    name = "CFGAN"
    settings = FAST | {"mode": "user"}
    loss_falls = False


class TestZeroReconstruction(ModelContract):
    name = "CFGAN"
    settings = FAST | {"scheme": "ZR", "g_hidden": [32, 32]}
    loss_falls = False


class TestPartialMasking(ModelContract):
    name = "CFGAN"
    settings = FAST | {"scheme": "PM", "d_hidden": [64], "epochs": 100}
    loss_falls = False


@pytest.fixture
def model(tmp_path):
    return Prepared("CFGAN", FAST, tmp_path).model


def test_masks_have_the_right_counts_and_no_purchase():
    observed = torch.rand(50, 31) < torch.linspace(0, 1, 50)[:, None]
    for ratio in (0.0, 0.3, 1.0):
        drawn = sample_zeros(observed, ratio)
        assert not (drawn & observed).any()
        assert drawn.sum(1).tolist() == [round(ratio * zeros) for zeros in (~observed).sum(1).tolist()]


def test_every_zero_is_equally_likely():
    observed = torch.arange(10) < 4
    share = sample_zeros(observed.repeat(20000, 1), 0.5).double().mean(0)
    assert (share[:4] == 0).all() and (share[4:] - 0.5).abs().max() < 0.02  # 6 standard errors


def test_the_two_masks_are_drawn_independently(model):
    """Two independent halves share a quarter of the zeros; the same half drawn twice shares a half."""
    model.settings = CFGAN.settings_class.read(
        {key: getattr(model.settings, key) for key in CFGAN.settings_class.keys()} | {"zr_ratio": 0.5, "pm_ratio": 0.5}
    )
    torch.manual_seed(0)
    both = zeros = 0
    for _ in range(20):
        model.draw_masks()
        zr, pm = model._masks
        both, zeros = both + int((zr & pm).sum()), zeros + int((model.rows.dense(model.rows.occupied()) == 0).sum())
    assert abs(both / zeros - 0.25) < 0.02


@pytest.mark.parametrize("scheme", ["ZR", "PM", "ZP"])
def test_losses_equal_the_equations(scheme, tmp_path):
    model = Prepared("CFGAN", FAST | {"scheme": scheme, "zr_weight": 0.3}, tmp_path).model
    torch.manual_seed(1)
    model.draw_masks()
    zr, pm = model._masks
    assert bool(zr.any()) == ("Z" in scheme) and bool(pm.any()) == ("P" in scheme)
    rows = torch.tensor([1, 7, 40])
    g_loss = d_loss = 0.0
    with torch.no_grad():
        for row in rows.tolist():
            x = model.rows.dense(torch.tensor([row]))[0]
            fake = model.generator(x)
            kept = torch.where((x > 0) | pm[row], fake, 0.0)

            def log_odds_to_p(vector, x=x):
                return torch.sigmoid(model.discriminator(torch.cat([x, vector]))).item()

            g_loss -= math.log(log_odds_to_p(kept))
            g_loss += 0.3 * sum(fake[j].item() ** 2 for j in range(len(x)) if zr[row, j])
            d_loss -= math.log(log_odds_to_p(x)) + math.log(1 - log_odds_to_p(kept))
        assert model.generator_loss(rows).item() == pytest.approx(g_loss / 3, rel=1e-4)
        assert model.discriminator_loss(rows).item() == pytest.approx(d_loss / 3, rel=1e-4)


def test_an_epoch_is_g_steps_and_d_steps_passes_on_masks_of_its_own(tmp_path):
    run = Prepared("CFGAN", FAST, tmp_path)
    seen, masks = {"generator": [], "discriminator": []}, []
    for epoch in (0, 1):
        number, moves = run.trainer.moves(run.train, epoch)
        moves = list(moves)
        assert len(moves) == number
        masks.append(run.model._masks)
        for move in moves:
            assert move.optimizer is getattr(run.trainer, f"{move.name}_optimizer")
            seen[move.name] += move.loss.args[0].tolist()
    everything = list(range(1, 41))
    assert sorted(seen["generator"]) == sorted(everything * 4) and sorted(seen["discriminator"]) == sorted(everything * 2)
    assert not torch.equal(masks[0][0], masks[1][0]) and not torch.equal(masks[0][1], masks[1][1])


def test_item_based_is_user_based_on_the_transposed_data(tmp_path):
    """The same weights after training, and the same score for each pair."""
    pairs = [(user, item) for user in range(12) for item in range(18) if (user * 7 + item * 5) % 4 == 0 or user == item]
    runs = []
    for mode, swap in (("item", False), ("user", True)):
        rows = [((item, user) if swap else (user, item)) + (0,) for user, item in pairs]
        for part, of_part in {"train": rows, "valid": rows[:1], "test": rows[:1]}.items():
            write_inter(tmp_path / mode, "pairs", of_part, part)
        parts = {"benchmark_filename": ["train", "valid", "test"]}
        config = build_config("CFGAN", "pairs", None, QUIET | COLUMNS | FAST | parts | {
            "data_path": str(tmp_path / mode), "mode": mode, "epochs": 3})  # fmt: skip
        train, _, _ = data_preparation(config, create_dataset(config))
        init_seed(5, True)
        model = CFGAN(config, train._dataset)
        get_trainer(config["MODEL_TYPE"], "CFGAN")(config, model).fit(train, None, verbose=False, saved=False)
        runs.append(model.eval())
    item, user = runs
    for name, value in item.state_dict().items():
        assert torch.equal(value, user.state_dict()[name]), name
    # RecBole numbers users and items by first appearance, so the numbers are swapped as well.
    by_item = item._score(torch.arange(1, item.n_users))[:, 1:]
    by_user = user._score(torch.arange(1, user.n_users))[:, 1:]
    torch.testing.assert_close(by_item, by_user.T, rtol=1e-5, atol=1e-6)


def test_items_features_follow_the_weights(tmp_path):
    run = Prepared("CFGAN", FAST, tmp_path)
    trainer = tracked(type(run.trainer))(run.config, run.model)  # its fused optimisers leave the weights' versions alone
    users = torch.arange(1, 41)
    before = run.model.eval()._score(users)
    trainer._train_epoch(run.train, 0)
    after = run.model.eval()._score(users)
    expected = run.model.generator(run.model.rows.dense(torch.arange(1, 41))).T
    assert not torch.equal(before, after)
    torch.testing.assert_close(after[:, 1:], expected, rtol=1e-5, atol=1e-6)


def test_several_processes_are_refused(tmp_path):
    run = Prepared("CFGAN", FAST, tmp_path)
    run.config["single_spec"], run.config["nproc"] = False, 2
    with pytest.raises(SettingsError, match="nproc = 2: must be 1 for CFGAN"):
        type(run.trainer)(run.config, run.model)


def test_the_default_stops_after_the_papers_thousand_passes_of_the_generator(tmp_path):
    run = Prepared("CFGAN", {}, tmp_path)
    per_epoch = [move.name for move in run.trainer.moves(run.train, 0)[1]].count("generator")
    per_pass = math.ceil(len(run.model.rows.occupied()) / run.config["train_batch_size"])
    assert run.config["epochs"] * per_epoch / per_pass == 1000
