from types import SimpleNamespace

import numpy as np
import pytest
import torch
from contract import ModelContract, Prepared
from recbole.data import create_dataset, data_preparation
from torch.nn.functional import cross_entropy

from recbole_diffusion.adapter.config import build_config
from recbole_diffusion.adapter.sequences import SequenceDataset
from recbole_diffusion.model import item_cross_entropy
from recbole_diffusion.model.sequential_recommender import priors
from recbole_diffusion.model.sequential_recommender.priordiff import PriorDiff
from recbole_diffusion.model.sequential_recommender.priors import NextItemPrior, draw
from recbole_diffusion.model.sequential_recommender.sequentialknn import SequentialKNN
from recbole_diffusion.settings import SettingsError
from toy import COLUMNS, QUIET, two_circles, write_inter

FAST = {
    "hidden_size": 32, "inner_size": 32, "n_layers": 1, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "epochs": 20,
    "learning_rate": 0.01, "train_batch_size": 128, "eval_step": 10, "stopping_step": 20, "initializer_range": 0.02,
    "steps": 4,
}  # fmt: skip


class TestPriorDiff(ModelContract):
    name = "PriorDiff"
    settings = FAST
    closed_form = True  # the prior knows these circles
    variants = [{}, {"sampler_steps": 4}, {"sampler_steps": 2}]


class TestPriorDiffWithoutPrior(TestPriorDiff):
    settings = FAST | {"prior": "none"}
    closed_form = False


# Repetitions, a user with one item, and one with two.
SEQUENCES = [[3, 1, 4, 1, 5, 9, 2, 6, 5, 3], [5, 8, 9, 7], [9, 3, 2, 3, 8, 4, 6, 2], [6], [4, 3], [3, 3, 8, 3, 2], [1, 2, 3, 9]]
DECAY, WINDOW, SMOOTHING = 0.7, 4, 0.3


@pytest.fixture
def data(tmp_path):
    """The training part of ``SEQUENCES``: user ``u`` has item ``SEQUENCES[u][p]`` at time ``10 p + u``."""
    write_inter(tmp_path, "s", [(u, item, 10 * p + u) for u, items in enumerate(SEQUENCES) for p, item in enumerate(items)])
    settings = QUIET | COLUMNS | {"data_path": str(tmp_path), "topk": [1], "valid_metric": "NDCG@1"}
    train = SequenceDataset(build_config("PriorDiff", "s", None, settings)).build()[0]
    return SimpleNamespace(settings=settings, train=train, n_items=train.item_num)


def prior_of(data, kind="knn", max_length=50, history_length=50, window=WINDOW):
    return NextItemPrior(kind, data.train, data.n_items, max_length, SMOOTHING, window, DECAY, history_length)


def training_sequences(data):
    """The items of each training sequence, with the places of its targets in the line of all."""
    s = data.train.sequences()
    for start, first, end in zip(s.start.tolist(), s.first_target.tolist(), s.end.tolist(), strict=True):
        yield s.items[start:end].tolist(), start, range(first, end)


def counted(sequences, n_items, window):
    """C and D of SequentialKNN's definition, pair by pair."""
    C, D = np.zeros((n_items, n_items)), np.zeros(n_items)
    for items in sequences:
        for b, later in enumerate(items):
            D[later] += 1
            for a in range(max(b - window, 0), b):
                C[items[a], later] += 1 / (b - a)
    return C, D


def mixture(C, D, history):
    """The definition of the knn prior, of items 1, 2, ..."""
    scores = sum(DECAY**age * C[item] for age, item in enumerate(history[::-1]))[1:]
    pop = (D[1:] + 1) / (D[1:] + 1).sum()
    return (1 - SMOOTHING) * scores / scores.sum() + SMOOTHING * pop if scores.sum() else pop


@pytest.mark.parametrize("dense_items", [0, 5_000])
@pytest.mark.parametrize("history_length", [2, 50])
def test_in_training_a_prior_counts_as_if_the_sequence_had_ended_before_the_target(
    dense_items, history_length, data, monkeypatch
):
    """Counted again from sequences of which one is cut, with a window that reaches over all of them."""
    monkeypatch.setattr(priors, "DENSE_ITEMS", dense_items)
    prior = prior_of(data, history_length=history_length, window=20)
    sequences = list(training_sequences(data))
    for number, (items, start, targets) in enumerate(sequences):
        for place in targets:
            cut = [other if n != number else items[: place - start] for n, (other, _, _) in enumerate(sequences)]
            C, D = counted(cut, data.n_items, 20)
            expected = mixture(C, D, items[: place - start][-history_length:])
            found = prior.of_targets(torch.tensor([place]))[0]
            np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-7)


