"""Recommended lists against the models' definitions and the raw data."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.utils.case_study import full_sort_scores, full_sort_topk

import recbole_diffusion
from recbole_diffusion import run_recbole_diffusion
from recbole_diffusion.adapter.trained import load_trained
from recbole_diffusion.adapter.user_items import items_of_users
from recbole_diffusion.cli import main
from recbole_diffusion.recommendation import recommend as module
from recbole_diffusion.recommendation.lists import Lists, writing
from recbole_diffusion.recommendation.recommend import chunk_size, recommend
from recbole_diffusion.settings import SettingsError
from toy import COLUMNS, QUIET, write_inter

N_ITEMS, N_USERS = 40, 24
# User "alone" has a single item: a sequential model has no row for it. Items come back for nobody.
RAW = {
    f"u{user}": [f"i{item}" for item in np.random.default_rng(user).permutation(N_ITEMS)[: 6 + user % 5]]
    for user in range(N_USERS)
}
SMALL = {"hidden_size": 8, "inner_size": 8, "n_heads": 2, "n_layers": 1, "embedding_size": 8, "steps": 4}
NO_NEGATIVES = {"train_neg_sample_args": None}
MODELS = {
    "DiffRec": {"dims_dnn": [8]},
    "TDiffRec": {"dims_dnn": [8]},
    "BSPM": {"ideal_cutoff": 4},
    "GiffCF": {"ideal_cutoff": 4},
    "EASE": {},
    "BPR": {},
    "MultiVAE": NO_NEGATIVES | {"latent_dimension": 4, "mlp_hidden_size": [8]},
    "FM": {  # scores pairs only
        "metrics": ["Recall", "NDCG"],
        "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "mode": "full", "group_by": "user", "order": "RO"},
        "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1, "dynamic": False, "candidate_num": 0},
    },
    "CDAE": NO_NEGATIVES,
    "CFGAN": {"mode": "item", "g_hidden": [8], "d_hidden": [4]},
    "DreamRec": {"beta_end": 0.5},
    "PackedSASRec": {},
    "PreferDiff": {},
    "SequentialKNN": {},
    "SASRec": NO_NEGATIVES,
    "FPMC": {},  # has a vector for each user
}
SEQUENTIAL = {"DreamRec", "PackedSASRec", "PreferDiff", "SequentialKNN", "SASRec", "FPMC"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Trains a model on demand; returns its checkpoint."""
    folder, files = tmp_path_factory.mktemp("trained"), {}
    rows = [(user, item, place) for user, items in RAW.items() for place, item in enumerate(items)]
    write_inter(folder, "raw", [*rows, ("alone", "i0", 3)])
    (folder / "raw" / "raw.item").write_text(
        "\n".join(["item_id:token\tmovie_title:token_seq", *(f"i{item}\tFilm {item}" for item in range(N_ITEMS))]) + "\n"
    )

    def train(name, **more):
        key = (name, *more)
        if key not in files:
            settings = {key: value for key, value in SMALL.items() if name in ("DreamRec", "DiffRec") or key != "steps"}
            settings |= QUIET | COLUMNS | MODELS[name] | {"data_path": str(folder), "epochs": 2, "learning_rate": 0.01}
            settings |= {"checkpoint_dir": str(folder / "saved"), "MAX_ITEM_LIST_LENGTH": 5, "strict_config": False}
            settings |= {"topk": [5], "valid_metric": "NDCG@5"} | more
            files[key] = run_recbole_diffusion(name, "raw", None, settings)["checkpoint"]
        return files[key]

    return train


def dense(matrix):
    return np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix)


