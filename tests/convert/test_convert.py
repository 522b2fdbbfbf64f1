"""Converters: files written, refused and put in place; and what RecBole reads from them."""

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer
from sources import (
    DIFFREC,
    DREAMREC,
    ITEM_NUM,
    dreamrec_frame,
    write_diffrec,
    write_dreamrec,
    write_lightgcn,
    write_lines,
)

from recbole_diffusion.adapter import given_histories, repairs
from recbole_diffusion.convert.convert import KINDS, convert
from recbole_diffusion.convert.report import PartCount

repairs.apply()
given_histories.install()


def lines_of(folder, ending):
    return (folder / f"{folder.name}.{ending}").read_text().split("\n")[:-1]


def load(folder, model="BPR", **settings):
    """RecBole's three data loaders over a converted folder."""
    settings = {
        "data_path": str(folder.parent),
        "train_neg_sample_args": None if model in ("SASRec", "GRU4Rec", "Pop") else {"distribution": "uniform"},
        "show_progress": False,
        "checkpoint_dir": "saved",
        "epochs": 1,
        **settings,
    }
    files = [str(folder / f"{folder.name}.yaml")]
    config = Config(model=model, dataset=folder.name, config_file_list=files, config_dict=settings)
    return config, *data_preparation(config, create_dataset(config))


def tokens(loader, field):
    data = loader.dataset
    return data.id2token(field, data.inter_feat[field].numpy()).tolist()


def pairs(loader):
    users, items = tokens(loader, "user_id"), tokens(loader, "item_id")
    return [[int(user), int(item)] for user, item in zip(users, items, strict=True)]


def histories(loader):
    """Rows of (history, target) as the source has them; padding left out."""
    data = loader.dataset
    rows = data.id2token("item_id", data.inter_feat["item_id_list"].numpy())
    found = [[int(item) for item in row if item != "[PAD]"] for row in rows.tolist()]
    return list(zip(found, map(int, tokens(loader, "item_id")), strict=True))


