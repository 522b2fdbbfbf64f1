"""Training at every position: the same losses and gradients as with a row for each prefix."""

import numpy as np
import pytest
import torch
from contract import ModelContract, Prepared
from recbole.data import create_dataset, data_preparation
from recbole.data.dataset import SequentialDataset
from recbole.utils import init_seed

from recbole_diffusion.adapter.config import build_config
from recbole_diffusion.adapter.lookup import get_model
from recbole_diffusion.model.sequential_recommender import next_item
from recbole_diffusion.model.sequential_recommender.next_item import UnseenItems
from recbole_diffusion.model.sequential_recommender.transformer import Attention, CausalTransformer
from recbole_diffusion.settings import SettingsError
from toy import COLUMNS, QUIET, write_inter

FAST = {"hidden_size": 32, "epochs": 20, "learning_rate": 0.01, "train_batch_size": 128, "eval_step": 5, "stopping_step": 20}
SASREC = FAST | {"inner_size": 32, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}
GRU4REC = FAST | {"embedding_size": 32, "dropout_prob": 0.0}


class TestPackedSASRec(ModelContract):
    name = "PackedSASRec"
    settings = SASREC
    hit = 0.9


class TestPackedSASRecSampledLoss(ModelContract):
    name = "PackedSASRec"
    settings = SASREC | {"loss": "bce", "negatives": 4}
    hit = 0.9


class TestPackedGRU4Rec(ModelContract):
    name = "PackedGRU4Rec"
    settings = GRU4REC
    hit = 0.9


# ------------------------------------------------------------------------------------- equality with rows of prefixes

SIZES = {"hidden_size": 12, "inner_size": 20, "n_heads": 2, "n_layers": 2, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}
MODELS = {
    "PackedSASRec": SIZES | {"negatives": 3},
    "PackedGRU4Rec": {"hidden_size": 12, "embedding_size": 8, "num_layers": 2, "dropout_prob": 0.0, "negatives": 3},
    "DreamRec": SIZES | {"history_length": 50, "steps": 20, "uncond_prob": 0.3, "target_gradient": True},
}


@pytest.fixture
def walks(tmp_path):
    """Users with 1 to 19 items: sequences that fit into a window."""
    rng = np.random.default_rng(0)
    rows = [(u, rng.integers(29), time) for u, n in enumerate(rng.integers(1, 20, 25)) for time in range(n)]
    write_inter(tmp_path, "walks", rows)
    return QUIET | COLUMNS | {"data_path": str(tmp_path), "topk": [5], "valid_metric": "NDCG@5", "train_batch_size": 10**6}


def prepare(name, settings, dtype=torch.float64):
    """A model with all its parameters off their initial values, and its one training batch of windows."""
    config = build_config(name, "walks", None, settings | {"train_positions": "all"})
    (batch,) = data_preparation(config, create_dataset(config))[0]
    init_seed(1, True)
    model = get_model(name)(config, create_dataset(config).build()[0]).to(dtype)
    move(model)
    return config, model, batch[batch["user_id"].argsort()]


def move(model):
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter.dtype)


def prefixes(config):
    """RecBole's own training rows, padded, in the order of users and time."""
    return SequentialDataset(config).build()[0].inter_feat


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_same(loss, grads, expected_loss, expected_grads, tolerance):
    """Relative to the largest entry of each gradient."""
    torch.testing.assert_close(loss, expected_loss, rtol=tolerance, atol=0)
    assert grads.keys() == expected_grads.keys()
    for name, grad in expected_grads.items():
        scale = max(float(grad.abs().max()), 1e-3)
        torch.testing.assert_close(grads[name], grad, rtol=0, atol=tolerance * scale, msg=name)


def loss_given_draws(model, batch, seed=3):
    """The loss of a batch with draws that depend on the number of a target alone."""
    state, target, row = model.positions(batch)
    generator = torch.Generator().manual_seed(seed)
    if type(model).__name__ == "DreamRec":
        drop = torch.rand(len(target), 1, generator=generator) < model.settings.uncond_prob
        t, weight = model.timesteps.sample(len(target), generator)
        eps = torch.randn(state.shape, generator=generator, dtype=torch.float64).to(state.dtype)
        return model.denoising_loss(state, target, drop, t, weight, eps)
    if model.loss == "ce":
        return model.calculate_loss(batch)
    negatives = torch.randint(1, model.n_items, (len(target), model.n_negatives), generator=generator)
    return model.sampled_loss(state, target, negatives)


CASES = [(name, {"loss": loss}) for name in ("PackedSASRec", "PackedGRU4Rec") for loss in ("ce", "bce", "gbce")]
CASES += [("DreamRec", {"encoder": encoder}) for encoder in ("transformer", "official")] + [("DreamRec", {"loss": "mse+ce"})]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("name", "more"), CASES)
def test_windows_have_the_loss_and_gradient_of_rows(walks, name, more, dtype, tolerance):
    config, model, windows = prepare(name, walks | MODELS[name] | more, dtype)
    rows = prefixes(config)
    assert len(windows) < 25 < len(rows) == int((windows["targets"] > 0).sum())
    packed, single = loss_given_draws(model, windows), loss_given_draws(model, rows)
    assert_same(packed, gradients(model, packed), single, gradients(model, single), tolerance)


