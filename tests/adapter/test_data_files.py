"""Malformed files are refused before anything is read or written, with file and line."""

import re
from pathlib import Path

import pytest

from recbole_diffusion import run_recbole_diffusion
from recbole_diffusion.adapter.config import build_config
from recbole_diffusion.adapter.data_files import check_data_files
from recbole_diffusion.settings import SettingsError
from toy import COLUMNS, QUIET, checkerboard, two_circles, write_inter

HEAD = b"user_id:token\titem_id:token\ttimestamp:float\n"
ROW = b"1\t2\t3\n"


def check(content, tmp_path, model="DiffRec", suffix="inter", **settings):
    data = two_circles(tmp_path)
    (tmp_path / "circles" / f"circles.{suffix}").write_bytes(content)
    check_data_files(build_config(model, "circles", None, data | settings))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "circles.inter: is empty"),
        (b" \n\n", "circles.inter: is empty"),
        (HEAD, "has no rows"),
        (b"\xef\xbb\xbf" + HEAD + ROW, "line 1 begins with a byte order mark"),
        (HEAD.replace(b"\t", b",") + b"1,2,3\n", "line 1: column .*separated by ',', not by field_separator"),
        (b"user_id\titem_id\ttimestamp\n" + ROW, "line 1: column 'user_id': must be name:type"),
        (HEAD.replace(b"float", b"int") + ROW, "line 1: column 'timestamp:int': must be name:type, of type token"),
        (HEAD.replace(b"timestamp", b"time") + ROW, "line 1: no column 'timestamp', which load_col asks for"),
        (HEAD.replace(b"user_id", b"user") + ROW, "line 1: no column 'user_id', only user, item_id, timestamp"),
        (HEAD.replace(b"item_id", b"user_id") + ROW, "line 1: column 'user_id' is there twice"),
        (HEAD.replace(b"item_id:token", b"item_id:float") + ROW, "column 'item_id' is of type float; must be token"),
        (HEAD + ROW + b"1\t2\n", "line 3 has 2 cells, its first line 3"),
        (HEAD + ROW + b"\n1\t2\t3\t4\n", "line 4 has 4 cells"),
        (HEAD + ROW + b"1,2,3\n", "line 3 has 1 cell, its first line 3"),
        (HEAD + 2 * b"1\t2\t3\t\n", "line 2 has 4 cells"),
        (HEAD + b'"1\t2"\t2\t3\n1\t2\n', "line 3 has 2 cells"),
        (HEAD + ROW + b"1\t2\tnoon\n", "line 3: column timestamp:float holds 'noon', which is no number"),
        (HEAD + ROW + b"\r\n1\t2\t1,5\r\n", "line 4: column timestamp:float holds '1,5'"),
        (HEAD + ROW + b"J\xfcrgen\t2\t3\n", "line 3 is not utf-8"),
        (HEAD + ROW + b"1\t2\x00\t3\n", "line 3 holds a NUL byte"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(content, message, tmp_path):
    with pytest.raises(SettingsError) as error:
        check(content, tmp_path)
    assert re.search(message, str(error.value)) and "circles.inter" in str(error.value) and "\n" not in str(error.value)


def test_good_files_pass(tmp_path):
    check(HEAD + ROW, tmp_path)
    check(HEAD + ROW + b"\n" + ROW, tmp_path)  # pandas skips blank lines
    check((HEAD + ROW).replace(b"\n", b"\r\n"), tmp_path)
    check((HEAD + ROW).replace(b"\n", b"\r"), tmp_path)
    check(HEAD + b'"1\t1"\t2\t3\n', tmp_path)  # a quoted cell may hold the separator
    check(HEAD + b"1\t2\t1e9\n1\t2\t\n", tmp_path)  # RecBole fills an empty cell
    check(b"\xef\xbb\xbf" + HEAD + ROW, tmp_path, encoding="utf-8-sig")
    check((HEAD + "Jürgen\t2\t3\n".encode("latin-1")), tmp_path, encoding="latin-1")
    check(HEAD.replace(b"\t", b",") + b"1,2,3\n", tmp_path, field_separator=",")


def test_files_of_items_are_checked_too(tmp_path):
    columns = {"load_col": COLUMNS["load_col"] | {"item": ["item_id", "price"]}}
    good = b"item_id:token\tprice:float_seq\n0\t1 2.5\n"
    check(good, tmp_path, suffix="item", **columns)
    with pytest.raises(SettingsError, match="circles.item: line 3: column price:float_seq holds '1 dear'"):
        check(good + b"1\t1 dear\n", tmp_path, suffix="item", **columns)
    with pytest.raises(SettingsError, match="circles.item: line 1: no column 'item_id'"):
        check(good.replace(b"item_id", b"item"), tmp_path, suffix="item", **columns)


def test_time_order_needs_its_column(tmp_path):
    two = b"user_id:token\titem_id:token\n1\t2\n"
    check(two, tmp_path, load_col={"inter": ["user_id", "item_id"]})
    with pytest.raises(SettingsError, match="no column 'timestamp'"):
        check(two, tmp_path, load_col={"inter": ["user_id", "item_id"]}, eval_args={"order": "TO"})


def test_more_than_there_is(tmp_path):
    data = QUIET | two_circles(tmp_path / "data", users=12, size=6)
    with pytest.raises(SettingsError, match="topk = .13.: must be at most the number of items, 12"):
        run_recbole_diffusion("DiffRec", "circles", None, data | {"topk": [13], "valid_metric": "NDCG@13"})
    small = {"topk": 5, "valid_metric": "NDCG@5", "svd_rank": 12}
    with pytest.raises(SettingsError, match="svd_rank = 12: must be at most 11"):
        run_recbole_diffusion("LDiffRec", "circles", None, data | small)


def test_an_empty_part_is_refused_before_training(tmp_path):
    data = QUIET | two_circles(tmp_path / "data", users=12, size=6, length=2)  # too few for three parts
    with pytest.raises(SettingsError, match="dataset 'circles': the .* part is empty"):
        run_recbole_diffusion("DiffRec", "circles", None, data | {"topk": 5, "valid_metric": "NDCG@5"})
    assert not Path("saved").exists()


def test_a_validation_part_that_the_data_bring_empty_is_theirs_to_say(tmp_path):
    small = {"epochs": 2, "dims_dnn": [4], "topk": 5, "valid_metric": "NDCG@5"}
    data = QUIET | checkerboard(tmp_path / "data", size=12) | small
    write_inter(tmp_path / "data", "checkerboard", [], "valid")
    record = run_recbole_diffusion("DiffRec", "checkerboard", None, data)
    assert record["epochs"] == 2 and record["valid"] == {} and record["test"]
    write_inter(tmp_path / "data", "checkerboard", [], "test")
    with pytest.raises(SettingsError, match="checkerboard.test.inter: has no rows"):
        run_recbole_diffusion("DiffRec", "checkerboard", None, data)