def train_and_test(config, train, valid, test):
    model = get_model(config["model"])(config, train.dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.fit(train, valid, saved=False, show_progress=False, verbose=False)
    return trainer.evaluate(test, load_best_model=False)


# ------------------------------------------------------------------------------------------------------------ DiffRec


def test_diffrec_files(tmp_path):
    report = convert("diffrec", write_diffrec(tmp_path / "src"), tmp_path / "dst", name="tiny")
    assert report.folder == tmp_path / "dst" / "tiny"
    assert sorted(path.name for path in report.folder.iterdir()) == [
        "tiny.inter",
        "tiny.test.inter",
        "tiny.train.inter",
        "tiny.valid.inter",
        "tiny.yaml",
    ]
    header = "user_id:token\titem_id:token\ttimestamp:float"
    assert lines_of(report.folder, "train.inter") == [header, "5\t2\t0", "0\t7\t0", "5\t3\t1", "0\t3\t1"]
    # Positions go on through the parts.
    assert lines_of(report.folder, "valid.inter") == [header, "0\t2\t2", "5\t7\t2"]
    assert lines_of(report.folder, "test.inter") == [header, "5\t11\t3", "9\t2\t0", "5\t0\t4", "9\t4\t1"]
    parts = [lines_of(report.folder, f"{part}.inter")[1:] for part in DIFFREC]
    assert lines_of(report.folder, "inter") == [header, *parts[0], *parts[1], *parts[2]]


def test_diffrec_report(tmp_path):
    report = convert("diffrec", write_diffrec(tmp_path / "src"), tmp_path / "dst")
    assert report.name == "src"
    assert report.parts == (
        PartCount("train", rows=4, users=2, items=3, new_users=2, new_items=3),
        PartCount("valid", rows=2, users=2, items=2, new_users=0, new_items=0),
        PartCount("test", rows=4, users=2, items=4, new_users=1, new_items=3),
    )
    assert report.total == PartCount("total", rows=10, users=3, items=6, new_users=3, new_items=6)
    assert report.notes == ()
    table = report.table().split("\n")
    assert table[0] == f"src in {tmp_path / 'dst' / 'src'}"
    assert table[1].split() == "part rows users items new users new items empty histories".split()
    assert table[4].split() == ["test", "4", "2", "4", "1", "3", "-"]
    assert len(set(map(len, table[1:6]))) == 1


def test_diffrec_under_a_general_model(tmp_path):
    folder = convert("diffrec", write_diffrec(tmp_path / "src"), tmp_path / "dst").folder
    config, *loaders = load(folder)
    for loader, part in zip(loaders, DIFFREC, strict=True):
        assert sorted(pairs(loader)) == sorted(DIFFREC[part])
    train = loaders[0].dataset
    assert (train.user_num, train.item_num) == (4, 7)
    assert dict(zip(map(tuple, pairs(loaders[0])), train.inter_feat["timestamp"].tolist(), strict=True)) == {
        (5, 2): 0,
        (0, 7): 0,
        (5, 3): 1,
        (0, 3): 1,
    }


def test_diffrec_under_a_sequential_model(tmp_path):
    folder = convert("diffrec", write_diffrec(tmp_path / "src"), tmp_path / "dst").folder
    with pytest.raises(
        ValueError, match=r"no column 'item_id_list'.*--benchmark_filename=None RecBole reads src\.inter"
    ):
        load(folder, "SASRec")
    config, train, valid, test = load(folder, "SASRec", benchmark_filename=None)
    # Leave one out over the whole of each user's list; RecBole keeps a row of each user for training.
    assert sorted(histories(train)) == [([2], 3), ([2], 4), ([2, 3], 7), ([7], 3)]
    assert sorted(histories(valid)) == [([2, 3, 7], 11)]
    assert sorted(histories(test)) == [([2, 3, 7, 11], 0), ([7, 3], 2)]


def test_pairs_that_a_later_part_repeats_are_reported(tmp_path):
    src = write_diffrec(tmp_path / "src", valid=[[5, 2], [0, 2]], test=[[0, 2], [5, 2], [9, 9]])
    report = convert("diffrec", src, tmp_path / "dst")
    assert report.notes == (
        "1 rows of valid repeat a pair of an earlier part",
        "2 rows of test repeat a pair of an earlier part",
    )
    assert report.table().split("\n")[-1] == f"note: {report.notes[1]}"


# ----------------------------------------------------------------------------------------------------------- LightGCN


def test_lightgcn(tmp_path):
    report = convert("lightgcn", write_lightgcn(tmp_path / "src"), tmp_path / "dst")
    header = "user_id:token\titem_id:token"
    assert lines_of(report.folder, "train.inter") == [header, "3\t1", "3\t4", "3\t10", "0\t4"]
    assert not (report.folder / "src.inter").exists()
    assert report.parts == (
        PartCount("train", rows=4, users=2, items=3, new_users=2, new_items=3),
        PartCount("valid", rows=1, users=1, items=1, new_users=0, new_items=0),
        PartCount("test", rows=4, users=3, items=4, new_users=1, new_items=2),
    )
    assert report.notes == ("1 users have a line but no item in any part, and get no id",)
    _, train, valid, test = load(report.folder)
    assert sorted(pairs(train)) == [[0, 4], [3, 1], [3, 4], [3, 10]]
    assert sorted(pairs(valid)) == [[0, 1]]
    assert sorted(pairs(test)) == [[0, 6], [3, 2], [5, 1], [5, 10]]
    assert (train.dataset.user_num, train.dataset.item_num) == (4, 6)


def test_lightgcn_without_validation_trains_all_epochs(tmp_path):
    report = convert("lightgcn", write_lightgcn(tmp_path / "src", valid=None), tmp_path / "dst")
    assert [part.rows for part in report.parts] == [4, 0, 4]
    assert "the last is tested" in report.notes[-1]
    assert "no validation part" in (report.folder / "src.yaml").read_text()
    config, train, valid, test = load(report.folder, topk=[1], valid_metric="Recall@1")
    assert len(valid) == 0
    result = train_and_test(config, train, valid, test)
    assert 0 <= result["recall@1"] <= 1


def test_line_ends_and_spaces_do_not_matter(tmp_path):
    src = write_lightgcn(tmp_path / "src", valid=None)
    (src / "train.txt").write_bytes(b"3 1\t4 \r\n0  4 \r\n\r\n\n")
    report = convert("lightgcn", src, tmp_path / "dst")
    assert lines_of(report.folder, "train.inter")[1:] == ["3\t1", "3\t4", "0\t4"]


# ------------------------------------------------------------------------------------------------------------- S3-Rec


def test_s3rec(tmp_path):
    src = write_lines(tmp_path / "Toy.txt", "1 4 2 4 9", "2 9 1 3", "3 5")
    report = convert("s3rec", src, tmp_path / "dst")
    assert report.name == "Toy"
    assert lines_of(report.folder, "inter")[1:5] == ["1\t4\t0", "1\t2\t1", "1\t4\t2", "1\t9\t3"]
    assert report.parts == (PartCount("all", rows=8, users=3, items=6, new_users=3, new_items=6),)
    assert report.table().count("\n") == 2
    _, train, valid, test = load(report.folder, "SASRec")
    # Item 4 is there twice, and stays. RecBole keeps a row of each user for training.
    assert sorted(histories(train)) == [([4], 2), ([9], 1)]
    assert sorted(histories(valid)) == [([4, 2], 4)]
    assert sorted(histories(test)) == [([4, 2, 4], 9), ([9, 1], 3)]
    leave_one_out = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}
    _, train, valid, test = load(report.folder, eval_args=leave_one_out)
    assert sorted(pairs(test)) == [[1, 9], [2, 3]]
    assert sorted(pairs(valid)) == [[1, 4], [2, 1]]


