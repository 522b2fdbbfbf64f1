"""Every example in README, docs and ``--help`` runs, on small stand-ins for the data and the checkpoints that it names.

A new example is run by itself. What cannot be run stands in ``ONLY_PARSED``, word for word, with the reason.
"""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from convert import sources
from recbole_diffusion import run_recbole_diffusion
from recbole_diffusion.benchmark import attended
from recbole_diffusion.benchmark.pages import write_pages
from recbole_diffusion.cli import _parser, main
from recbole_diffusion.convert.convert import convert
from recbole_diffusion.speed import sizes
from toy import COLUMNS, QUIET, in_this_process

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "README_CN.md", *sorted((ROOT / "docs").glob("*.md"))]

_INSTALLS = "installs or runs what is running this test; .ci/run runs it"
_BACKGROUND = "starts a process in the background, for hours"
ONLY_PARSED = {
    "pip install --no-deps recbole==1.2.1": _INSTALLS,
    "pip install -c constraints.txt -e .": _INSTALLS,
    "pip install -c constraints.txt -e '.[test]'": _INSTALLS,
    "pip install -c constraints.txt -e '.[plot]'": _INSTALLS,
    "pip install -c constraints.txt -e '.[completion]'": _INSTALLS,
    "pytest": _INSTALLS,
    'eval "$(register-python-argcomplete recbole-diffusion)"': "changes a shell; tests/test_cli.py completes",
    "nohup recbole-diffusion benchmark general-ml-100k --results results &": _BACKGROUND,
    "nohup recbole-diffusion benchmark reproduction --data_path dataset --results results &": _BACKGROUND,
    "recbole-diffusion benchmark smoke --jobs 2 --results smoke": "takes minutes; tests/benchmark has the same on toy data",
    "recbole-diffusion benchmark general-ml-100k --jobs 4 --ray 10.0.0.1:6379": "needs a cluster",
    "recbole-diffusion benchmark next-item-ml-100k --seeds 1": "takes an hour; tests/benchmark has the same on toy data",
    "recbole-diffusion run --model=DiffRec --nproc=2": "starts two processes; tests/adapter/test_processes.py does",
    "recbole-diffusion speed dreamrec --size zhihu --device cuda": "needs a GPU",
    "recbole-diffusion recommend saved/DiffRec-ml-100k-0123456789.pth --k 20 --out lists.parquet": (
        "needs pyarrow, which the tests do not; the other formats are run"
    ),
}

# Settings that make a run small, where the example does not give them.
SMALL = {
    "DreamRec": {"hidden_size": 8, "inner_size": 8, "steps": 10, "beta_end": 0.3},
    "DiffRec": {"dims_dnn": [8], "steps": 3},
    "SASRec": {"hidden_size": 8, "inner_size": 8, "n_heads": 1, "n_layers": 1},
}
SMALL_SIZES = {
    "dreamrec": sizes.Size("DreamRec", 60, 40, 6.0, {"hidden_size": 8, "inner_size": 8, "steps": 6, "history_length": 5}),
    "diffrec": sizes.Size("DiffRec", 60, 40, 8.0, {"dims_dnn": [8], "steps": 6, "train_batch_size": 16}),
    "sequential": sizes.Size("sequential models", 60, 40, 9.0, {"hidden_size": 8, "MAX_ITEM_LIST_LENGTH": 6}, True),
}
USERS = ["196", "186", *map(str, range(300, 338))]
ITEMS = ["50", "181", "172", "1", "588", *map(str, range(600, 625))]


# ------------------------------------------------------------------------------------------------------- what is run


def blocks(language, page):
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands_of(page):
    lines = "".join(blocks("bash", page)).replace("\\\n", " ").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def epilogs():
    """What ``--help`` shows after the options of each command."""
    [commands] = [action for action in _parser()._actions if action.dest == "command"]
    return {name: parser.epilog or "" for name, parser in commands.choices.items()}


def examples_of(epilog):
    listed = re.search(r"^examples:\n((?:  .*\n)+)", epilog, re.MULTILINE)
    return [line.strip() for line in listed[1].splitlines()] if listed else []


EXAMPLES = list(dict.fromkeys([line for page in PAGES for line in commands_of(page)]
                              + [line for epilog in epilogs().values() for line in examples_of(epilog)]))  # fmt: skip
# (command, what it prints) of the blocks that show both.
DIALOGUES = [
    (command, output)
    for page in PAGES
    for block in blocks("console", page)
    for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
]