def test_a_short_window_leaves_nothing_of_the_target_s_own_pairs(data):
    prior = prior_of(data)
    sequences = list(training_sequences(data))
    for number, (items, start, targets) in enumerate(sequences):
        if len(set(items)) < len(items):
            continue  # where an item comes again, pairs further ahead than the window stay
        for place in targets:
            cut = [other if n != number else items[: place - start] for n, (other, _, _) in enumerate(sequences)]
            C, _ = counted(cut, data.n_items, WINDOW)
            _, D = counted([*cut, items[place - start + WINDOW :]], data.n_items, WINDOW)
            found = prior.of_targets(torch.tensor([place]))[0]
            np.testing.assert_allclose(found.numpy(), mixture(C, D, items[: place - start]), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dense_items", [0, 5_000])
def test_in_evaluation_the_prior_is_sequentialknn(dense_items, data, monkeypatch):
    monkeypatch.setattr(priors, "DENSE_ITEMS", dense_items)
    own = {"window": WINDOW, "alpha": 0.0, "decay": DECAY, "history_length": 50}
    knn_config = build_config("SequentialKNN", "s", None, data.settings | own)
    train, _, test = data_preparation(knn_config, create_dataset(knn_config))
    knn = SequentialKNN(knn_config, train._dataset)
    batch = next(iter(test))[0]
    scores = knn.full_sort_predict(batch).numpy()[:, 1:] - 1e-12 * knn.popularity[1:]
    pop = (knn.popularity[1:] + 1) / (knn.popularity[1:] + 1).sum()
    total = scores.sum(1, keepdims=True)
    assert (total > 0).any()
    expected = np.where(total > 0, (1 - SMOOTHING) * scores / np.maximum(total, 1e-30) + SMOOTHING * pop, pop)
    found = prior_of(data)(batch["item_id_list"], batch["item_length"])
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-7)


def test_popularity_in_training_is_of_what_came_before(data):
    prior = prior_of(data, "pop", window=20)
    sequences = list(training_sequences(data))
    items, start, targets = sequences[0]
    for place in targets:
        _, D = counted([items[: place - start], *(other for other, _, _ in sequences[1:])], data.n_items, 1)
        expected = (D[1:] + 1) / (D[1:] + 1).sum()
        np.testing.assert_allclose(prior.of_targets(torch.tensor([place]))[0].numpy(), expected, rtol=1e-6)
    _, D = counted([items for items, _, _ in sequences], data.n_items, 1)
    np.testing.assert_allclose(
        prior(torch.ones(1, 3), torch.tensor([3]))[0].numpy(), (D[1:] + 1) / (D[1:] + 1).sum(), rtol=1e-6
    )


def test_draws_have_the_distribution():
    p = torch.tensor([[0.0, 0.2, 0.5, 0.3], [1.0, 0.0, 0.0, 0.0]]).repeat_interleave(10_000, 0)
    u = torch.rand(len(p), generator=torch.Generator().manual_seed(1))
    drawn = draw(p, u)
    found = torch.stack([torch.bincount(part, minlength=4) / 10_000 for part in drawn.chunk(2)])
    torch.testing.assert_close(found, p[::10_000], rtol=0, atol=0.02)
    torch.testing.assert_close(draw(p[:1], u[:10_000]), drawn[:10_000])


@pytest.fixture
def trained(tmp_path):
    run = Prepared("PriorDiff", FAST | {"epochs": 2, "eval_step": 1}, tmp_path).fit()
    run.model.eval()
    return run


@pytest.mark.parametrize("positions", ["all", "last"])
def test_targets_are_found_in_the_sequences(positions, tmp_path):
    """Windows, also of cut sequences, and RecBole's rows alike."""
    run = Prepared("PriorDiff", FAST | {"train_positions": positions, "MAX_ITEM_LIST_LENGTH": 3}, tmp_path)
    line, places = run.train._dataset.sequences().items, []
    for batch in run.train:
        _, target, _ = run.model.positions(batch)
        place = run.model._places(batch)
        assert torch.equal(line[place], target)
        places += place.tolist()
    assert sorted(places) == run.train._dataset.sequences().is_target.nonzero().squeeze(1).tolist()