# ----------------------------------------------------------------------------------------------------------- DreamRec


@pytest.mark.parametrize("names", [("seq", "len_seq", "next"), ("seq", "seq_len", "tgt")])
def test_dreamrec_under_a_sequential_model(tmp_path, names):
    report = convert("dreamrec", write_dreamrec(tmp_path / "src", names=names), tmp_path / "dst")
    config, *loaders = load(report.folder, "SASRec", topk=[3], valid_metric="NDCG@3")
    for loader, part in zip(loaders, DREAMREC, strict=True):
        assert histories(loader) == DREAMREC[part]
        lengths = loader.dataset.inter_feat["item_length"].tolist()
        # An empty history has length 1, as in the source.
        assert lengths == [max(len(history), 1) for history, _ in DREAMREC[part]]
        assert loader.dataset.inter_feat["item_id_list"].shape[1] == config["MAX_ITEM_LIST_LENGTH"] == 3
    data = loaders[0].dataset
    # Every item of the catalogue has an id, whether it occurs or not; padding is no item.
    assert sorted(data.field2id_token["item_id"]) == sorted(["[PAD]", *map(str, range(ITEM_NUM))])
    assert data.field2token_id["item_id_list"] == data.field2token_id["item_id"]
    assert np.isfinite(list(train_and_test(config, *loaders).values())).all()


def test_dreamrec_files(tmp_path):
    report = convert("dreamrec", write_dreamrec(tmp_path / "src"), tmp_path / "dst")
    assert lines_of(report.folder, "train.inter") == [
        "user_id:token\tsession_id:token\titem_id_list:token_seq\titem_id:token",
        "train-session-0\ttrain-session-0\t\t2",
        "train-session-0\ttrain-session-0\t2\t0",
        "train-session-0\ttrain-session-0\t2 0\t4",
        "train-session-0\ttrain-session-0\t2 0 4\t6",
        "train-session-0\ttrain-session-0\t0 4 6\t2",
        "train-session-1\ttrain-session-1\t\t3",
        "train-session-1\ttrain-session-1\t3\t3",
    ]
    assert lines_of(report.folder, "valid.inter")[1:] == [
        "valid-0\tvalid-session-0\t\t4",
        "valid-1\tvalid-session-0\t4\t0",
        "valid-2\tvalid-session-1\t\t4",
    ]
    assert [line.split("\t")[1] for line in lines_of(report.folder, "test.inter")[1:]] == [
        "test-session-0",
        "test-session-1",
    ]
    assert lines_of(report.folder, "item") == ["item_id:token", *map(str, range(ITEM_NUM))]