def arguments_of(line):
    """The arguments that a line gives to ``recbole-diffusion``."""
    words = shlex.split(line.removeprefix("nohup ").removesuffix(" &"))
    if words[:2] == ["python", "run_recbole_diffusion.py"]:
        return ["run", *words[2:]]
    assert words[0] == "recbole-diffusion", f"neither run nor listed in ONLY_PARSED: {line}"
    return words[1:]


# ------------------------------------------------------------------------------------------------------- stand-ins


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with everything that the examples name."""
    desk = tmp_path_factory.mktemp("desk")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(desk)
        patch.setattr(sys, "argv", ["test"])
        patch.setattr(sources, "WIDTH", 10)  # the page of results takes the latest 10 items
        _write_data(desk)
        for model in ("DreamRec", "DiffRec"):
            settings = QUIET | SMALL[model] | {"epochs": 2}
            for record in {"DreamRec": ["dreamrec", "dreamrec-seed1", "dreamrec-seed2"], "DiffRec": ["diffrec"]}[model]:
                made = run_recbole_diffusion(model, "tiny", config_dict=settings, record=f"{record}.json")
            Path(made["checkpoint"]).rename(f"{model}.pth")
        for results in ("results", "my_results"):
            (desk / results / "runs").mkdir(parents=True)
            for name in ("diffrec.json", "diffrec.users.npz"):
                shutil.copy(name, desk / results / "runs")
            write_pages(desk / results)
    return desk


def _write_data(desk):
    """Users walk around a circle of items, so that every model has something to learn."""
    rows = [
        (user, ITEMS[(3 * u + step) % len(ITEMS)], 3 + step % 3, 100 * u + step)
        for u, user in enumerate(USERS)
        for step in range(10)
    ]
    folder = desk / "dataset" / "tiny"
    heading = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    sources.write_lines(folder / "tiny.inter", heading, *("\t".join(map(str, row)) for row in rows))
    (folder / "tiny.yaml").write_text(yaml.safe_dump(COLUMNS), encoding="utf-8")
    titles = (f"{item}\tFilm {item}" for item in ITEMS)
    sources.write_lines(folder / "tiny.item", "item_id:token\tmovie_title:token_seq", *titles)
    sources.write_lines(desk / "ratings.csv", *(",".join(map(str, row)) for row in rows))
    sources.write_lines(desk / "mine.yaml", "epochs: 1", "hidden_size: 8")
    sources.write_lines(desk / "users.txt", "196", "186")

    [block] = blocks("yaml", ROOT / "docs/tutorial.md")
    table = yaml.safe_load(block)
    table["metrics"] = {"tiny": table["metrics"]["ml-100k"]}
    for row in table["rows"]:
        row["dataset"] = "tiny"
        row["settings"] = {**row.get("settings", {}), "epochs": 1, **SMALL.get(row["model"], {})}
    name = re.match(r"# (\S+\.yaml)\n", block)[1]
    (desk / name).write_text(yaml.safe_dump(table), encoding="utf-8")

    pairs = [(user, item) for user in range(20) for item in range(user % 2, 240, 2)]
    parts = {"train": pairs[::2], "valid": pairs[1::4], "test": pairs[3::4]}
    diffrec = sources.write_diffrec(desk / "DiffRec/datasets/ml-1m_clean", **parts)
    histories = sources.dreamrec_frame([([item % 8 for item in range(n)], n % 8) for n in range(11)])
    dreamrec = sources.write_dreamrec(desk / "DreamRec/data/zhihu", train=histories)
    convert("diffrec", diffrec, desk / "dataset")
    convert("dreamrec", dreamrec, desk / "dataset", "zhihu")
    for folder in ("dataset", "datasets"):
        convert("ratings", desk / "ratings.csv", desk / folder, "mine", min_rating=4)


def stood_in(argument, desk):
    """An argument with the stand-ins' names."""
    argument = re.sub(r"^saved/([A-Za-z]+)-ml-100k-0123456789\.pth$", lambda match: str(desk / f"{match[1]}.pth"), argument)
    return "--dataset=tiny" if argument == "--dataset=ml-100k" else argument