@torch.no_grad()
def scores_of(file, items, user=None):
    """Scores by original item id, computed for one list of original ids by the definition of the model."""
    _, model, data, *_ = load_trained(file)
    model.eval()
    number = torch.tensor([data.token2id("item_id", item) for item in items])
    row = torch.zeros(1, data.item_num)
    row[0, number] = 1
    kind = type(model).__name__
    who = {"user_id": torch.tensor([0 if user is None else data.token2id("user_id", user)])}
    if kind in SEQUENTIAL:
        history = torch.zeros(1, 5, dtype=torch.long)
        kept = number[-5:]
        history[0, : len(kept)] = kept
        found = model.full_sort_predict(Interaction({**who, "item_id_list": history, "item_length": torch.tensor([len(kept)])}))
    elif kind == "EASE":
        found = row.numpy() @ dense(model.item_similarity)
    elif kind == "MultiVAE":
        found = model.forward(row)[0]
    elif kind in ("DiffRec", "TDiffRec"):
        if kind == "TDiffRec":
            row[0, number] = torch.linspace(model.settings.w_min, model.settings.w_max, len(number))
        x = row[:, 1:]
        for t in reversed(range(model.settings.steps)):  # Algorithm 2 by its formula: posterior means
            at = torch.full((1,), t)
            x = model.process.posterior_mean(model.network(x, at), x, at).float()
        found = torch.cat([torch.zeros(1, 1), x], 1)
    elif kind == "BPR":
        found = model.user_embedding.weight[who["user_id"]] @ model.item_embedding.weight.T
    elif kind == "FM":
        everything = Interaction({"user_id": who["user_id"].repeat(data.item_num), "item_id": torch.arange(data.item_num)})
        found = model.predict(everything)
    tokens = data.field2id_token["item_id"]
    return {str(token): float(score) for token, score in zip(tokens[1:], np.asarray(found).ravel()[1:], strict=True)}


def best(scores, k, without=()):
    left = {item: score for item, score in scores.items() if item not in without}
    return sorted(left.items(), key=lambda pair: -pair[1])[:k]


def lists_of(frame, label="user"):
    return {who: list(zip(rows["item"], rows["score"], strict=True)) for who, rows in frame.groupby(label, sort=False)}


def assert_same(found, expected):
    """Same scores at every rank, and each item at a rank has that score: equal scores may be in any order."""
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], rel=1e-4, abs=1e-5)
    assert len({item for item, _ in found}) == len(found)


