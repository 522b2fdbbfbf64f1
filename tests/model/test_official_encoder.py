"""DreamRec with the official code's encoder: its equations once more in plain loops, on weights under the official names."""

import math

import numpy as np
import pytest
import torch
from contract import Prepared

from recbole_diffusion.model.sequential_recommender.official_encoder import OfficialEncoder, from_official

D, LENGTH, ITEMS = 8, 6, 24  # the toy data: items "0" to "23", histories of at most 6
FAST = {"encoder": "official", "hidden_size": D, "history_length": LENGTH, "steps": 5, "beta_end": 0.3, "guidance_scale": 2.0}


def official_weights(denoiser="mlp1", seed=0):
    """A state as the official ``Tenc`` has it, unused layers and the random padding row among it."""
    matrices = {"mh_attn.linear_q": (D, D), "mh_attn.linear_k": (D, D), "mh_attn.linear_v": (D, D), "s_fc": (ITEMS, D),
                "feed_forward.w_1": (D, D, 1), "feed_forward.w_2": (D, D, 1), "step_mlp.1": (2 * D, D),
                "step_mlp.3": (D, 2 * D), "emb_mlp.1": (2 * D, D), "diff_mlp.0": (2 * D, 3 * D), "diff_mlp.2": (D, 2 * D),
                "ln_1": (D,), "ln_2": (D,), "ln_3": (D,), "feed_forward.layer_norm": (D,)}  # fmt: skip
    matrices |= {"diffuser.0": (D, 3 * D)} if denoiser == "mlp1" else {"diffuser.0": (2 * D, 3 * D), "diffuser.2": (D, 2 * D)}
    shapes = {f"{name}.weight": shape for name, shape in matrices.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in matrices.items()}
    shapes |= {"item_embeddings.weight": (ITEMS + 1, D), "none_embedding.weight": (1, D)}
    shapes |= {"positional_embeddings.weight": (LENGTH, D)}
    random = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=random) / math.sqrt(D) for name, shape in shapes.items()}