def made_small(arguments, desk):
    """The arguments of a command that does the same in a second."""
    arguments = [stood_in(argument, desk) for argument in arguments]
    if arguments[0] == "run":
        model = next((a.partition("=")[2] for a in arguments if a.startswith("--model=")), "DreamRec")
        small = SMALL.get(model, {}) | {"dataset": "tiny", "epochs": 1, "show_progress": False}
        given = {argument.partition("=")[0].removeprefix("--") for argument in arguments}
        if "epochs" in given:
            at = next(i for i, argument in enumerate(arguments) if argument.startswith("--epochs"))
            del arguments[at : at + (1 if "=" in arguments[at] else 2)]
        arguments += [f"--{key}={value}" for key, value in small.items() if key == "epochs" or key not in given]
    elif arguments[0] == "convert":
        arguments.append("--force")
    elif arguments[0] == "speed":
        arguments += ["--repeats", "1"]
    return arguments


@pytest.fixture
def at_desk(desk, monkeypatch):
    monkeypatch.chdir(desk)
    monkeypatch.setattr("sys.path", [str(desk), *sys.path])
    (desk / "docs/images").mkdir(parents=True, exist_ok=True)
    for kind, size in SMALL_SIZES.items():
        monkeypatch.setitem(sizes.SIZES, kind, dict.fromkeys(sizes.SIZES[kind], size))
    monkeypatch.setattr(attended, "start", in_this_process)
    return desk


# ------------------------------------------------------------------------------------------------------- the tests


@pytest.mark.parametrize("line", [line for line in EXAMPLES if line not in ONLY_PARSED])
def test_the_command_runs(line, at_desk, capsys):
    assert main(made_small(arguments_of(line), at_desk)) == 0, capsys.readouterr().err


@pytest.mark.parametrize("line", ONLY_PARSED)
def test_what_is_only_parsed_is_shown_and_parses(line):
    assert line in EXAMPLES
    if "recbole-diffusion " in line:
        options, rest = _parser().parse_known_args(arguments_of(line))
        assert not rest or options.takes_settings


@pytest.mark.parametrize(("command", "output"), DIALOGUES)
def test_the_command_prints_what_is_shown(command, output, at_desk, capsys):
    main(arguments_of(command))
    out, err = capsys.readouterr()
    assert output.strip() and out + err == output


@pytest.mark.parametrize("command", epilogs())
def test_help_of_every_command_has_an_example(command):
    examples = examples_of(epilogs()[command])
    assert examples and all(f"recbole-diffusion {command}" in line for line in examples if command != "convert")


@pytest.mark.parametrize("page", [page for page in PAGES if blocks("python", page)], ids=lambda page: page.name)
def test_the_python_of_a_page_runs(page, at_desk, monkeypatch, capsys):
    """The blocks of a page go on from one another. One whose first line is the name of a file is that file."""
    # RecBole's own entry points read the command line; one epoch is enough.
    small = {"epochs": 1, "hidden_size": 8, "inner_size": 8, "show_progress": False} | COLUMNS
    monkeypatch.setattr(sys, "argv", ["test", *(f"--{key}={value}" for key, value in small.items())])
    namespace = {"__name__": "__main__"}
    for block in blocks("python", page):
        file = re.match(r"# (\w+\.py)\n", block)
        if file:
            (at_desk / file[1]).write_text(block, encoding="utf-8")
        else:
            exec(compile(block.replace('"ml-100k"', '"tiny"'), page.name, "exec"), namespace)
    for name in [name for name in sys.modules if (at_desk / f"{name}.py").exists()]:
        del sys.modules[name]


def test_the_tutorial_s_model_learns(tmp_path, monkeypatch):
    """The 60 lines are a model: on the checkerboard, random ranking of what is not masked gives NDCG@10 about .26."""
    from toy import checkerboard

    [code] = [block for block in blocks("python", ROOT / "docs/tutorial.md") if block.startswith("# row_diffusion.py")]
    assert len(code.splitlines()) <= 60
    (tmp_path / "learns.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    from learns import RowDiffusion

    small = {"steps": 5, "hidden_size": 16, "learning_rate": 0.01, "train_batch_size": 128, "epochs": 25}
    settings = QUIET | small | checkerboard(tmp_path / "data") | {"train_neg_sample_args": None}
    assert run_recbole_diffusion(RowDiffusion, "checkerboard", config_dict=settings)["test"]["ndcg@10"] > 0.9


def test_the_tutorial_s_table_is_made(at_desk):
    assert main(shlex.split("benchmark my-table.yaml --results my_results")) == 0
    page = (at_desk / "my_results/my-table.md").read_text(encoding="utf-8")
    assert all(re.search(rf"^\| {row} \| ours[^|]* \| 3 \|", page, re.MULTILINE) for row in ("EASE", "DiffRec"))
