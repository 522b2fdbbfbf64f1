import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from recbole_diffusion.cli import _parser, main
from recbole_diffusion.commands.run import parse_settings
from recbole_diffusion.settings import SettingsError
from toy import checkerboard, two_circles

SHIM = Path(__file__).parent.parent / "run_recbole_diffusion.py"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=DreamRec", "--learing_rate=0.1"], "'learing_rate' .*'learning_rate'"),
        (["--model=DreamRec", "--steps=0"], "steps = 0: must be an integer >= 1"),
        (["--model=DreamRek"], "unknown model 'DreamRek': did you mean 'DreamRec'"),
        (["--dataset=nosuch"], "unknown dataset 'nosuch'"),
        (["--model=DiffRec", "--noise_min=0.5", "--noise_max=0.1"], "noise_min = 0.5: must be <= noise_max = 0.1"),
        (["--protocol=leave-one-outt"], "unknown protocol 'leave-one-outt': did you mean 'leave-one-out'"),
        (["--epochs"], "--epochs has no value"),
        (["stray"], "unexpected argument 'stray'"),
        (["--seed=1", "--seed=2"], "--seed is given twice, as 1 and as 2"),
        (["--config_files", "nosuch.yaml"], "settings file nosuch.yaml: No such file"),
        (["--topk=0"], "topk"),
        (["--metrics=['Recal']"], "Recal"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, message, capsys, tmp_path):
    assert main(["run", *arguments]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and err.count("\n") == 1 and out == ""
    import re

    assert re.search(message, err)
    assert not list(tmp_path.iterdir()), "something was written"


def test_bad_input_from_the_shell_has_no_traceback(tmp_path):
    done = subprocess.run([sys.executable, str(SHIM), "--model=DreamRek"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr == "error: " + done.stderr.removeprefix("error: ")
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


def test_settings_in_both_spellings():
    assert parse_settings(["--a=1", "--b", "x", "--c", "-2.5", "--d=[1,2]"]) == {
        "a": 1,
        "b": "x",
        "c": -2.5,
        "d": [1, 2],
    }
    with pytest.raises(SettingsError, match="--a has no value"):
        parse_settings(["--a", "--b=1"])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[train,valid,test]", ["train", "valid", "test"]),
        ("['train',valid, \"test\"]", ["train", "valid", "test"]),
        ("(a, b)", ("a", "b")),
        ("[user_id,item-id,a.b,NDCG@10,ü]", ["user_id", "item-id", "a.b", "NDCG@10", "ü"]),
        ("[word, -1, 2.5, 1e-3, .5, true, None, NONE]", ["word", -1, 2.5, 1e-3, 0.5, True, None, None]),
        ("{'mode': full}", {"mode": "full"}),
        ("{mode: {valid: full, test: uni10}, split: {RS: [0.8, 0.1, 0.1]}}",
         {"mode": {"valid": "full", "test": "uni10"}, "split": {"RS": [0.8, 0.1, 0.1]}}),
        ("{inter: [user_id, 'a, b']}", {"inter": ["user_id", "a, b"]}),
        # Not lists of words, and not run: they stay the text that they are.
        ("[__import__('os').getcwd()]", "[__import__('os').getcwd()]"),
        ("[train,valid", "[train,valid"),
        ("[two words]", "[two words]"),
        ("[x for x in y]", "[x for x in y]"),
        ("word, word", "word, word"),
        ("", ""),
    ],
)  # fmt: skip
def test_words_in_brackets_need_no_quotes(text, value):
    assert parse_settings([f"--a={text}", "--b", "1"]) == {"a": value, "b": 1}


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["run", "--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0 and "recbole-diffusion run --model=DreamRec" in out and "leave-one-out" in out


def test_convert_then_run(tmp_path, capsys):
    """A converted data set runs by its name alone, under the protocol that its parts are made for."""
    source = tmp_path / "source"
    source.mkdir()
    pairs = [(user, item) for user in range(20) for item in range(user % 2, 120, 2)]
    for part, rows in (("train", pairs[::2]), ("valid", pairs[1::4]), ("test", pairs[3::4])):
        np.save(source / f"{part}_list.npy", np.array(rows))
    convert = ["convert", "--from", "diffrec", str(source), "dataset", "--name", "tiny"]
    assert main(convert) == 0 and str(len(pairs[::2])) in capsys.readouterr().out
    assert main(convert) == 2 and "exists" in capsys.readouterr().err
    run = ["run", "--model=DiffRec", "--dataset=tiny", "--data_path=dataset", "--dims_dnn=[8]", "--epochs=5"]
    assert main([*run, "--show_progress=False", "--record=run.json"]) == 0
    record = json.loads(Path("run.json").read_text())
    assert record["protocol"] == "diffrec-paper" and record["data"]["rows"]["train"] == len(pairs[::2])
    assert set(record["test"]) >= {"recall@20", "ndcg@100"}


def test_models_lists_ours_and_recbole_s(capsys):
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    for name in ("DiffRec", "DreamRec", "StockDiffRec", "BPR", "SASRec"):
        assert f"  {name} " in out
    assert "denoises a user's row" in out


@pytest.mark.parametrize(
    ("model", "dataset", "extra"),
    [
        ("DreamRec", "circles", ["--hidden_size=8", "--steps=5"]),
        ("DiffRec", "checkerboard", ["--dims_dnn", "[8]", "--eval_step", "1"]),
        ("Pop", "checkerboard", ["--benchmark_filename=[train,valid,test]"]),
        ("EASE", "checkerboard", []),
        ("SASRec", "circles", []),
    ],
)
def test_a_run_prints_the_table_and_writes_the_record(model, dataset, extra, tmp_path, capsys):
    data = two_circles(tmp_path / "data") if dataset == "circles" else checkerboard(tmp_path / "data")
    settings = [f"--{key}={value}" for key, value in data.items() if not any(key in argument for argument in extra)]
    arguments = [
        "run",
        f"--model={model}",
        f"--dataset={dataset}",
        "--epochs=2",
        "--show_progress=False",
        *settings,
        *extra,
    ]
    Path("out").mkdir()
    assert main([*arguments, "--record=out/run.json"]) == 0
    table = capsys.readouterr().out
    record = json.loads(Path("out/run.json").read_text())
    assert record["model"] == model and record["dataset"] == dataset and record["seed"] == 2020
    assert record["protocol"] == ("leave-one-out" if dataset == "circles" else "given-parts (metrics of ratio-80-10-10)")
    for part in ("valid", "test"):
        assert set(record[part]) == {f"{name}@{k}" for name in ("recall", "mrr", "ndcg", "hit", "precision") for k in (10, 20)}
    for name, value in record["test"].items():
        assert any(line.split() == [name, f"{record['valid'][name]:.4f}", f"{value:.4f}"] for line in table.splitlines())
    assert record["data"]["rows"]["test"] > 0 and len(record["data"]["fingerprint"]) == 16
    assert record["settings"]["epochs"] == 2 and record["command"][:2] == ["recbole-diffusion", "run"]
    assert record["epochs"] == len(record["curve"]) and record["parameters"] >= 0


@pytest.mark.parametrize("resume", [True, False])
def test_ctrl_c_says_how_to_go_on(resume, tmp_path, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("recbole_diffusion.run._load_data", interrupt)
    settings = [f"--{key}={value}" for key, value in checkerboard(tmp_path / "my data").items()]
    arguments = ["run", "--model=BPR", "--dataset=checkerboard", *settings, *(["--resume"] if resume else [])]
    assert main(arguments) == 130
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    said, command = line.split(": recbole-diffusion ")
    assert ("no training state was kept" in said) != resume
    assert shlex.split(command) == [*arguments, *([] if resume else ["--resume"])]


_TWICE = """
import sys
from recbole_diffusion.cli import main
main(sys.argv[1:])
print("second", file=sys.stderr, flush=True)
sys.exit(main([*sys.argv[1:], "--verbose"]))
"""


def test_the_start_is_short_and_the_end_names_the_files(tmp_path):
    settings = [f"--{key}={value}" for key, value in checkerboard(tmp_path / "data").items()]
    arguments = ["run", "--model=EASE", "--dataset=checkerboard", "--show_progress=False", "--record=run 1.json", *settings]
    done = subprocess.run([sys.executable, "-c", _TWICE, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    brief, verbose = done.stderr.split("second\n")
    record = json.loads((tmp_path / "run 1.json").read_text())
    full = (tmp_path / record["log"]).read_text()
    for detail in ("stopping_step = ", "Average actions of users", "Trainable parameters"):
        assert detail not in brief and detail in verbose and full.count(detail) == 2
    assert "40 users, 40 items, 720 / 40 / 40 rows" in brief
    files = f"checkpoint: {record['checkpoint']}\nrecord:     run 1.json\nlog:        {record['log']}\n"
    assert done.stdout.count(files) == 2 and (tmp_path / record["checkpoint"]).is_file()
    following = [shlex.split(line.removeprefix("next:")) for line in done.stdout.splitlines()[-2:]]
    assert following == [
        ["recbole-diffusion", "recommend", record["checkpoint"]],
        ["recbole-diffusion", "plot", "training", "run 1.json"],
    ]
    for _, *arguments in following:
        _parser().parse_args(arguments)


@pytest.mark.parametrize(("typed", "offered"), [("re", {"reverse"}), ("saved/x.pth --us", {"--user"})])
def test_the_shell_completes(typed, offered, tmp_path):
    line = f"recbole-diffusion plot {'reverse ' if typed[0] == 's' else ''}{typed}"
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n"}
    code = "from recbole_diffusion.cli import main; main()"
    environment = {**os.environ, **asked, "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "offered")}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, check=True)
    assert {word.strip() for word in (tmp_path / "offered").read_text().splitlines()} == offered