@pytest.mark.parametrize(
    "name",
    ["DiffRec", "TDiffRec", "EASE", "BPR", "FM", "DreamRec", "PackedSASRec", "PreferDiff", "SequentialKNN", "SASRec", "FPMC"],
)
def test_lists_are_the_best_of_the_model_s_own_scores(name, trained):
    file = trained(name)
    found = lists_of(recommend(file, k=5))
    assert set(found) == {*RAW} | (set() if name in SEQUENTIAL else {"alone"})
    for user in ("u0", "u7", "u23"):
        scores = scores_of(file, RAW[user], user)
        assert_same(found[user], best(scores, 5, RAW[user]))
        for item, score in found[user]:
            assert scores[item] == pytest.approx(score, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", ["BSPM", "GiffCF"])  # keep a filter of the training part, whatever rows they are given
def test_filters_stay_as_they_were_trained(name, trained):
    users = recommend(trained(name), list(RAW))
    histories = recommend(trained(name), histories=list(RAW.values()))
    assert histories["item"].tolist() == users["item"].tolist()
    np.testing.assert_allclose(histories["score"], users["score"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["DiffRec", "TDiffRec", "EASE", "MultiVAE", "DreamRec", "SequentialKNN", "SASRec"])
def test_a_history_like_a_user_s_own_has_the_user_s_list(name, trained):
    users = recommend(trained(name), list(RAW))
    histories = recommend(trained(name), histories=[" ".join(items) for items in RAW.values()])
    assert histories["history"].tolist() == [int(user[1:]) + 1 for user in users["user"]]
    assert histories["item"].tolist() == users["item"].tolist()
    np.testing.assert_allclose(histories["score"], users["score"], rtol=1e-4, atol=1e-5)
    one = recommend(trained(name), histories=[["i3", "i1", "i4"]], k=3)
    assert_same(lists_of(one, "history")[1], best(scores_of(trained(name), ["i3", "i1", "i4"]), 3, ["i3", "i1", "i4"]))


@pytest.mark.parametrize("name", ["DiffRec", "DreamRec", "SequentialKNN"])
def test_what_has_been_seen_is_masked_or_kept(name, trained):
    everything = lists_of(recommend(trained(name), k=N_ITEMS))
    for user, items in RAW.items():
        assert {item for item, _ in everything[user]} == {f"i{item}" for item in range(N_ITEMS)} - set(items)
    kept = lists_of(recommend(trained(name), ["u3"], k=N_ITEMS, keep_seen=True))["u3"]
    assert_same(kept, best(scores_of(trained(name), RAW["u3"]), N_ITEMS))
    assert len(kept) == N_ITEMS
    assert lists_of(recommend(trained(name), "u3", k=N_ITEMS, keep_seen=True)).keys() == {"u3"}
    assert recommend(trained(name), histories="i3 i1", k=2)["history"].tolist() == [1, 1]


@pytest.mark.parametrize("name", ["DreamRec", "SASRec", "DiffRec"])
def test_the_training_part_can_be_all_that_a_user_has_had(name, trained):
    found = lists_of(recommend(trained(name), ["u5"], k=N_ITEMS, input="train"))["u5"]
    items = RAW["u5"][:-2]
    if name == "DiffRec":
        _, _, data, train, *_ = load_trained(trained(name))
        rows = train.dataset.inter_feat
        mine = rows["item_id"][rows["user_id"] == data.token2id("user_id", "u5")]
        items = data.id2token("item_id", mine).tolist()
        assert 0 < len(items) < len(RAW["u5"])
    assert_same(found, best(scores_of(trained(name), items), N_ITEMS, items))


@pytest.mark.parametrize("name", ["EASE", "DreamRec"])
def test_the_validation_part_counts_once_for_a_refitted_model(name, trained):
    file = trained(name, refit=True)
    assert "refit" in file
    assert_same(lists_of(recommend(file, ["u9"], k=5))["u9"], best(scores_of(file, RAW["u9"]), 5, RAW["u9"]))


def test_what_users_have_had_is_in_order(trained):
    for name in ("SASRec", "PackedSASRec"):
        *_, data, train, valid, test = load_trained(trained(name))
        had, place = items_of_users([part.dataset for part in (train, valid, test)])
        for user, items in RAW.items():
            row, item = had.entries(np.array([data.token2id("user_id", user)]))
            assert data.id2token("item_id", item).tolist() == items and not row.any()
        targets = np.concatenate([part.dataset.inter_feat["item_id"].numpy() for part in (train, valid, test)])
        assert (had.items[place] == targets).all()


@pytest.mark.parametrize("name", ["DiffRec", "EASE", "DreamRec", "SequentialKNN"])
def test_chunks_change_nothing(name, trained, monkeypatch):
    histories = [items[:4] for items in RAW.values()] * 2  # more than there are users
    whole = [recommend(trained(name), k=3), recommend(trained(name), histories=histories, k=3)]
    monkeypatch.setattr(module, "_CELLS", 5 * (N_ITEMS + 1 + module._CELLS_PER_LISTED * 3))
    assert chunk_size(N_ITEMS + 1, 3) == 5
    for one, parts in zip(
        whole, [recommend(trained(name), k=3), recommend(trained(name), histories=histories, k=3)], strict=True
    ):
        assert one.drop(columns="score").equals(parts.drop(columns="score"))
        np.testing.assert_allclose(one["score"], parts["score"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_items", [2, 1_000, 40_982, 3_000_000, 10**8])
def test_memory_is_bounded_by_the_number_of_items(n_items):
    size = chunk_size(n_items, 10)
    assert size == 1 or size * n_items <= module._CELLS
    assert 1 <= size <= 1024
    assert chunk_size(n_items, 10, limit=3) <= 3


def test_unknown_ids_are_named_and_the_rest_is_served(trained, capsys):
    assert main(["recommend", trained("DreamRec"), "--users", "u1", "nobody", "alone", "[PAD]", "u2", "--k", "2"]) == 0
    out, err = capsys.readouterr()
    lines = [line.split(",") for line in out.splitlines()]
    assert lines[0] == ["user", "rank", "item", "score"]
    assert [line[:2] for line in lines[1:]] == [["u1", "1"], ["u1", "2"], ["u2", "1"], ["u2", "2"]]
    assert err.splitlines() == ["unknown users: nobody, [PAD]", "users without interactions: alone"]
    assert main(["recommend", trained("DiffRec"), "--history", "i1 x i2", "--history", "y", "--k", "1", "--names"]) == 0
    out, err = capsys.readouterr()
    header, row = out.splitlines()
    assert header == "history,rank,item,score,name" and row.startswith("1,1,i")
    assert row.split(",")[4] == "Film " + row.split(",")[2][1:]
    assert err.splitlines()[:2] == ["history 1: unknown items: x", "history 2: unknown items: y"]
    assert main(["recommend", trained("DreamRec"), "--users", "nobody"]) == 2
    assert capsys.readouterr().err.splitlines()[1:] == ["error: nothing to recommend: no user is left"]


def test_users_and_histories_come_from_files_too(trained, tmp_path):
    (tmp_path / "users.txt").write_text("u4\n\nu2\n")
    (tmp_path / "histories.txt").write_text("i1 i2\ni3\n")
    base = ["recommend", trained("SequentialKNN"), "--k", "2", "--out"]
    assert main([*base, "u.csv", "--users", "u1", "--users-file", "users.txt"]) == 0
    assert pd.read_csv("u.csv")["user"].tolist() == ["u1", "u1", "u4", "u4", "u2", "u2"]
    assert main([*base, "new/h.jsonl", "--history-file", "histories.txt"]) == 0
    found = [json.loads(line) for line in (tmp_path / "new" / "h.jsonl").read_text().splitlines()]
    expected = recommend(trained("SequentialKNN"), histories=["i1 i2", "i3"], k=2)
    assert [record["history"] for record in found] == [1, 2]
    assert sum((record["items"] for record in found), []) == expected["item"].tolist()


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("name", ["DreamRec", "SequentialKNN"])  # scores in float32 and float64
def test_files_hold_what_the_function_returns(suffix, name, trained, monkeypatch):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    frame = recommend(trained(name), k=4, names=True)
    monkeypatch.setattr(module, "_CELLS", 5 * (N_ITEMS + 1 + module._CELLS_PER_LISTED * 4))  # several pieces
    recommend(trained(name), k=4, names=True, out=f"lists.{suffix}")
    if suffix == "jsonl":
        lines = [json.loads(line) for line in open("lists.jsonl", encoding="utf-8")]
        assert all(len(line["items"]) == len(line["scores"]) == len(line["names"]) == 4 for line in lines)
        columns = {"user": "user", "items": "item", "scores": "score", "names": "name"}
        read = pd.DataFrame(lines).explode(["items", "scores", "names"]).rename(columns=columns)
        assert read["score"].map(type).eq(float).all()
    else:
        read = (pd.read_csv if suffix == "csv" else pd.read_parquet)(f"lists.{suffix}")
        assert read["rank"].tolist() == frame["rank"].tolist()
    for column in ("user", "item", "name"):
        assert read[column].tolist() == frame[column].tolist()
    np.testing.assert_allclose(read["score"].astype(float), frame["score"].astype(float), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_file_appears_whole_or_not_at_all(suffix, tmp_path):
    lists = Lists("user", np.array(["a"], object), np.array([["x"]], object), np.float32([[0.1]]), np.array([[True]]))
    file = tmp_path / f"lists.{suffix}"
    file.write_text("old")
    with pytest.raises(KeyboardInterrupt), writing(file) as write:
        write(lists)
        raise KeyboardInterrupt
    assert file.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == [file.name]
    with writing(file) as write:
        write(lists)
    assert ("a,1,x,0.1\n" if suffix == "csv" else '"scores": [0.1]}') in file.read_text()


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("BPR", ["--history", "i1"], "histories: BPR scores its own users only"),
        ("CDAE", ["--history", "i1"], "histories: CDAE scores its own users only"),
        ("CFGAN", ["--history", "i1"], "histories: CFGAN scores its own users only"),
        ("FPMC", ["--history", "i1"], "FPMC reads 'user_id' as well"),
        ("DreamRec", ["--history", "i1", "--users", "u1"], "users and histories are both given"),
        ("DreamRec", ["--k", "0"], "k = 0: must be between 1 and the number of items, 40"),
        ("DreamRec", ["--k", "41"], "k = 41: must be between 1 and the number of items, 40"),
        ("DreamRec", ["--out", "lists.txt"], "--out lists.txt: must end in one of .csv, .parquet, .jsonl"),
        ("DreamRec", ["--out", "lists.parquet"], "Parquet files need the package pyarrow"),
        ("DreamRec", ["--approximate"], "--approximate needs the package faiss-cpu"),
        ("SASRec", ["--approximate"], "--approximate: SASRec has no item embeddings to search"),
        ("DreamRec", ["--users-file", "missing.txt"], "file 'missing.txt': No such file"),
    ],
)
def test_what_cannot_be_served_is_one_line(name, arguments, says, trained, capsys, monkeypatch):
    file = trained(name)  # before pyarrow is hidden: pandas may need it
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert main(["recommend", file, *arguments]) == 2
    out, error = capsys.readouterr()
    assert error.startswith("error: ") and says in error and error.count("\n") == 1 and not out
    with pytest.raises(SettingsError, match="input = 'both'"):
        recommend(file, input="both")


@pytest.mark.parametrize("name", ["DreamRec", "PackedSASRec"])
def test_approximate_search_says_its_recall(name, trained, capsys):
    pytest.importorskip("faiss")
    exact = recommend(trained(name), k=5)
    found = recommend(trained(name), k=5, approximate=True)
    same = {*zip(exact["user"], exact["item"], strict=True)} & {*zip(found["user"], found["item"], strict=True)}
    says = f"recall@5 {len(same) / len(exact):.4f} against exact search, {N_USERS} of {N_USERS} lists compared"
    assert says in capsys.readouterr().err and len(same) > 0.9 * len(exact)


@pytest.mark.parametrize("name", ["DiffRec", "DreamRec", "SequentialKNN", "PackedSASRec"])
def test_recbole_s_case_study_takes_our_models(name, trained):
    _, model, data, _, _, test = load_trained(trained(name))
    users = data.token2id("user_id", np.array(["u0", "u7"]))
    scores = full_sort_scores(users, model, test)
    values, items = full_sort_topk(users, model, test, 3)
    assert scores.shape == (2, N_ITEMS + 1)
    for row, user in enumerate(("u0", "u7")):
        mine = RAW[user][:-1]
        if name == "DiffRec":  # reads the training part; the seen items are masked
            part = load_trained(trained(name))[3].dataset.inter_feat
            mine = data.id2token("item_id", part["item_id"][part["user_id"] == int(users[row])]).tolist()
            masked = {str(token) for token in data.id2token("item_id", test.uid2history_item[int(users[row])])}
        else:
            masked = set()
        expected = best(scores_of(trained(name), mine), 3, masked)
        found = data.id2token("item_id", items[row]).tolist()
        assert_same(list(zip(found, values[row].tolist(), strict=True)), expected)


def test_a_progress_bar_counts_users(trained, capsys):
    recommend(trained("DreamRec"), list(RAW), k=1, show_progress=True)
    assert f"{N_USERS}/{N_USERS}" in capsys.readouterr().err


def test_the_function_is_the_package_s_own():
    assert recbole_diffusion.recommend is recommend and recbole_diffusion.recommend is recommend
