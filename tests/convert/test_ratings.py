"""Files of ratings, ``user item [rating [time]]`` per line: what is written, what RecBole reads, what is refused."""

import re

import numpy as np
import pytest
import yaml
from recbole.config import Config
from recbole.data import create_dataset, data_preparation

from recbole_diffusion.cli import main
from recbole_diffusion.convert.convert import convert
from recbole_diffusion.convert.report import PartCount

# (user, item, rating, time); Ann has item b twice.
ROWS = [("ann", "b", "5", "1702"), ("ann", "c", "3.5", "1700"), ("7", "b", "1e0", "3"),
        ("ann", "b", "4", "1701"), ("7", "00d", "4.0", "1")]  # fmt: skip


def write(file, rows=ROWS, separator="\t", columns=4, end="\n"):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes("".join(separator.join(row[:columns]) + end for row in rows).encode())
    return file


def lines_of(folder, ending):
    return (folder / f"{folder.name}.{ending}").read_text().split("\n")[:-1]


@pytest.mark.parametrize("separator", ["\t", " ", "  \t", ",", ", "])
@pytest.mark.parametrize("end", ["\n", " \r\n"])
def test_every_separator_gives_the_same_files(tmp_path, separator, end):
    report = convert("ratings", write(tmp_path / "x.csv", separator=separator, end=end), tmp_path / "dst")
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    assert report.name == "x"
    assert lines_of(report.folder, "inter") == [header, *("\t".join(row) for row in ROWS)]
    assert report.parts == (PartCount("all", rows=5, users=2, items=3, new_users=2, new_items=3),)
    assert report.notes == ("1 rows repeat an earlier pair of user and item; RecBole keeps them",)


@pytest.mark.parametrize("columns", [2, 3, 4])
def test_columns_and_settings(tmp_path, columns):
    folder = convert("ratings", write(tmp_path / "x.csv", columns=columns), tmp_path / "dst").folder
    names = ["user_id:token", "item_id:token", "rating:float", "timestamp:float"][:columns]
    assert lines_of(folder, "inter") == ["\t".join(names), *("\t".join(row[:columns]) for row in ROWS)]
    text = (folder / "x.yaml").read_text()
    settings = yaml.safe_load(text)
    timed = ["timestamp"] * (columns == 4)
    assert settings["load_col"] == {"inter": ["user_id", "item_id", *timed]} and settings["benchmark_filename"] is None
    assert settings.get("TIME_FIELD") == ("timestamp" if timed else None)
    for key in settings:
        assert re.search(rf"^{key}:.*  # \((str|list|dict)\) \S", text, flags=re.M), key
    assert ("ratings are in the files" in text) == (columns > 2)
    assert ("no time, so sequential models cannot" in text) == (not timed)


def load(folder, model, **settings):
    settings |= {"data_path": str(folder.parent), "show_progress": False, "train_neg_sample_args": None}
    config = Config(model, folder.name, [str(folder / f"{folder.name}.yaml")], settings)
    return data_preparation(config, create_dataset(config))


def read_back(loader):
    data = loader.dataset
    columns = [data.id2token(field, data.inter_feat[field].numpy()).tolist() for field in ("user_id", "item_id")]
    return list(zip(*columns, strict=True))


def test_recbole_reads_ids_and_time_order(tmp_path):
    folder = convert("ratings", write(tmp_path / "x.csv"), tmp_path / "dst").folder
    by_time = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}
    train, valid, test = load(folder, "Pop", eval_args=by_time)
    # In time order, not in that of the file; 7 has too few for a validation row. "00d" is a text, not the number 0.
    assert sorted(read_back(test)) == [("7", "b"), ("ann", "b")]
    assert read_back(valid) == [("ann", "b")] and sorted(read_back(train)) == [("7", "00d"), ("ann", "c")]


def test_a_threshold_keeps_the_ratings_that_reach_it(tmp_path):
    report = convert("ratings", write(tmp_path / "x.csv"), tmp_path / "dst", min_rating=4)
    assert [line.split("\t")[:3] for line in lines_of(report.folder, "inter")[1:]] == [
        ["ann", "b", "5"], ["ann", "b", "4"], ["7", "00d", "4.0"]]  # fmt: skip
    assert report.total.rows == 3 and report.notes[0] == "2 of 5 ratings are below 4 and left out"
    assert "ratings of at least 4." in (report.folder / "x.yaml").read_text()