@pytest.mark.parametrize("name", MODELS)
def test_training_rows_are_read_too(walks, name):
    """``train_positions: last`` gives RecBole's loader, and a batch of it has the loss of RecBole's rows."""
    config = build_config(name, "walks", None, walks | MODELS[name] | {"train_positions": "last"})
    train = data_preparation(config, create_dataset(config))[0]
    (batch,) = train
    model = get_model(name)(config, train._dataset)
    rows = prefixes(config)
    assert sorted(batch["item_id_list"].tolist()) == sorted(rows["item_id_list"].tolist())
    model.calculate_loss(batch).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_packed_sasrec_is_recbole_s_sasrec(walks):
    """RecBole's class with the same weights: loss and gradients of its padded prefixes, and scores."""
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-5)):
        config, model, windows = prepare("PackedSASRec", walks | MODELS["PackedSASRec"], dtype)
        peer_config = build_config("SASRec", "walks", None, walks | SIZES | {"train_neg_sample_args": None})
        peer = get_model("SASRec")(peer_config, create_dataset(peer_config)).to(dtype)
        names = same_names_as_recbole(model)
        state = model.state_dict()
        with torch.no_grad():
            for name, parameter in peer.named_parameters():
                parameter.copy_(names[name](state) if name in names else torch.zeros(()))
        rows = prefixes(config)
        loss, peer_loss = model.calculate_loss(windows), peer.calculate_loss(rows)
        grads, peer_grads = gradients(model, loss), gradients(peer, peer_loss)
        # All but the biases of keys and values, which ours has not.
        expected = {name: peer_grads[name] for name in names}
        assert_same(loss, {name: of(grads) for name, of in names.items()}, peer_loss, expected, tolerance)
        with torch.no_grad():
            histories = rows["item_id_list"], rows["item_length"]
            torch.testing.assert_close(model.encode_last(*histories), peer(*histories), rtol=1e-4, atol=1e-5)


def same_names_as_recbole(model):
    """RecBole's name of each parameter -> the same of ours out of a dictionary."""

    def entry(name):
        return lambda values: values[name]

    def half(name, part):
        return lambda values: values[name].chunk(2)[part]

    names = {
        "item_embedding.weight": entry("item_embedding.weight"),
        "position_embedding.weight": entry("encoder.position.weight"),
        "LayerNorm.weight": entry("encoder.norm.weight"),
        "LayerNorm.bias": entry("encoder.norm.bias"),
    }
    parts = {"multi_head_attention.query": "attention.query", "multi_head_attention.dense": "attention.output",
             "multi_head_attention.LayerNorm": "norm_1", "feed_forward.dense_1": "feed_forward.0",
             "feed_forward.dense_2": "feed_forward.2", "feed_forward.LayerNorm": "norm_2"}  # fmt: skip
    for i in range(len(model.encoder.layers)):
        theirs, ours = f"trm_encoder.layer.{i}", f"encoder.layers.{i}"
        for their, our in parts.items():
            for kind in ("weight", "bias"):
                names[f"{theirs}.{their}.{kind}"] = entry(f"{ours}.{our}.{kind}")
        for part, kind in enumerate(("key", "value")):
            names[f"{theirs}.multi_head_attention.{kind}.weight"] = half(f"{ours}.attention.key_value.weight", part)
    return names


def test_packed_gru4rec_is_recbole_s_gru4rec(walks):
    sizes = {key: value for key, value in MODELS["PackedGRU4Rec"].items() if key != "negatives"}
    config, model, windows = prepare("PackedGRU4Rec", walks | sizes)
    peer_config = build_config("GRU4Rec", "walks", None, walks | sizes | {"train_neg_sample_args": None})
    peer = get_model("GRU4Rec")(peer_config, create_dataset(peer_config)).double()
    peer.load_state_dict({name.replace("gru.", "gru_layers."): value for name, value in model.state_dict().items()})
    loss, peer_loss = model.calculate_loss(windows), peer.calculate_loss(prefixes(config))
    grads = {name.replace("gru.", "gru_layers."): grad for name, grad in gradients(model, loss).items()}
    assert_same(loss, grads, peer_loss, gradients(peer, peer_loss), 1e-11)


# ------------------------------------------------------------------------------------------------------------ losses


@pytest.mark.parametrize("items_per_negative", [0, 50])  # either way of getting the scores
@pytest.mark.parametrize(("t", "beta"), [(0.0, 1.0), (1.0, 0.25), (0.5, 0.625)])
def test_gbce_by_hand(walks, t, beta, items_per_negative, monkeypatch):
    """k = 7 of 28 other items: alpha = 1/4, beta between 1 and alpha. Sigmoids and logarithms as in the paper."""
    _, model, windows = prepare("PackedSASRec", walks | MODELS["PackedSASRec"] | {"loss": "gbce", "gbce_t": t, "negatives": 7})
    assert model.n_items - 1 == 29
    monkeypatch.setattr(next_item, "_ITEMS_PER_NEGATIVE", items_per_negative)
    state, target, _ = model.positions(windows)
    negatives = torch.randint(1, model.n_items, (len(target), 7))
    scores = state @ model.item_embedding.weight.T
    positive = scores.gather(1, target[:, None]).sigmoid() ** beta
    negative = 1 - scores.gather(1, negatives).sigmoid()
    expected = -(positive.log().sum(1) + negative.log().sum(1)).mean() / 8
    torch.testing.assert_close(model.sampled_loss(state, target, negatives), expected)


