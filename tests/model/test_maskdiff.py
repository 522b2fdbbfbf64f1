import math

import pytest
import torch
from contract import ModelContract, Prepared
from torch import nn

FAST = {
    "hidden_size": 32, "inner_size": 32, "n_layers": 1, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "epochs": 40,
    "learning_rate": 0.01, "train_batch_size": 128, "eval_step": 20, "stopping_step": 20, "initializer_range": 0.2,
}  # fmt: skip


class TestMaskDiff(ModelContract):
    name = "MaskDiff"
    # The least rate is 1/4, so that the loss of two epochs can be compared. Histories of four, since whole ones are longer in
    # the test than in training: their oldest position would have the embedding that it began with, and hits would be luck.
    settings = FAST | {"steps": 4, "MAX_ITEM_LIST_LENGTH": 4}
    hit = 0.9


@pytest.fixture
def model(tmp_path):
    model = Prepared("MaskDiff", FAST | {"n_layers": 2, "steps": 4}, tmp_path).model.eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


def outputs(model, tokens):
    """One sequence without padding, through torch's own layers."""
    table = torch.cat([model.item_embedding.weight, model.mask_embedding[None]])
    x = model.norm(table[tokens] + model.position.weight[: len(tokens)].flip(0))[None]  # the last token has position 0
    for layer in model.layers:
        own = nn.TransformerEncoderLayer(32, 2, 32, 0.0, "gelu", batch_first=True).eval()
        attention = layer.attention
        own.load_state_dict({
            "self_attn.in_proj_weight": torch.cat([attention.query.weight, attention.key_value.weight]),
            "self_attn.in_proj_bias": torch.cat([attention.query.bias, torch.zeros(64)]),
            "self_attn.out_proj.weight": attention.output.weight, "self_attn.out_proj.bias": attention.output.bias,
            "linear1.weight": layer.feed_forward[0].weight, "linear1.bias": layer.feed_forward[0].bias,
            "linear2.weight": layer.feed_forward[2].weight, "linear2.bias": layer.feed_forward[2].bias,
            "norm1.weight": layer.norm_1.weight, "norm1.bias": layer.norm_1.bias,
            "norm2.weight": layer.norm_2.weight, "norm2.bias": layer.norm_2.bias,
        })  # fmt: skip
        x = own(x)
    return x[0]


def test_the_loss_is_one_over_rate_and_length_times_the_masked_cross_entropy(model):
    sequences, t = [[3, 4, 5, 6, 7], [8, 9], [1, 2, 3]], torch.tensor([1, 3, 0])
    tokens = torch.zeros(3, 5, dtype=torch.long)
    u = torch.tensor([[0.1, 0.6, 0.49, 0.9, 0.2], [0.9, 0.3, 0.1, 0.1, 0.1], [0.7, 0.8, 0.9, 0.0, 0.0]])
    expected = 0.0
    for row, (items, step) in enumerate(zip(sequences, t.tolist(), strict=True)):
        tokens[row, : len(items)] = torch.tensor(items)
        rate = (step + 1) / 4
        hidden = [float(u[row, place]) < rate for place in range(len(items))]
        states = outputs(model, [model.n_items if gone else item for item, gone in zip(items, hidden, strict=True)])
        logits = (states @ model.item_embedding.weight.T).log_softmax(1)
        nll = sum(-logits[place, items[place]].item() for place, gone in enumerate(hidden) if gone)
        expected += nll / (rate * len(items)) / 3
    loss = model.masked_loss(tokens, torch.tensor([5, 2, 3]), t, u)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_scoring_reads_a_mask_after_the_history(model):
    items, length = torch.tensor([[3, 4, 5], [6, 0, 0], [0, 0, 0]]), torch.tensor([3, 1, 0])
    found = model.encode_last(items, length)
    for row, history in enumerate(([3, 4, 5], [6], [])):
        torch.testing.assert_close(found[row], outputs(model, [*history, model.n_items])[-1], rtol=1e-4, atol=1e-4)


def test_a_single_token_is_cross_entropy_whatever_t(model):
    """The ELBO of a sequence of one item, averaged over t, is -log p(item | a mask alone)."""
    n = 40_000
    tokens, length = torch.full((n, 1), 5), torch.ones(n, dtype=torch.long)
    torch.manual_seed(0)
    with torch.no_grad():
        loss = model.masked_loss(tokens, length, torch.randint(4, (n,)), torch.rand(n, 1))
        expected = -(outputs(model, [model.n_items])[0] @ model.item_embedding.weight.T).log_softmax(0)[5]
    deviation = float(expected) * math.sqrt((1 + 2 + 4 / 3 + 4) / 4 - 1)  # of weight 1 / r with probability r: E 1/r - 1
    assert float(loss) == pytest.approx(float(expected), abs=5 * deviation / math.sqrt(n))


@pytest.mark.parametrize("positions", ["all", "last"])
def test_every_item_of_the_row_may_be_masked(positions, tmp_path):
    """Windows and RecBole's rows alike: the history and the target after it."""
    run, seen = Prepared("MaskDiff", FAST | {"train_positions": positions}, tmp_path), []
    run.model.masked_loss = lambda tokens, length, t, u: seen.append((tokens, length)) or torch.zeros(())
    for batch in run.train:
        run.model.calculate_loss(batch)
    lengths = torch.cat([length for _, length in seen])
    for tokens, length in seen:
        assert torch.equal((tokens > 0).sum(1), length) and (tokens < run.model.n_items).all()
    # Users have 8 items, 2 of them withheld: one whole sequence of 6, or 5 prefixes of 2 to 6.
    wanted = [6] * 200 if positions == "all" else sorted([2, 3, 4, 5, 6] * 200)
    assert sorted(lengths.tolist()) == wanted
