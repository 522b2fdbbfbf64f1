import dataclasses

import numpy as np
import pytest
import torch
from contract import ModelContract, Prepared
from recbole.model.general_recommender import EASE

from recbole_diffusion.model.general_recommender.giffcf import GiffDenoiser
from recbole_diffusion.model.interaction_rows import InteractionRows
from recbole_diffusion.settings import SettingsError

FAST = {"embedding_size": 16, "train_batch_size": 8, "epochs": 100, "learning_rate": 0.02, "eval_step": 10,
        "stopping_step": 20}  # fmt: skip


class TestGiffCF(ModelContract):
    name = "GiffCF"
    settings = FAST
    variants = [{}, {"sampling_steps": 1}, {"decay": 1.0}, {"smoothing_strength": 0.5}, {"positive_start": True}]


class TestGiffCFOfEASE(ModelContract):
    name = "GiffCF"
    settings = FAST | {"filter": "ease", "reg_weight": 1.0, "time-aware": True}


class TestGiffCFWithoutLatent(ModelContract):
    name = "GiffCF"
    # Another seed: the mixers of the default one rank the checkerboard by its smoothed row before any training.
    settings = FAST | {"latent": False, "seed": 7}
    variants = [{}, {"sampling_steps": 1}]


def rows_of(run):
    dataset = run.train._dataset
    X = np.zeros((dataset.user_num - 1, dataset.item_num - 1))
    X[dataset.inter_feat["user_id"].numpy() - 1, dataset.inter_feat["item_id"].numpy() - 1] = 1
    return X


def adjacency(X):
    by_user, by_item = np.diag(X.sum(1) ** -0.5), np.diag(X.sum(0) ** -0.5)
    A = by_item @ X.T @ by_user @ X @ by_item
    return A / np.linalg.eigvalsh(A)[-1]


def test_the_adjacency_is_the_paper_s(tmp_path):
    run = Prepared("GiffCF", FAST, tmp_path)
    X = rows_of(run)
    smoothed = run.model.filter(torch.from_numpy(X).float())
    torch.testing.assert_close(smoothed, torch.from_numpy(X @ adjacency(X)).float(), rtol=1e-4, atol=1e-6)


def test_the_ideal_filter_passes_the_top_eigenvectors(tmp_path):
    # Of the checkerboard's two blocks the top eigenvalues are a pair, the third lies apart.
    run = Prepared("GiffCF", FAST | {"ideal_weight": 0.3, "ideal_cutoff": 2}, tmp_path)
    X = rows_of(run)
    A = adjacency(X)
    V = np.linalg.eigh(A)[1][:, -2:]
    expected = torch.from_numpy(X @ (A + 0.3 * V @ V.T) / 1.3).float()
    rows = run.model.rows.sparse(torch.arange(1, run.model.n_users))
    for smoothed in (run.model.filter(torch.from_numpy(X).float()), run.model.filter.of_sparse(rows)):
        torch.testing.assert_close(smoothed, expected, rtol=1e-4, atol=1e-6)


def test_the_ease_filter_is_ease(tmp_path):
    run = Prepared("GiffCF", FAST | {"filter": "ease", "reg_weight": 2.0}, tmp_path)
    users = torch.arange(1, run.model.n_users)
    expected = EASE(run.config, run.train._dataset).full_sort_predict({"user_id": users}).view(len(users), -1)[:, 1:]
    torch.testing.assert_close(run.model.filter(run.model.rows.dense(users)), expected, rtol=1e-4, atol=1e-5)


def ease(X, reg_weight):
    """Steck 2019, Eq. 8; not symmetric."""
    P = np.linalg.inv(X.T @ X + reg_weight * np.eye(X.shape[1]))
    B = -P / np.diag(P)
    np.fill_diagonal(B, 0)
    return B


def low_passed(X):
    A = adjacency(X)
    V = np.linalg.eigh(A)[1][:, -2:]
    return (A + 0.3 * V @ V.T) / 1.3


@pytest.mark.parametrize(
    ("settings", "dense_items", "matrix"),
    [
        ({}, 10_000, adjacency),
        ({}, 10, adjacency),
        ({"ideal_weight": 0.3, "ideal_cutoff": 2}, 10_000, low_passed),
        ({"ideal_weight": 0.3, "ideal_cutoff": 2}, 10, low_passed),
        ({"filter": "ease", "reg_weight": 2.0}, 10_000, lambda X: ease(X, 2.0)),
    ],
)
def test_scores_are_the_paper_s_loop(settings, dense_items, matrix, tmp_path, monkeypatch):
    """Algorithm 2, with the denoiser written out entry by entry in float64."""
    monkeypatch.setattr("recbole_diffusion.model.item_filter.DENSE_ITEMS", dense_items)
    run = Prepared("GiffCF", FAST | {"embedding_size": 4} | settings, tmp_path)
    model, X = run.model.eval(), rows_of(run)
    A, n = matrix(X), X.shape[1]
    weights = {name: value.detach().double().numpy() for name, value in model.network.named_parameters()}
    swish = lambda v: v / (1 + np.exp(-v))  # noqa: E731

    def dense(name, v):
        return v @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def tau(name, t):
        angle = t * 1e4 ** (-np.arange(10) / 10)
        return dense(f"{name}.2", swish(dense(f"{name}.0", np.concatenate([np.cos(angle), np.sin(angle)]))))[0]

    def mix(name, *inputs):
        stacked = np.stack(np.broadcast_arrays(*inputs), -1)
        return dense(f"{name}.output", swish(dense(f"{name}.hidden", stacked)))[..., 0]

    def D(z, c, Ac, t):
        W = weights["table"]
        share = c / np.maximum(np.abs(c).sum(1, keepdims=True), 1)
        middle = mix("embedding_mixer", z / n @ W, share @ W, tau("embedding_time", t))
        return mix("item_mixer", middle @ W.T, c, Ac, tau("item_time", t))

    F = lambda x, t: x + 1.5 * t / 3 * (x @ A - x)  # noqa: E731
    z = F(X, 3)
    for t in (3, 2, 1):
        estimate = D(z, X, X @ A, t)
        z = F(estimate, t - 1) + 0.5 * (z - F(estimate, t))
    scores = model.full_sort_predict({"user_id": torch.arange(1, model.n_users)})
    torch.testing.assert_close(scores[:, 1:], torch.from_numpy(z).float(), rtol=1e-4, atol=1e-5)