@pytest.mark.parametrize(("item_num", "n_rows"), [(9_514, 14_000), (7_261, 3_000)], ids=["yoochoose", "kuairec"])
def test_dreamrec_ids_may_be_whole_floats(tmp_path, item_num, n_rows):
    """The shape of the official YooChoose and KuaiRec files: ids such as 6325.0 before integer padding."""
    random = np.random.default_rng(0)
    items, lengths = random.integers(0, item_num, (n_rows, 11)), random.integers(1, 11, n_rows)
    rows = [[*map(float, row[:n]), *[item_num] * (10 - n)] for row, n in zip(items.tolist(), lengths, strict=True)]
    frame = pd.DataFrame({"seq": rows, "len_seq": lengths, "next": items[:, 10].astype(float)})
    sizes = pd.DataFrame({"seq_size": [10], "item_num": [item_num]})
    src = write_dreamrec(tmp_path / "src", statis=sizes, train=frame, valid=frame[:50], test=frame[50:90])
    report = convert("dreamrec", src, tmp_path / "dst")
    assert [part.rows for part in report.parts] == [n_rows, 50, 40]
    written = [line.split("\t")[2:] for line in lines_of(report.folder, "train.inter")[1:]]
    assert written == [[" ".join(map(str, row[:n])), str(row[10])] for row, n in zip(items.tolist(), lengths, strict=True)]
    assert lines_of(report.folder, "item")[-1] == str(item_num - 1)


def test_dreamrec_report(tmp_path):
    report = convert("dreamrec", write_dreamrec(tmp_path / "src"), tmp_path / "dst")
    assert report.parts == (
        PartCount("train", rows=7, users=2, items=5, new_users=2, new_items=5, empty_histories=2),
        PartCount("valid", rows=3, users=2, items=2, new_users=2, new_items=0, empty_histories=2),
        PartCount("test", rows=2, users=2, items=3, new_users=2, new_items=2, empty_histories=1),
    )
    assert report.total == PartCount("total", rows=12, users=6, items=7, new_users=6, new_items=7, empty_histories=5)
    assert report.notes == ("1 of the catalogue's 8 items occur nowhere; they are ranked too",)


def test_dreamrec_rows_are_evaluated_one_by_one(tmp_path):
    folder = convert("dreamrec", write_dreamrec(tmp_path / "src"), tmp_path / "dst").folder
    # Row by row under general models and with sampled negatives too, where RecBole groups by user.
    _, _, valid, test = load(folder, "Pop")
    assert sum(len(batch[0]) for batch in valid) == 3
    assert sum(len(batch[0]) for batch in test) == 2
    args = {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "uni3"}
    _, _, valid, test = load(folder, "SASRec", eval_args=args)
    assert len(valid.uid_list) == 3


# ------------------------------------------------------------------------------------------------------- YAML settings


@pytest.mark.parametrize("kind", KINDS)
def test_settings_are_yaml_with_a_comment_on_each_key(tmp_path, kind):
    src = {
        "diffrec": write_diffrec,
        "lightgcn": write_lightgcn,
        "dreamrec": write_dreamrec,
        "s3rec": lambda path: write_lines(path / "x.txt", "1 2 3 4"),
        "ratings": lambda path: write_lines(path / "x.txt", "1 2 3 4"),
    }[kind](tmp_path / "src")
    folder = convert(kind, src, tmp_path / "dst", name="set.1").folder
    text = (folder / "set.1.yaml").read_text()
    settings = yaml.safe_load(text)
    assert settings["load_col"]["inter"][0] == "user_id"
    for key in settings:
        assert re.search(rf"^{key}:.*  # \((str|int|list|dict)\) \S", text, flags=re.M), key
    assert text.startswith("# set.1, converted from")
    assert max(map(len, text.split("\n"))) <= 120


# --------------------------------------------------------------------------------------------------- refused sources


