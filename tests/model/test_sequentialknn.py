from types import SimpleNamespace

import numpy as np
import pytest
import torch
from contract import ModelContract, Prepared
from recbole.data import create_dataset, data_preparation

from recbole_diffusion.adapter.config import build_config
from recbole_diffusion.model.sequential_recommender import sequentialknn
from recbole_diffusion.settings import SettingsError
from toy import COLUMNS, QUIET, write_inter


class TestSequentialKNN(ModelContract):
    name = "SequentialKNN"
    variants = [{}, {"decay": 1.0, "alpha": 0.5}, {"history_length": 1, "window": 1}]
    closed_form = True

    def test_same_seed_same_result(self, tmp_path):
        """A closed form: any seed gives the same."""
        runs = [Prepared(self.name, {"seed": seed}, tmp_path / str(seed)) for seed in (1, 2)]
        batch = runs[0].batch()
        assert torch.equal(*(run.model.full_sort_predict(batch) for run in runs))

    def test_faster_training_still_trains(self, tmp_path):
        """There is no training that could be faster: one pass, and the counts are what they were."""
        run = Prepared(self.name, {"enable_amp": True}, tmp_path)
        before = run.model.similarity.copy()
        run.fit()
        assert list(run.trainer.train_loss_dict.values()) == [0]
        assert (run.model.similarity != before).nnz == 0


SEQUENCES = [[3, 1, 4, 1, 5, 9, 2, 6, 5, 3], [5, 8, 9, 7], [9, 3, 2, 3, 8, 4, 6, 2], [6], [4, 3], [3, 3, 8, 3, 2]]
# How RecBole may cut the sequences into training rows.
SPLITS = {
    "leave one out": {"split": {"LS": "valid_and_test"}, "group_by": "user"},
    "each user's first": {"split": {"RS": [0.6, 0.2, 0.2]}, "group_by": "user"},
    "all users' first": {"split": {"RS": [0.6, 0.2, 0.2]}, "group_by": "none"},
}


def by_hand(sequences, n_items, window, alpha=0.0):
    """C and D of the definition, position by position."""
    C, D = np.zeros((n_items, n_items)), np.zeros(n_items)
    for items in sequences:
        for b, later in enumerate(items):
            D[later] += 1
            for a in range(max(b - window, 0), b):
                C[items[a], later] += 1 / (b - a)
    scale = np.maximum(D, 1) ** -alpha
    return scale[:, None] * C * scale, D


def fitted(folder, settings):
    """SequentialKNN, its training part and its first test batch, of a data set ``s``."""
    base = QUIET | {"data_path": str(folder), "topk": [1], "valid_metric": "NDCG@1"}
    config = build_config("SequentialKNN", "s", None, base | settings)
    train, _, test = data_preparation(config, create_dataset(config))
    model = sequentialknn.SequentialKNN(config, train._dataset)
    return SimpleNamespace(model=model, data=train._dataset, batch=next(iter(test))[0])


def fitted_to_sequences(folder, settings):
    """User ``u`` has item ``SEQUENCES[u][p]`` at time ``10 p + u``."""
    write_inter(folder, "s", [(u, item, 10 * p + u) for u, items in enumerate(SEQUENCES) for p, item in enumerate(items)])
    return fitted(folder, COLUMNS | settings)


def training_sequences(data):
    """What the training part holds of every user, read off the whole sequences: the items up to the latest target."""
    last = {}
    for user, time in zip(data.inter_feat["user_id"].tolist(), data.inter_feat["timestamp"].tolist(), strict=True):
        name = int(data.id2token("user_id", user))
        last[name] = max(last.get(name, 0), (int(time) - name) // 10)
    return [[int(data.token2id("item_id", str(i))) for i in SEQUENCES[u][: p + 1]] for u, p in last.items()]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("window", "alpha"), [(1, 0.0), (3, 0.5), (50, 1.0)])
def test_counts_are_those_of_the_training_sequences(split, window, alpha, tmp_path):
    args = {"order": "TO", "mode": {"valid": "full", "test": "full"}} | SPLITS[split]
    run = fitted_to_sequences(tmp_path, {"eval_args": args, "window": window, "alpha": alpha})
    N, D = by_hand(training_sequences(run.data), run.model.n_items, window, alpha)
    np.testing.assert_allclose(run.model.similarity.toarray(), N, rtol=1e-12)
    np.testing.assert_array_equal(run.model.popularity, D)
    assert run.model.similarity.nnz == (N > 0).sum()


@pytest.mark.parametrize("at_once", [1, 1 << 24])
def test_counts_of_given_parts(at_once, monkeypatch, tmp_path):
    """Rows that are prefixes of each other, an empty one among them and in any order, count as the sequence that they make."""
    monkeypatch.setattr(sequentialknn, "_PAIRS_AT_ONCE", at_once)
    lines = ["user_id:token\titem_id_list:token_seq\titem_id:token"]
    rows = [(u, items[:p], items[p]) for u, items in enumerate(SEQUENCES) for p in range(len(items))]
    lines += ["\t".join((str(u), " ".join(map(str, h)), str(i))) for u, h, i in rows[::-1]]
    (tmp_path / "s").mkdir()
    for part in ("train", "valid", "test"):
        (tmp_path / "s" / f"s.{part}.inter").write_text("\n".join(lines) + "\n")
    data = {"load_col": {"inter": ["user_id", "item_id_list", "item_id"]}, "alias_of_item_id": ["item_id_list"],
            "benchmark_filename": ["train", "valid", "test"]}  # fmt: skip
    run = fitted(tmp_path, data | {"window": 5})
    ids = [[int(run.data.token2id("item_id", str(i))) for i in items] for items in SEQUENCES]
    N, D = by_hand(ids, run.model.n_items, 5)
    np.testing.assert_allclose(run.model.similarity.toarray(), N, rtol=1e-12)
    np.testing.assert_array_equal(run.model.popularity, D)


@pytest.mark.parametrize(("decay", "length"), [(0.5, 50), (1.0, 3), (0.8, 2)])
def test_scores_are_decayed_sums_over_the_history(decay, length, tmp_path):
    run = fitted_to_sequences(tmp_path, {"decay": decay, "history_length": length, "alpha": 0.5})
    N, popularity = run.model.similarity.toarray(), run.model.popularity
    batch = run.batch
    scores = run.model.full_sort_predict(batch)
    for history, n, row in zip(batch["item_id_list"].tolist(), batch["item_length"].tolist(), scores, strict=True):
        latest = history[:n][::-1][:length]
        expected = sum(decay**age * N[h] for age, h in enumerate(latest)) + 1e-12 * popularity
        np.testing.assert_allclose(row[1:], expected[1:], rtol=1e-12)


def test_what_never_follows_is_in_order_of_popularity(tmp_path):
    run = fitted_to_sequences(tmp_path, {})
    batch = run.batch[[0]]
    batch["item_id_list"][:], batch["item_length"][:] = 0, 1  # an empty history
    scores, popularity = run.model.full_sort_predict(batch)[0, 1:], run.model.popularity[1:]
    assert (popularity[scores.argsort(descending=True)] == np.sort(popularity)[::-1]).all()


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"window": 0}, "window = 0: must be an integer >= 1"), ({"decay": 1.5}, "decay = 1.5: must be a finite number")],
)
def test_settings_out_of_range(setting, message, tmp_path):
    with pytest.raises(SettingsError, match=message):
        fitted_to_sequences(tmp_path, setting)