def test_a_folder_of_parts_is_used_as_it_is(tmp_path):
    write(tmp_path / "src" / "train.txt", ROWS[:3], columns=3)
    write(tmp_path / "src" / "valid.txt", ROWS[4:], columns=3, separator=" ")
    write(tmp_path / "src" / "test.txt", [("new", "c", "2")], columns=3)
    report = convert("ratings", tmp_path / "src", tmp_path / "dst")
    assert [(part.rows, part.new_users) for part in report.parts] == [(3, 2), (1, 0), (1, 1)]
    assert yaml.safe_load((report.folder / "src.yaml").read_text())["benchmark_filename"] == ["train", "valid", "test"]
    train, valid, test = load(report.folder, "Pop")
    assert [sorted(read_back(part)) for part in (train, valid, test)] == [
        [("7", "b"), ("ann", "b"), ("ann", "c")], [("7", "00d")], [("new", "c")]]  # fmt: skip
    (tmp_path / "src" / "valid.txt").unlink()
    report = convert("ratings", tmp_path / "src", tmp_path / "dst", force=True)
    assert [part.rows for part in report.parts] == [3, 0, 1] and "validation part is empty" in report.notes[-1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.csv: is empty"),
        ("\n \n", "x.csv: is empty"),
        ("\n1 2", "x.csv: line 1: blank line"),
        ("1 2\n\n1 3", "x.csv: line 2: blank line"),
        ("1,2\n,\n", "x.csv: line 2: user '' is empty or holds a blank"),
        ("1\n2", "x.csv: line 1: 1 columns, expected 2 to 4: `user item [rating [time]]`"),
        ("1 2 3 4 5", "x.csv: line 1: 5 columns, expected 2 to 4"),
        ("1::2::3\n", "x.csv: line 1: 1 columns"),
        ("1 2 3\n1 4", "x.csv: line 2: 2 columns, expected 3 as on line 1"),
        ("1 2 3\n1,4,3", "x.csv: line 2: 1 columns, expected 3 as on line 1"),
        ("1,2,3\n1,,3", "x.csv: line 2: item '' is empty or holds a blank"),
        ("1,2,3\n1,a b,3", "x.csv: line 2: item 'a b' is empty or holds a blank"),
        ("1,2,3\n1,4,", "x.csv: line 2: rating '' is not a finite number"),
        ("1 2 3\n1 4 five", "x.csv: line 2: rating 'five' is not a finite number"),
        ("1 2 3\n1 4 nan", "x.csv: line 2: rating 'nan' is not"),
        ("1 2 3 4\n1 4 3 1e999", "x.csv: line 2: time '1e999' is not"),
        ("1 2 3 4\n1 4 3 2020-01-01", "x.csv: line 2: time '2020-01-01' is not"),
        ("user,item,rating\n1,2,3", "x.csv: line 1: rating 'rating' is not"),
        ("user_id item_id\n1 2", "x.csv: line 1: 'user_id' is a heading, not a user; remove this line"),
        (b"1 2\n\xff 3", "x.csv: line 2: is not UTF-8 text"),
    ],
)
def test_malformed_lines_are_named_and_nothing_is_left(tmp_path, text, message):
    (tmp_path / "x.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        convert("ratings", tmp_path / "x.csv", tmp_path / "dst")
    assert "\n" not in str(error.value) and not (tmp_path / "dst").exists()


def test_a_byte_order_mark_is_no_part_of_the_first_user(tmp_path):
    (tmp_path / "x.csv").write_bytes("\ufeff1,2\n".encode())
    assert lines_of(convert("ratings", tmp_path / "x.csv", tmp_path / "dst").folder, "inter")[1:] == ["1\t2"]


@pytest.mark.parametrize(
    ("columns", "min_rating", "message"),
    [
        (4, 6, "min_rating = 6: .*x.csv has no rating as high"),
        (4, np.nan, "min_rating = nan: must be a finite number"),
        (2, 4, "min_rating = 4: .*x.csv has no ratings"),
    ],
)
def test_thresholds_that_cannot_be_used(tmp_path, columns, min_rating, message):
    src = write(tmp_path / "x.csv", columns=columns)
    with pytest.raises(ValueError, match=message):
        convert("ratings", src, tmp_path / "dst", min_rating=min_rating)
    with pytest.raises(ValueError, match="only ratings have a threshold"):
        convert("s3rec", src, tmp_path / "dst", min_rating=4)
    assert not (tmp_path / "dst").exists()


def test_sources_that_do_not_fit(tmp_path):
    with pytest.raises(ValueError, match="none.txt: No such file or directory; expected lines of"):
        convert("ratings", tmp_path / "none.txt", tmp_path / "dst")
    write(tmp_path / "src" / "train.txt")
    with pytest.raises(ValueError, match=r"src: no test\.txt; expected train\.txt, test\.txt"):
        convert("ratings", tmp_path / "src", tmp_path / "dst")
    write(tmp_path / "src" / "test.txt", columns=2)
    with pytest.raises(ValueError, match=r"test\.txt: line 1: 2 columns, but train\.txt has 4"):
        convert("ratings", tmp_path / "src", tmp_path / "dst")


def test_on_the_command_line(tmp_path, capsys):
    src = write(tmp_path / "x.csv")
    assert main(["convert", "--from", "ratings", str(src), str(tmp_path / "dst"), "--min-rating", "4"]) == 0
    assert "note: 2 of 5 ratings are below 4" in capsys.readouterr().out
    (tmp_path / "y.csv").write_text("1 2\n3")
    assert main(["convert", "--from", "ratings", str(tmp_path / "y.csv"), str(tmp_path / "dst")]) == 2
    assert re.fullmatch(r"error: .*y\.csv: line 2: 1 columns, expected 2 as on line 1\n", capsys.readouterr().err)
    assert [path.name for path in (tmp_path / "dst").iterdir()] == ["x"]