def refused(kind, src, dst, message):
    with pytest.raises(ValueError) as caught:
        convert(kind, src, dst)
    text = str(caught.value)
    assert re.search(message, text), text
    assert "\n" not in text
    assert not dst.exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[0, 1], [2, -3]], r"train_list\.npy: row 1: negative item id -3"),
        ([[0, 1], [-2, 3], [-4, 1]], r"train_list\.npy: row 1: negative user id -2"),
        ([[0, 1], [2, 3], [0, 1]], r"train_list\.npy: row 2: user 0, item 1 occurs a second time"),
        ([[0.0, 1.0]], r"train_list\.npy: expected an integer array \[n, 2\].*found float64 \[1, 2\]"),
        ([[0, 1, 2]], r"train_list\.npy: expected.*found int64 \[1, 3\]"),
        ([0, 1], r"train_list\.npy: expected.*found int64 \[2\]"),
        ([[True, False]], r"train_list\.npy: expected.*found bool"),
        (np.array([[None, 1]], dtype=object), r"train_list\.npy: not a readable \.npy array: .*allow_pickle"),
        (np.empty((0, 2), dtype=np.int64), r"train_list\.npy: holds no row"),
        (np.array([[0, 2**63]], dtype=np.uint64), r"train_list\.npy: row 0: negative item id"),
    ],
)
def test_diffrec_refuses(tmp_path, rows, message):
    refused("diffrec", write_diffrec(tmp_path / "src", train=rows), tmp_path / "dst", message)


def test_diffrec_refuses_files(tmp_path):
    src = write_diffrec(tmp_path / "src")
    (src / "train_list.npy").write_bytes(b"\x93NUMPY rubbish")
    refused("diffrec", src, tmp_path / "dst", r"train_list\.npy: not a readable")
    np.savez(src / "x.npz", a=np.arange(3))
    (src / "x.npz").rename(src / "train_list.npy")
    refused("diffrec", src, tmp_path / "dst", r"train_list\.npy: expected.*found an archive")
    (src / "train_list.npy").unlink()
    (src / "test_list.npy").unlink()
    refused("diffrec", src, tmp_path / "dst", r"src: no train_list\.npy, test_list\.npy; expected .*valid_list\.npy")
    refused("diffrec", src / "valid_list.npy", tmp_path / "dst", r"valid_list\.npy: not a folder")
    refused("diffrec", tmp_path / "none", tmp_path / "dst", r"none: no such folder; expected train_list\.npy")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["0 1", "1 2 -3"], r"train\.txt: line 2: '-3' is not a non-negative integer"),
        (["0 1", "1 2.5"], r"train\.txt: line 2: '2\.5' is not"),
        (["0 1", "", "x 2"], r"train\.txt: line 3: 'x' is not"),
        (["0 1,2"], r"train\.txt: line 1: '1,2' is not"),
        (["0 1_000"], r"train\.txt: line 1: '1_000' is not"),
        (["0 1", "1 ٣"], r"train\.txt: line 2: '٣' is not"),
        (["0 1", "1 " + "9" * 5000], r"train\.txt: line 2: '9{20}' is not .* at most 18 digits"),
        (["0 1", "", "1 2"], r"train\.txt: line 2: blank line"),
        (["0 1", "1 2", "0 3"], r"train\.txt: line 3: user 0 has a line already"),
        (["0 1", "1 2 3 2"], r"train\.txt: line 2: item 2 occurs twice for user 1"),
        ([], r"train\.txt: is empty"),
        (["", " "], r"train\.txt: is empty"),
    ],
)
def test_lightgcn_refuses(tmp_path, lines, message):
    refused("lightgcn", write_lightgcn(tmp_path / "src", train=lines), tmp_path / "dst", message)


