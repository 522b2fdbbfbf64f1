"""Bad input to the command is one line and status 2, before anything is written; a bug is told apart."""

import json
import os
from pathlib import Path

import pytest
import torch
from recbole.utils import init_seed  # noqa: F401  (the plugin is installed)

from recbole_diffusion import run_recbole_diffusion
from recbole_diffusion.adapter.checkpoint import load_checkpoint
from recbole_diffusion.benchmark.record import write_record
from recbole_diffusion.cli import main
from recbole_diffusion.commands.run import files_in
from recbole_diffusion.property_files import read_yaml
from recbole_diffusion.settings import SettingsError
from toy import QUIET, checkerboard

SMALL = ["--epochs=1", "--dims_dnn=[4]", "--show_progress=False"]


def run(folder, *more):
    settings = [f"--{key}={value}" for key, value in checkerboard(folder).items()]
    return main(["run", "--model=DiffRec", "--dataset=checkerboard", *settings, *SMALL, *more])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("folder", "must be a file, is a folder or a device"),
        ("/dev/null", "must be a file, is a folder or a device"),
        ("nowhere/run.json", "no folder 'nowhere'"),
        ("new/", "must"),
        ("", "must be a file"),
        ("x" * 300, "cannot be written"),
        ("/proc/run.json", "cannot be written"),
    ],
)
def test_a_record_that_cannot_be_written(record, message, tmp_path, capsys):
    Path("folder").mkdir()
    assert run(tmp_path / "data", f"--record={record}") == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert not Path("saved").exists() and not list(Path("folder").iterdir())


def test_a_device_is_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SettingsError, match="is a folder or a device"):
        write_record({}, tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()


def test_the_table_comes_before_the_record(tmp_path, capsys, monkeypatch):
    def full_disk(*args):
        raise OSError(28, "No space left on device", "run.json")

    monkeypatch.setattr("recbole_diffusion.benchmark.record.write_record", full_disk)
    assert run(tmp_path / "data", "--record=run.json") == 2
    out, err = capsys.readouterr()
    assert "ndcg@10" in out and "error: 'run.json': No space left on device" in err


def test_settings_files(tmp_path, capsys):
    blank = Path("my settings.yaml")
    blank.write_text("epochs: 1\n")
    Path("b.yaml").write_text("seed: 7\n")
    assert files_in(str(blank)) == [str(blank)] and files_in("a.yaml b.yaml") == ["a.yaml", "b.yaml"]
    assert run(tmp_path / "data", "--config_files", str(blank), "b.yaml", "--record=run.json") == 0
    assert json.loads(Path("run.json").read_text())["seed"] == 7
    for content, message in (
        ("# Gr\xfc\xdfe\n".encode("latin-1"), "line 1 is not UTF-8"),
        (b"epochs: 1\nseed: 1\nepochs: 2\n", "key 'epochs' is given twice.*line 3"),
        (b"eval_args:\n  order: RO\n  order: TO\n", "key 'order' is given twice"),
        (b"1: 2\n", "key 1: must be a string"),
        (b"a: 2020-13-45\n", "not YAML"),
    ):
        blank.write_bytes(content)
        with pytest.raises(SettingsError, match=f"my settings.yaml: .*{message}"):
            read_yaml(blank)
        capsys.readouterr()
        assert run(tmp_path / "data", "--config_files", str(blank)) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_a_bug_is_told_apart(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("recbole_diffusion.run.create_dataset", lambda config: {}["gone"])
    assert run(tmp_path / "data") == 1
    err = capsys.readouterr().err
    assert err == "error: internal error: KeyError: 'gone'; please report it with the output of --debug\n"
    assert run(tmp_path / "data", "--debug") == 1
    err = capsys.readouterr().err
    assert "Traceback" in err and 'KeyError: \'gone\'\nerror: internal error' in err
    assert run(tmp_path / "data", "--steps=0", "--debug") == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_flipped_bit_is_damage_not_a_pickle(tmp_path):
    settings = QUIET | checkerboard(tmp_path / "data") | {"epochs": 1, "dims_dnn": [4], "steps": 3}
    file = Path(run_recbole_diffusion("DiffRec", "checkerboard", None, settings)["checkpoint"])
    whole = file.read_bytes()
    generator = torch.Generator().manual_seed(0)
    for place in torch.randint(4, len(whole), (300,), generator=generator).tolist():
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            load_checkpoint(file)  # padding between the entries means nothing
        except ValueError as error:
            assert "damaged" in str(error) and "pickle" not in str(error).split("damaged")[0], (place, error)
    file.write_bytes(whole)
    load_checkpoint(file)