class Reference:
    """The official model, one history and one step at a time, in float64."""

    def __init__(self, weights, n_heads=1):
        self.w = {name: weight.double().numpy() for name, weight in weights.items()}
        self.n_heads = n_heads

    def linear(self, name, x):
        weight = self.w[f"{name}.weight"]
        return weight.reshape(weight.shape[:2]) @ x + self.w[f"{name}.bias"]

    def norm(self, name, x):
        return (x - x.mean()) / math.sqrt(x.var() + 1e-5) * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def condition(self, history):
        """``history``: items, oldest first, any number of them up to LENGTH."""
        if not history:  # the masked padding at position 0
            return self.norm("ln_3", np.zeros(D))
        items, positions = self.w["item_embeddings.weight"], self.w["positional_embeddings.weight"]
        s = [items[item] + positions[i] for i, item in enumerate(history)]
        query = self.norm("ln_1", s[-1])
        q, k, v = self.linear("mh_attn.linear_q", query), *([self.linear(f"mh_attn.linear_{x}", e) for e in s] for x in "kv")
        attended = np.zeros(D)
        for head in np.split(np.arange(D), self.n_heads):
            share = np.exp([q[head] @ key[head] / math.sqrt(D) for key in k])
            attended[head] = sum(p / share.sum() * value[head] for p, value in zip(share, v, strict=True))
        z = self.norm("ln_2", query + attended)
        wide = np.maximum(self.linear("feed_forward.w_1", z), 0)
        return self.norm("ln_3", self.norm("feed_forward.layer_norm", z + self.linear("feed_forward.w_2", wide)))

    def gelu(self, x):
        return np.array([a * (1 + math.erf(a / math.sqrt(2))) / 2 for a in x])

    def denoise(self, x, c, t):
        angles = [t * 10000 ** (-i / (D // 2 - 1)) for i in range(D // 2)]
        tau = np.array([math.sin(a) for a in angles] + [math.cos(a) for a in angles])
        tau = self.linear("step_mlp.3", self.gelu(self.linear("step_mlp.1", tau)))
        inner = self.linear("diffuser.0", np.concatenate([x, c, tau]))
        return self.linear("diffuser.2", self.gelu(inner)) if "diffuser.2.weight" in self.w else inner

    def scores(self, history, x, betas, w, noise):
        """Algorithm 2 from ``x``, with ``noise[t]`` added before step t - 1; then the inner products with all items."""
        c, none = self.condition(history), self.w["none_embedding.weight"][0]
        for t in reversed(range(len(betas))):
            abar, before = math.prod(1 - b for b in betas[: t + 1]), math.prod(1 - b for b in betas[:t])
            x_0 = (1 + w) * self.denoise(x, c, t) - w * self.denoise(x, none, t)
            mean = math.sqrt(before) * betas[t] / (1 - abar) * x_0 + math.sqrt(1 - betas[t]) * (1 - before) / (1 - abar) * x
            x = mean + math.sqrt(betas[t] * (1 - before) / (1 - abar)) * noise[t]
        return self.w["item_embeddings.weight"][:ITEMS] @ x


HISTORIES = [[3], [23, 0, 5], [1, 1, 1, 2, 2, 9], [7, 8, 9, 10], []]


def batch_of(run):
    """The histories as RecBole has them, in the data set's own numbers."""
    number = run.train.dataset.field2token_id["item_id"]
    batch = run.batch()[: len(HISTORIES)]
    batch["item_id_list"][:] = 0
    for row, history in enumerate(HISTORIES):
        batch["item_id_list"][row, : len(history)] = torch.tensor([number[str(item)] for item in history], dtype=torch.long)
        batch["item_length"][row] = max(len(history), 1)  # as DreamRec's files and ours have it
    return batch


def loaded(tmp_path, weights, **settings):
    run = Prepared("DreamRec", FAST | settings, tmp_path)
    tokens = run.train.dataset.field2id_token["item_id"]
    run.model.load_state_dict(from_official(weights, tokens))
    return run, run.model.eval(), [int(token) for token in tokens[1:]]


@pytest.mark.parametrize("n_heads", [1, 2])
def test_conditions_are_the_official_ones(tmp_path, n_heads):
    weights = official_weights()
    run, model, _ = loaded(tmp_path, weights, n_heads=n_heads)
    expected = np.stack([Reference(weights, n_heads).condition(history) for history in HISTORIES])
    result = model.condition(batch_of(run)).detach()
    torch.testing.assert_close(result, torch.tensor(expected, dtype=torch.float32), rtol=1e-4, atol=1e-5)


def test_scores_are_the_official_ones_in_the_mean(tmp_path):
    """With the linear denoiser the mean of Algorithm 2 is Algorithm 2 on means: from x_T = 0, without noise."""
    weights, noise = official_weights(), np.zeros((5, D))
    run, model, order = loaded(tmp_path, weights, sampler="mean")
    betas = np.linspace(1e-4, 0.3, 5).tolist()
    expected = [Reference(weights).scores(history, np.zeros(D), betas, 2.0, noise)[order] for history in HISTORIES]
    scores = model.full_sort_predict(batch_of(run))[:, 1:]
    torch.testing.assert_close(scores, torch.tensor(np.stack(expected), dtype=torch.float32), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("denoiser", ["mlp1", "mlp2"])
def test_scores_are_the_official_ones_draw_by_draw(tmp_path, denoiser):
    weights = official_weights(denoiser)
    run, model, order = loaded(tmp_path, weights, sampler="ancestral", denoiser=denoiser)
    batch = batch_of(run)
    noise = model.noise_of(batch)
    # Draw 0 is x_T, draw k is added after step T - k + 1.
    draws = [noise(torch.empty(len(HISTORIES), D), k).double().numpy() for k in range(6)]
    betas = np.linspace(1e-4, 0.3, 5).tolist()
    expected = [
        Reference(weights).scores(history, draws[0][row], betas, 2.0, {t: draws[5 - t][row] for t in range(5)})[order]
        for row, history in enumerate(HISTORIES)
    ]
    scores = model.full_sort_predict(batch)[:, 1:]
    torch.testing.assert_close(scores, torch.tensor(np.stack(expected), dtype=torch.float32), rtol=1e-4, atol=1e-4)


def test_every_position_is_the_prefix_up_to_it():
    torch.manual_seed(0)
    encoder = OfficialEncoder(D, LENGTH, n_heads=2).eval()
    embedded = torch.randn(3, LENGTH, D)
    embedded[1, 4:] = embedded[2] = 0  # padding
    states = encoder(embedded)
    for n in range(1, LENGTH + 1):
        prefix = encoder.last(embedded, torch.full((3,), n))
        torch.testing.assert_close(states[:, n - 1], prefix)
        torch.testing.assert_close(encoder.last(embedded[:, :n], torch.full((3,), n)), prefix)
    assert torch.equal(states[2], encoder.ln_3.bias.expand(LENGTH, D)) and torch.equal(states[1, 5], encoder.ln_3.bias)


def test_it_learns(tmp_path):
    settings = FAST | {"hidden_size": 32, "steps": 20, "guidance_scale": 0.5, "learning_rate": 0.01, "train_batch_size": 64}
    settings |= {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "epochs": 60, "eval_step": 5, "stopping_step": 20}
    run = Prepared("DreamRec", settings, tmp_path).fit()
    assert run.evaluate()["hit@1"] >= 0.9
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in run.model.parameters())