def test_lightgcn_refuses_a_folder_without_test_part(tmp_path):
    src = write_lightgcn(tmp_path / "src", test=None)
    refused(
        "lightgcn", src, tmp_path / "dst", r"src: no test\.txt; expected train\.txt, test\.txt: and optionally valid"
    )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["1 2", "2"], r"x\.txt: line 2: user 2 has no item"),
        (["0 2 3"], r"x\.txt: line 1: user 0, but ids start at 1"),
        (["1 2", "2 3 0 4"], r"x\.txt: line 2: item 0, but ids start at 1"),
        (["1 2", "2 a"], r"x\.txt: line 2: 'a' is not"),
        (["1 2", "1 3"], r"x\.txt: line 2: user 1 has a line already"),
    ],
)
def test_s3rec_refuses(tmp_path, lines, message):
    refused("s3rec", write_lines(tmp_path / "x.txt", *lines), tmp_path / "dst", message)


def test_s3rec_refuses_a_folder_and_nothing(tmp_path):
    write_lines(tmp_path / "src" / "a.txt", "1 2")
    refused("s3rec", tmp_path / "src", tmp_path / "dst", r"src: is a folder; name one of its files \(a\.txt\)")
    refused("s3rec", tmp_path / "none.txt", tmp_path / "dst", r"none\.txt: no such file")


def changed(row, **values):
    """The training frame with other values in one row."""
    frame = dreamrec_frame(DREAMREC["train"]).astype(object)
    for column, value in values.items():
        frame.at[row, column] = value
    return frame


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (changed(1, seq=[9, 8, 8]), r"train_data\.df: row 1: item 9 is outside 0\.\.8 \(8 is padding\)"),
        (changed(1, seq=[-1, 8, 8]), r"train_data\.df: row 1: item -1 is outside"),
        (changed(2, seq=[2, 8, 0]), r"train_data\.df: row 2: an item after padding in seq"),
        (changed(1, len_seq=2), r"train_data\.df: row 1: len_seq is 2, but seq holds 1 items"),
        (
            changed(0, len_seq=0),
            r"train_data\.df: row 0: len_seq is 0, but seq holds 0 items \(an empty history has length 1",
        ),
        (changed(3, next=8), r"train_data\.df: row 3: next is 8, outside 0\.\.7"),
        (changed(3, next=-1), r"train_data\.df: row 3: next is -1, outside"),
        (changed(3, next=1.5), r"train_data\.df: row 3: next is 1\.5, not an integer"),
        (changed(3, next=None), r"train_data\.df: row 3: next is None, not an integer"),
        (changed(3, len_seq="3"), r"train_data\.df: row 3: len_seq is 3, not an integer"),
        (changed(2, seq=[2, 0]), r"train_data\.df: row 2: seq holds 2 entries, expected 3 \(seq_size"),
        (changed(2, seq=[2, 0, 4, 1]), r"train_data\.df: row 2: seq holds 4 entries"),
        (changed(2, seq=[2, 0.5, 8]), r"train_data\.df: row 2: 0\.5 in seq is not an integer"),
        (changed(2, seq="abc"), r"train_data\.df: row 2: seq is 'abc', expected a list"),
        (changed(2, seq=None), r"train_data\.df: row 2: seq is None, expected a list"),
        (changed(2, seq=[2, 2**70, 8]), r"train_data\.df: row 2: 1180591620717411303424 in seq is not an integer of"),
        (changed(2, seq=[2, [0], 8]), r"train_data\.df: row 2: \[0\] in seq is not an integer"),
        (changed(2, seq=[2, np.nan, 8]), r"train_data\.df: row 2: nan in seq is not an integer"),
        (changed(2, seq=[2, 1e30, 8]), r"train_data\.df: row 2: 1e\+30 in seq is not an integer of at most 63"),
        (changed(3, next=np.inf), r"train_data\.df: row 3: next is inf, not an integer"),
        (changed(3, next=2**70), r"train_data\.df: row 3: next is 1180591620717411303424, not an integer"),
        (dreamrec_frame([]), r"train_data\.df: holds no row"),
        (
            dreamrec_frame(DREAMREC["train"]).drop(columns="next"),
            r"train_data\.df: expected the columns seq, len_seq, next or",
        ),
        (dreamrec_frame(DREAMREC["train"])["seq"], r"train_data\.df: refused, because it names pandas\.\S*Series"),
        ([1, 2], r"train_data\.df: not a readable pickle of a pandas DataFrame"),
    ],
)
def test_dreamrec_refuses(tmp_path, frame, message):
    refused("dreamrec", write_dreamrec(tmp_path / "src", train=frame), tmp_path / "dst", message)