@pytest.mark.parametrize("pool", ["others", "unseen"])
def test_negatives_are_uniform_over_what_is_allowed(walks, pool):
    """All items but the target, or all that the user has no training interaction with."""
    settings = {"loss": "bce", "negatives": 4000, "negatives_from": pool}
    config, model, _ = prepare("PackedSASRec", walks | MODELS["PackedSASRec"] | settings)
    rows = prefixes(config)
    torch.manual_seed(0)
    drawn = model._draw_negatives(rows["item_id"], rows["user_id"])
    for user, target, items in list(zip(rows["user_id"], rows["item_id"], drawn, strict=True))[::10]:
        mine = rows["user_id"] == user
        had = set(rows["item_id"][mine].tolist()) | set(rows["item_id_list"][mine].unique().tolist())
        allowed = sorted(set(range(1, model.n_items)) - ({int(target)} if pool == "others" else had))
        counts = torch.bincount(items, minlength=model.n_items)
        expected = 4000 / len(allowed)
        assert counts[allowed].sum() == 4000 and (counts[allowed] - expected).abs().max() < 5 * expected**0.5


def test_a_user_with_every_item_leaves_no_negative():
    from scipy.sparse import csr_matrix

    full = csr_matrix(np.array([[0, 0, 0], [0, 1, 1]]))
    with pytest.raises(SettingsError, match="a user has interacted with every item"):
        UnseenItems(full)


def test_more_negatives_than_items_have_no_calibration(walks):
    with pytest.raises(SettingsError, match="negatives = 40: must be at most 28, the other items"):
        prepare("PackedSASRec", walks | MODELS["PackedSASRec"] | {"loss": "gbce", "negatives": 40})


# ------------------------------------------------------------------------------------------------------- Transformer


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("n_layers", [1, 2])
def test_the_last_position_alone_is_the_last_of_all_positions(n_layers, norm_first):
    """Of every prefix of a history: what scoring computes is what training at all positions computes there."""
    torch.manual_seed(0)
    encoder = CausalTransformer(8, 6, n_layers, n_heads=2, norm_first=norm_first).eval().double()
    embedded = torch.randn(3, 6, 8, dtype=torch.float64)
    everywhere = encoder(embedded)
    for length in range(1, 7):
        whole = encoder.last(embedded, torch.full((3,), length))
        torch.testing.assert_close(whole, everywhere[:, length - 1])
        torch.testing.assert_close(encoder(embedded[:, :length])[:, -1], whole)


@pytest.mark.parametrize("n_heads", [1, 2, 4])
def test_attention_is_torch_s(n_heads):
    """The same weights in torch's own multi-head attention give the same output, causal and for a few queries."""
    torch.manual_seed(0)
    ours, peer = Attention(8, n_heads, 0.0), torch.nn.MultiheadAttention(8, n_heads, batch_first=True)
    with torch.no_grad():
        peer.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
        peer.in_proj_bias[:8].copy_(ours.query.bias)
        peer.out_proj.load_state_dict(ours.output.state_dict())
    query, sequence = torch.randn(3, 2, 8), torch.randn(3, 5, 8)
    padding = torch.arange(5) >= torch.tensor([5, 2, 1])[:, None]
    expected, _ = peer(query, sequence, sequence, key_padding_mask=padding)
    torch.testing.assert_close(ours.at(query, sequence, padding), expected)
    later = torch.ones(5, 5, dtype=torch.bool).triu(1)
    torch.testing.assert_close(ours(sequence), peer(sequence, sequence, sequence, attn_mask=later)[0])


# ---------------------------------------------------------------------------------------------------------- DreamRec


class TestDreamRecAtAllPositions(ModelContract):
    name = "DreamRec"
    settings = {"train_positions": "all", "hidden_size": 32, "inner_size": 32, "guidance_scale": 0.5, "steps": 20,
                "beta_end": 0.3, "train_batch_size": 64, "epochs": 30, "learning_rate": 0.01, "eval_step": 5,
                "stopping_step": 20, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}  # fmt: skip
    hit = 0.9


def test_dreamrec_reads_as_much_at_all_positions_as_in_rows(tmp_path):
    """With ``history_length`` 3, of 8 items a user: no target sees more than 3 before it."""
    run = Prepared("DreamRec", TestDreamRecAtAllPositions.settings | {"history_length": 3}, tmp_path)
    assert max(batch["item_id_list"].shape[1] for batch in run.train) == 3 and run.model.encoder.position.num_embeddings == 3