def test_diagnostics_compare_a_single_pass_with_all_steps(tmp_path):
    run = Prepared("GiffCF", FAST | {"epochs": 20}, tmp_path).fit()
    users, model = torch.arange(1, run.model.n_users), run.model.eval()
    found, scores = model.diagnostics(), {}
    for steps in (1, 3):
        model.settings = dataclasses.replace(model.settings, sampling_steps=steps)
        scores[steps] = model.full_sort_predict({"user_id": users})[:, 1:]
    one, whole = ([{*of_user.topk(10).indices.tolist()} for of_user in scores[steps]] for steps in (1, 3))
    kept = [len(a & b) for a, b in zip(one, whole, strict=True)]
    assert found["one_pass_score_difference"] == pytest.approx(float((scores[1] - scores[3]).abs().max()), rel=1e-4) != 0
    assert found["one_pass_same_top10"] == pytest.approx(sum(kept) / len(kept) / 10)
    assert found["score_spread"] == pytest.approx(float(scores[3].std(1).median()), rel=1e-4)


def test_the_sparse_filter_is_the_dense_one(tmp_path, monkeypatch):
    dense = Prepared("GiffCF", FAST, tmp_path / "dense").model
    monkeypatch.setattr("recbole_diffusion.model.item_filter.DENSE_ITEMS", 10)
    sparse = Prepared("GiffCF", FAST, tmp_path / "sparse").model
    assert not hasattr(sparse.filter, "matrix")
    users = torch.arange(1, dense.n_users)
    x, expected = dense.rows.sparse(users), dense.filter(dense.rows.dense(users))
    for smoothed in (dense.filter.of_sparse(x), sparse.filter.of_sparse(x), sparse.filter(dense.rows.dense(users))):
        torch.testing.assert_close(smoothed, expected, rtol=1e-4, atol=1e-6)


def test_time_weights_are_t_ease_s(tmp_path):
    run = Prepared("GiffCF", FAST | {"time-aware": True, "w_min": 0.2, "w_max": 0.8}, tmp_path)
    expected = InteractionRows.from_dataset(run.train._dataset, (0.2, 0.8))
    assert torch.equal(run.model.rows.val, expected.val) and len(expected.val.unique()) > 2


def slope_of_similarity(seed, positive_start, step):
    """k of c -> k c W W^T, the path of c through the embeddings W, by differentiation at 0; the other paths are closed.

    Unless ``step``, the step's embedding is closed, too. With it, swish's slopes differ by item, and k is their best fit.
    """
    torch.manual_seed(seed)
    network = GiffDenoiser(9, 4, positive_start=positive_start)
    with torch.no_grad():
        network.item_mixer.hidden.weight[:, 1:3] = 0
        if not step:
            network.embedding_time[-1].weight.zero_()
            network.item_time[-1].weight.zero_()
    nothing = torch.zeros(1, 9)

    def estimate(c):
        return network(nothing, c, nothing, torch.tensor([1]), network.embed(c))[0]

    slope = torch.autograd.functional.jacobian(estimate, nothing)[:, 0]
    similarity = (network.table @ network.table.T).detach()
    k = (slope * similarity).sum() / similarity.square().sum()
    if not step:
        torch.testing.assert_close(slope, k * similarity)
    return float(k)


def test_a_positive_start_has_similar_items_pull_each_other_up():
    chance, positive = ([slope_of_similarity(seed, start, step=False) for seed in range(20)] for start in (False, True))
    assert min(chance) < 0 < max(chance)
    assert min(positive) > 0 and max(positive) >= max(chance)


def test_a_step_s_embedding_turns_a_positive_start_at_most_rarely():
    k = torch.tensor([[slope_of_similarity(seed, start, step=True) for seed in range(50)] for start in (False, True)])
    chance, positive = (k > 0).double().mean(1)
    assert 0.3 < chance < 0.7 and positive > 0.95


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"sampling_steps": 4}, r"sampling_steps = 4: must be <= steps = 3"), ({"w_min": 2.0}, r"w_min = 2.0: must be <= w_max")],
)
def test_settings_that_do_not_fit_are_refused(settings, named, tmp_path):
    with pytest.raises(SettingsError, match=named):
        Prepared("GiffCF", FAST | settings, tmp_path)