@pytest.mark.parametrize(
    ("statis", "message"),
    [
        (pd.DataFrame({"seq_size": [3]}), r"data_statis\.df: expected one row .* found 1 rows with seq_size"),
        (pd.DataFrame({"seq_size": [3, 3], "item_num": [8, 8]}), r"data_statis\.df: expected one row .* found 2 rows"),
        (
            pd.DataFrame({"seq_size": [0], "item_num": [8]}),
            r"data_statis\.df: row 0: seq_size is 0, must be at least 1",
        ),
        (
            pd.DataFrame({"seq_size": [3], "item_num": [8.5]}),
            r"data_statis\.df: row 0: item_num is 8\.5, not an integer",
        ),
    ],
)
def test_dreamrec_refuses_sizes(tmp_path, statis, message):
    refused("dreamrec", write_dreamrec(tmp_path / "src", statis=statis), tmp_path / "dst", message)


def test_dreamrec_refuses_missing_files_and_empty_histories(tmp_path):
    rows = {part: dreamrec_frame([([], 2), ([], 3)]) for part in DREAMREC}
    refused("dreamrec", write_dreamrec(tmp_path / "empty", **rows), tmp_path / "dst", r"empty: every history is empty")
    src = write_dreamrec(tmp_path / "src")
    (src / "val_data.df").unlink()
    message = r"src: no val_data\.df; expected data_statis\.df, .*: pandas pickles with columns seq, len_seq, next or"
    refused("dreamrec", src, tmp_path / "dst", message)


# ---------------------------------------------------------------------------------------------- names, targets, force


@pytest.mark.parametrize("name", ["", ".", "..", ".x", "-x", "a/b", "a b", "a\n", "ä", "../x", "ml-100k", "url"])
def test_refuses_names(tmp_path, name):
    with pytest.raises(ValueError, match="^name = "):
        convert("diffrec", write_diffrec(tmp_path / "src"), tmp_path / "dst", name=name)
    assert not (tmp_path / "dst").exists()


def test_refuses_an_unknown_kind(tmp_path):
    with pytest.raises(ValueError, match="kind = 'csv': must be one of diffrec, dreamrec, s3rec, lightgcn, ratings"):
        convert("csv", tmp_path, tmp_path)


def snapshot(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_an_existing_target_stays_unless_forced(tmp_path):
    dst = tmp_path / "dst"
    convert("diffrec", write_diffrec(tmp_path / "one"), dst, name="x")
    before = snapshot(dst)
    two = write_lightgcn(tmp_path / "two")
    with pytest.raises(ValueError, match=r"x: exists already; --force replaces it"):
        convert("lightgcn", two, dst, name="x")
    assert snapshot(dst) == before
    convert("lightgcn", two, dst, name="x", force=True)
    # The old x.inter is gone: nothing of two conversions mixes.
    assert sorted(snapshot(dst)) == ["x/x.test.inter", "x/x.train.inter", "x/x.valid.inter", "x/x.yaml"]
    assert [path.name for path in dst.iterdir()] == ["x"]


def test_force_never_removes_what_no_conversion_wrote(tmp_path):
    src = write_diffrec(tmp_path / "src")
    convert("diffrec", src, tmp_path / "dst", name="x")
    (tmp_path / "dst" / "x" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"not replaced, because thesis\.tex in it is not a converted file"):
        convert("diffrec", src, tmp_path / "dst", name="x", force=True)
    assert (tmp_path / "dst" / "x" / "thesis.tex").exists()
    # The source's own folder as the target.
    with pytest.raises(ValueError, match="not replaced"):
        convert("diffrec", src, tmp_path, force=True)
    assert sorted(path.name for path in src.iterdir()) == ["test_list.npy", "train_list.npy", "valid_list.npy"]
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="exists and is not a folder"):
        convert("diffrec", src, tmp_path, name="file", force=True)