def test_the_loss_is_the_cross_entropy_of_bayes_rule(trained, monkeypatch):
    """By the product of the two probabilities for every item, in place of one corrected logit; gradients by autograd."""
    monkeypatch.setitem(item_cross_entropy._SCORES, "cpu", 0)
    monkeypatch.setattr(item_cross_entropy, "_LEAST_ROWS", 7)
    model, batch = trained.model, next(iter(trained.train))
    with torch.no_grad():
        model.multiple.copy_(torch.tensor([0.3, 0.8, 1.1, 1.4]))
    state, target, _ = model.positions(batch)
    state, target, place = state.detach().requires_grad_(), target - 1, model._places(batch)
    t, u = torch.arange(len(target)) % 4, torch.rand(3, len(target))
    p, losses = model.prior.of_targets(place), []
    products, drawn = state @ model.item_embedding.weight[1:].T, draw(p, u[1])
    for row, level in enumerate(t.tolist()):
        abar = 1 - (level + 1) / 4
        x_t = target[row] if u[0, row] >= 1 - abar else drawn[row]
        given = u[2, row] >= model.settings.uncond_prob
        r = (products[row] + given * model.multiple[level] * p[row].log()).softmax(0)
        likelihood = (1 - abar) * p[row, x_t] + abar * (torch.arange(len(r)) == x_t)
        posterior = likelihood * r / (likelihood * r).sum()
        losses.append(-posterior[target[row]].log())
    moved = (state, model.item_embedding.weight, model.multiple)
    expected, actual = torch.stack(losses).mean(), model.denoising_loss(state, target, place, t, u)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    for found, wanted in zip(torch.autograd.grad(actual, moved), torch.autograd.grad(expected, moved), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)


def test_steps_agree_exactly_where_the_multiple_is_the_same_at_all_levels(trained):
    model, batch = trained.model, trained.batch()
    with torch.no_grad():
        model.multiple.fill_(1.3)
        one = model.log_probabilities(batch, 1)
        for n_steps in (2, 3, 4):
            torch.testing.assert_close(model.log_probabilities(batch, n_steps), one, rtol=1e-4, atol=1e-4)
        assert model.diagnostics()["one_shot_score_difference"] < 1e-3
        model.multiple[0] = 0.5
        assert (model.log_probabilities(batch, 4) - one).abs().max() > 0.01
        assert model.diagnostics()["one_shot_score_difference"] > 0.01
    torch.testing.assert_close(one.exp().sum(1), torch.ones(len(one)))


def test_one_level_is_cross_entropy_with_the_prior_in_the_logits(tmp_path):
    run = Prepared("PriorDiff", FAST | {"steps": 1, "uncond_prob": 0.0}, tmp_path)
    batch = next(iter(run.train))
    state, target, _ = run.model.positions(batch)
    logits = run.model.products(state) + run.model.multiple * run.model.prior.of_targets(run.model._places(batch)).log()
    torch.testing.assert_close(run.model.calculate_loss(batch), cross_entropy(logits, target - 1))


def test_a_prior_that_training_never_sees_is_left_out_of_its_loss(tmp_path):
    run = Prepared("PriorDiff", FAST | {"steps": 1, "uncond_prob": 1.0}, tmp_path)
    run.model.eval()  # no dropout
    batch = next(iter(run.train))
    state, target, _ = run.model.positions(batch)
    actual = run.model.calculate_loss(batch)
    torch.testing.assert_close(actual, cross_entropy(run.model.products(state), target - 1))
    # The way that all other settings go, with draws that show the target and not the prior.
    level, u = torch.zeros_like(target), torch.zeros(3, len(target))
    whole = run.model.denoising_loss(state, target - 1, run.model._places(batch), level, u)
    torch.testing.assert_close(actual, whole)


def test_without_network_and_with_a_multiple_of_one_in_all_it_is_the_prior(trained):
    model, batch = trained.model, trained.batch()
    with torch.no_grad():
        model.item_embedding.weight.zero_()
        model.multiple.fill_(1 - model.settings.guidance_scale)
        expected = model.prior(batch["item_id_list"], batch["item_length"]).log()
        torch.testing.assert_close(model.log_probabilities(batch, 1), expected, rtol=1e-4, atol=1e-5)


def test_given_rows_are_refused_where_their_places_are_not_known(tmp_path):
    rows = ["user_id:token\titem_id_list:token_seq\titem_id:token", "1\t1 2\t3", "2\t2 3\t1"]
    (tmp_path / "g").mkdir()
    for part in ("train", "valid", "test"):
        (tmp_path / "g" / f"g.{part}.inter").write_text("\n".join(rows) + "\n")
    given = {"load_col": {"inter": ["user_id", "item_id_list", "item_id"]}, "alias_of_item_id": ["item_id_list"],
             "benchmark_filename": ["train", "valid", "test"], "data_path": str(tmp_path), "topk": [1]}  # fmt: skip
    config = build_config("PriorDiff", "g", None, QUIET | given | {"train_positions": "last", "valid_metric": "NDCG@1"})
    train, _, _ = SequenceDataset(config).build()
    with pytest.raises(SettingsError, match="train_positions = 'last'"):
        PriorDiff(config, train)


def test_more_sampler_steps_than_levels_are_refused(tmp_path):
    two_circles(tmp_path)
    with pytest.raises(SettingsError, match="sampler_steps = 5: must be <= steps = 4"):
        Prepared("PriorDiff", FAST | {"sampler_steps": 5}, tmp_path)
