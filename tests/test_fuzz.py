"""Whatever the settings and the data, a run ends well or with one line that says why; never with a traceback."""

import random
import re
from pathlib import Path

import pytest

from recbole_diffusion.adapter.checks import COMMON
from recbole_diffusion.cli import main
from recbole_diffusion.property_files import properties_dir, read_yaml
from recbole_diffusion.registry import recbole_dir
from toy import two_circles

# Small settings of each model; the keys of its YAML file are those that are tried.
MODELS = {
    "DiffRec": {"dims_dnn": [4], "embedding_size": 4, "steps": 3},
    "LDiffRec": {"in_dims": [4], "dims_dnn": [4], "embedding_size": 4, "steps": 3},
    "DreamRec": {"hidden_size": 4, "inner_size": 4, "steps": 3, "history_length": 3},
    "CFGAN": {"g_hidden": [4], "d_hidden": [4], "g_steps": 1, "d_steps": 1},
    "AAE": {"hidden": [4], "latent_dimension": 2, "d_hidden": [4]},
    "IRGAN": {"embedding_size": 4, "pretrain_epochs": 1, "policy_samples": 4},
    "SASRec": {"hidden_size": 4, "inner_size": 4, "n_heads": 1, "n_layers": 1, "protocol": "leave-one-out"},
    "EASE": {"protocol": "ratio-80-10-10"},
}
SETTINGS_EACH, DATA_FILES = 25, 60
HOSTILE = [
    *("-1", "0", "1", "2.0", "0.5", "1.5", "nan", "inf", "-inf", "1e9", "1e300", "-1e300", "99999999999999999999", "1e-300"),
    *("None", "True", "foo", "é", "''", "[]", "[0]", "[-1]", "[1e9]", "[nan]", "['x']", "[[1]]", "{}", "{'a': 1}", "(1, 2)"),
    *("b'x'", "[1,", "../x", "/dev/null", "%s", "1;2", "uni0"),
]
MILD = ["2", "3", "0.1", "0.9", "7.0", "False", "[3]", "[2, 3]", "relu", "sgd"]  # what passes goes further
# A large number of these is a long run, not a wrong one; the others would reach out of the test.
LONG = {"epochs", "steps", "pretrain_epochs", "g_steps", "d_steps"}
OUTSIDE = {"data_path", "log_wandb", "worker", "load_col", "dataset_save_path", "dataloaders_save_path"}


def told(arguments, capsys):
    """Runs a command; returns its status and the error line, or fails."""
    status = main(arguments)
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in err and "internal error" not in err, (arguments, err)
    if status == 1:  # a training that diverges has taken its settings
        assert re.fullmatch(r"error: \w+: \w+ loss is (nan|-?inf) in epoch \d+, batch \d+.*", lines[-1]), (arguments, err)
    elif status != 0:
        assert status == 2 and len(lines) == 1 and err.count("\n") <= 2, (arguments, err)
    return status, lines


def keys_of(model):
    file = properties_dir() / "model" / f"{model}.yaml"
    file = file if file.is_file() else recbole_dir() / "properties" / "model" / f"{model}.yaml"
    return sorted((set(read_yaml(file)) | set(COMMON)) - OUTSIDE)


@pytest.mark.parametrize("model", MODELS)
def test_hostile_settings(model, tmp_path, capsys):
    draw = random.Random(model)
    base = two_circles(Path("data"), users=24, size=6, length=6)
    base |= MODELS[model] | {"epochs": 1, "topk": [2, 3], "valid_metric": "NDCG@2", "show_progress": False, "state": "ERROR"}
    statuses = []
    for number in range(SETTINGS_EACH):
        tried = {}
        for key in draw.sample(keys_of(model), draw.choice([1, 1, 2]) if number else 0):
            values = draw.choice([HOSTILE, HOSTILE, MILD])
            tried[key] = draw.choice([value for value in values if key not in LONG or "e9" not in value])
        settings = {key: value for key, value in base.items() if key not in tried} | tried
        options = [f"--{key}={value}" for key, value in settings.items()]
        statuses.append(told(["run", f"--model={model}", "--dataset=circles", *options], capsys)[0])
    assert statuses[0] == 0 and 2 in statuses  # small settings alone are taken


def damaged(draw, whole):
    """A data file with one to three things wrong, most of them in a line of its middle."""
    content = bytearray(whole)
    for _ in range(draw.choice([1, 1, 2, 3])):
        place = draw.randrange(len(content) + 1)
        line_end = content.find(b"\n", place) % (len(content) + 1)
        kind = draw.randrange(12)
        if kind == 0:
            content[place:] = b""
        elif kind == 1:
            content[place : place + 1] = bytes([draw.randrange(256)])
        elif kind == 2:
            marks = [b"\t", b",", b'"', b"\0", b"\r", b"\n\n", b"\xff", b"nan", b"-", b":", b"\xe2\x80\xa8"]
            content[place:place] = draw.choice(marks)
        elif kind == 3:
            content = content.replace(b"\t", draw.choice([b",", b";", b" ", b"", b"\t\t"]), draw.choice([1, -1]))
        elif kind == 4:
            content = content.replace(draw.choice([b":token", b":float", b"user_id", b"item_id", b"timestamp"]), b"", 1)
        elif kind == 5:
            types = [b"token", b"float", b"float_seq", b"token_seq", b"int"]
            content = content.replace(draw.choice(types[:2]), draw.choice(types), 1)
        elif kind == 6:
            content[:0] = draw.choice([b"\xef\xbb\xbf", b"\xff\xfe", b"\n", b" ", b"# comment\n"])
        elif kind == 7:
            ends = [b"\t9", b"\t", b"x", b"1e999", b"\n1\t2", b"\n\t\t", b"\n1\t1\tnoon", b"\n1\t1\t"]
            content[line_end:line_end] = draw.choice(ends)
        elif kind == 8:
            content = content[: content.find(b"\n") + 1 + draw.choice([0, 6, 12])]
        elif kind == 9:
            content = bytearray(content.decode("latin-1").encode(draw.choice(["utf-16", "utf-32", "cp037"])))
        elif kind == 10:
            content = content.replace(b"\n", draw.choice([b"\r\n", b"\r", b"", b" \n", b"\t\n"]))
        else:
            content = bytearray(draw.choice([b"", b"\n", b"\x80\x04", b"PK\x03\x04", b"{}", b"a\tb\n1\t2\n", b"\x1f\x8b"]))
    return bytes(content)


def test_malformed_data_files(tmp_path, capsys):
    draw = random.Random(0)
    base = two_circles(Path("data"), users=24, size=6, length=6)
    base |= {"topk": [2, 3], "valid_metric": "NDCG@2", "epochs": 1, "show_progress": False, "state": "ERROR"}
    file = Path("data/circles/circles.inter")
    whole, refused = file.read_bytes(), 0
    for number in range(DATA_FILES):
        file.write_bytes(damaged(draw, whole))
        model = ("DiffRec", "DreamRec", "EASE")[number % 3]
        settings = base | MODELS[model] | {"checkpoint_dir": f"saved/{number}"}
        options = [f"--{key}={value}" for key, value in settings.items()]
        options += [f"--model={model}", "--dataset=circles", f"--record=record-{number}.json"]
        status, lines = told(["run", *options], capsys)
        if status:
            refused += 1
            assert "circles" in lines[0] or "topk" in lines[0]
            assert not Path(f"saved/{number}").exists() and not Path(f"record-{number}.json").exists()
    assert DATA_FILES > refused > DATA_FILES / 2
    assert not list(tmp_path.rglob("*.partial"))