def test_force_does_not_follow_a_link(tmp_path):
    src = write_diffrec(tmp_path / "src")
    convert("diffrec", src, tmp_path / "dst", name="x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").symlink_to(tmp_path / "dst" / "x", target_is_directory=True)
    with pytest.raises(ValueError, match="exists and is not a folder"):
        convert("diffrec", src, tmp_path / "other", name="x", force=True)
    assert (tmp_path / "dst" / "x" / "x.yaml").exists()


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_an_error_while_writing_leaves_nothing(tmp_path, monkeypatch, existing, error):
    src, dst = write_diffrec(tmp_path / "src"), tmp_path / "dst"
    dst.mkdir()
    if existing:
        convert("diffrec", src, dst)
    before = snapshot(dst)
    written = []
    to_csv = pd.DataFrame.to_csv

    def fail_on_third(self, path, **options):
        written.append(path)
        if len(written) == 3:
            raise error
        to_csv(self, path, **options)

    monkeypatch.setattr(pd.DataFrame, "to_csv", fail_on_third)
    with pytest.raises(type(error)):
        convert("diffrec", src, dst, force=True)
    assert len(written) == 3
    assert snapshot(dst) == before
    assert len(list(dst.iterdir())) == existing


def test_a_failed_exchange_puts_the_old_folder_back(tmp_path, monkeypatch):
    src, dst = write_diffrec(tmp_path / "src"), tmp_path / "dst"
    convert("diffrec", src, dst)
    before = snapshot(dst)
    rename = Path.rename

    def fail_on_new(self, target):
        if self.suffix == ".new":
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_on_new)
    with pytest.raises(OSError, match="no"):
        convert("diffrec", src, dst, force=True)
    assert snapshot(dst) == before
    assert len(list(dst.iterdir())) == 1


def test_a_relative_source_takes_its_folder_name(tmp_path, monkeypatch):
    monkeypatch.chdir(write_diffrec(tmp_path / "some_set"))
    assert convert("diffrec", ".", tmp_path / "dst").name == "some_set"


# --------------------------------------------------------------------------------------------------- the real files

REAL = os.environ.get("RECBOLE_DIFFUSION_DATA", "")


@pytest.mark.skipif(not REAL, reason="RECBOLE_DIFFUSION_DATA names no folder with the papers' files")
@pytest.mark.parametrize(
    ("kind", "path", "rows", "users", "items"),
    [
        ("diffrec", "diffrec/ml-1m_clean", [403_277, 110_722, 57_532], 5_949, 2_810),
        ("dreamrec", "dreamrec/zhihu", [61_641, 8_160, 7_911], None, 4_838),
        ("lightgcn", "lightgcn/gowalla", [719_081, 91_047, 217_242], 29_858, 40_981),
        ("s3rec", "s3rec/Beauty.txt", [198_502], 22_363, 12_101),
        ("s3rec", "s3rec/ml-1m.txt", [1_000_209], 6_040, 3_706),
    ],
)
def test_real_files(tmp_path, kind, path, rows, users, items):
    src = Path(REAL) / path
    if not src.exists():
        pytest.skip(f"no {path} in the folder of RECBOLE_DIFFUSION_DATA")
    report = convert(kind, src, tmp_path / "dst")
    assert [part.rows for part in report.parts] == rows
    assert report.total.items == items
    assert users is None or report.total.users == users
    assert report.notes == ()
    if kind == "dreamrec":
        # Section "DreamRec, Zhihu" of the published protocol: 14.8 % of the test rows have no history.
        assert round(report.parts[2].empty_histories / rows[2], 3) == 0.148
        _, *loaders = load(report.folder, "SASRec")
        assert [len(loader.dataset) for loader in loaders] == rows
        assert loaders[0].dataset.item_num == items + 1
        source = pd.read_pickle(src / "test_data.df")
        expected = [[item for item in row if item != items] for row in source["seq"]]
        assert histories(loaders[2]) == list(zip(expected, source["next"].tolist(), strict=True))
        assert torch.equal(loaders[2].dataset.inter_feat["item_length"], torch.tensor(source["len_seq"].to_numpy()))
