"""What a user installs: the wheel, the sdist, the editable install and the bare source tree, and their requirements."""

import configparser
import email
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")

# What the package is built from. Copied, so that builds leave nothing behind and see nothing but this.
SOURCE_FOLDERS = ("recbole_diffusion", "properties", "tests", "docs", ".ci")

# Prints where the package came from and where it finds its YAML files.
PROBE = """
import recbole_diffusion
from recbole_diffusion.property_files import properties_dir
print(recbole_diffusion.__file__, properties_dir(), sep="\\n")
"""

# README.md tells the user to run these; .ci/run proves that they work.
README_COMMANDS = (
    "pip install --no-deps recbole==1.2.1",
    "pip install -c constraints.txt -e .",
    "python run_recbole_diffusion.py --model=DreamRec",
    "pip install -c constraints.txt -e '.[test]'",
    "pytest",
)


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Runs a command without the caller's PYTHONPATH and returns what it printed; fails with its standard error."""
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**{key: value for key, value in os.environ.items() if key != "PYTHONPATH"}, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, f"{command}:\n{result.stdout}\n{result.stderr}"
    return result.stdout


def probe(python: str | Path, cwd: Path, **environment: str) -> tuple[Path, Path]:
    """The package's folder and its ``properties_dir()``, as a process started in ``cwd`` sees them."""
    package_file, properties = run(python, "-c", PROBE, cwd=cwd, **environment).splitlines()[-2:]
    return Path(package_file).parent, Path(properties)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the source tree."""
    copy = tmp_path_factory.mktemp("source") / "tree"
    copy.mkdir()
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy2(path, copy)
        elif path.name in SOURCE_FOLDERS:
            shutil.copytree(path, copy / path.name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    return copy


@pytest.fixture(scope="module")
def sdist(tree, tmp_path_factory):
    return build(tree, tmp_path_factory, "--sdist", "*.tar.gz")


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """The wheel made from the unpacked sdist, as pip makes one where it finds no wheel."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return build(next(folder.iterdir()), tmp_path_factory, "--wheel", "*.whl")


def build(source: Path, tmp_path_factory, kind: str, pattern: str) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", kind, "--outdir", out, source, cwd=out)
    (built,) = out.glob(pattern)
    return built


@pytest.fixture(scope="module")
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def files_of(tree: Path) -> set[str]:
    """Every file that an installed package needs, by its name in the wheel."""
    modules = {path.relative_to(tree).as_posix() for path in (tree / "recbole_diffusion").rglob("*.py")}
    yamls = {f"recbole_diffusion/{path.relative_to(tree).as_posix()}" for path in (tree / "properties").rglob("*.yaml")}
    assert modules and yamls
    return modules | yamls


def requirements(metadata, python: str, extra: str = "") -> dict[str, Requirement]:
    """What pip installs on a version of Python, by normalised name."""
    marker_values = {"python_version": python, "python_full_version": f"{python}.0", "extra": extra}
    parsed = map(Requirement, metadata.get_all("Requires-Dist"))
    kept = (r for r in parsed if r.marker is None or r.marker.evaluate(marker_values))
    return {canonicalize_name(r.name): r for r in kept}


# ------------------------------------------------------------------------------------------------- what is shipped


def test_wheel_holds_every_module_and_every_yaml_file(tree, wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    missing = files_of(tree) - names
    assert not missing, f"not in the wheel (is the package listed in setup.cfg?): {sorted(missing)}"
    extra = {name for name in names if ".dist-info/" not in name} - files_of(tree)
    assert not extra, f"in the wheel, but not code or settings: {sorted(extra)}"


def test_wheel_made_in_the_tree_holds_the_same(tree, wheel, tmp_path_factory):
    # `pip install .` takes this way; a file that git or MANIFEST.in alone knows of would make a difference.
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(build(tree, tmp_path_factory, "--wheel", "*.whl")) as other:
        assert set(one.namelist()) == set(other.namelist())


def test_sdist_holds_the_sources_and_what_tests_them(tree, sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {name.removeprefix("recbole_diffusion/") if name.endswith(".yaml") else name for name in files_of(tree)}
    wanted |= {path.relative_to(tree).as_posix() for path in (tree / "tests").rglob("*.py")}
    wanted |= {"setup.cfg", "pyproject.toml", "ruff.toml", "constraints.txt", "LICENSE", "README.md", ".ci/run"}
    wanted |= {"run_recbole_diffusion.py"}
    assert not wanted - names, f"not in the sdist (see MANIFEST.in): {sorted(wanted - names)}"


def test_every_folder_of_modules_is_a_package(tree):
    # Otherwise it works in the source tree, as a namespace package, and is missing in the wheel.
    folders = {path.parent for path in (tree / "recbole_diffusion").rglob("*.py")}
    bare = sorted(str(folder.relative_to(tree)) for folder in folders if not (folder / "__init__.py").is_file())
    assert not bare, f"no __init__.py in {bare}"


def test_setup_cfg_lists_every_package(tree):
    config = configparser.ConfigParser()
    config.read(tree / "setup.cfg", encoding="utf-8")
    listed = config["options"]["packages"].split()
    found = {path.parent.relative_to(tree) for path in (tree / "recbole_diffusion").rglob("__init__.py")}
    assert sorted(listed) == sorted({".".join(folder.parts) for folder in found} | {"recbole_diffusion.properties"})


def test_version_is_stated_once(tree, metadata):
    stated = re.search(r'^__version__ = "(.+)"$', (tree / "recbole_diffusion/version.py").read_text(), re.MULTILINE)
    assert metadata["Version"] == stated[1]
    assert canonicalize_name(metadata["Name"]) == "recbole-diffusion"


# ------------------------------------------------------------------------------ the four ways to have the package


def test_installed_wheel_finds_its_yaml_files(wheel, tmp_path):
    target = tmp_path / "target"
    run(
        sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", target, wheel, cwd=tmp_path
    )
    package, properties = probe(sys.executable, tmp_path, PYTHONPATH=str(target))
    assert package == target / "recbole_diffusion"
    assert properties == package / "properties"
    assert (properties / "model" / "DreamRec.yaml").is_file()


def test_editable_install_finds_its_yaml_files_and_command(tree, tmp_path):
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=tmp_path)
    folder = "Scripts" if sys.platform == "win32" else "bin"
    python = venv / folder / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    # The requirements come from the environment that runs the tests. Its own .pth files are not read this way, so an
    # editable install there is out of sight; a copy of the package there would be found first.
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    if any(Path(path, "recbole_diffusion").exists() for path in paths):
        pytest.skip("this environment holds a copy of the package, which would hide the editable install")
    (site / "requirements.pth").write_text("\n".join(sorted(paths)) + "\n", encoding="utf-8")
    options = ("-q", "--no-index", "--no-deps", "--no-build-isolation")
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, "-e", tree, cwd=tmp_path)

    package, properties = probe(python, tmp_path)
    assert package == tree / "recbole_diffusion"
    assert properties == tree / "properties"
    assert (properties / "model" / "DreamRec.yaml").is_file()
    command = next((venv / folder).glob("recbole-diffusion*"))
    assert "DreamRec" in run(command, "models", cwd=tmp_path)


def test_source_tree_runs_without_installation(tree, tmp_path):
    package, properties = probe(sys.executable, tmp_path, PYTHONPATH=str(tree))
    assert package == tree / "recbole_diffusion"
    assert properties == tree / "properties"
    assert "--model" in run(sys.executable, tree / "run_recbole_diffusion.py", "--help", cwd=tmp_path)


# --------------------------------------------------------------------------------------------------- requirements


@pytest.mark.parametrize("python", ["3.10", "3.11"])
def test_pip_installs_recbole_where_it_can(metadata, python):
    required = requirements(metadata, python)
    assert set(required) == {"torch", "numpy", "pandas", "pyyaml", "filelock", "recbole", "setuptools"}
    assert str(required["recbole"].specifier) == "==1.2.1"
    # RecBole's ray imports pkg_resources.
    assert "80.9.0" in required["setuptools"].specifier
    assert "81.0.0" not in required["setuptools"].specifier


@pytest.mark.parametrize("python", ["3.12", "3.13"])
def test_pip_is_not_asked_for_recbole_where_it_cannot_be_resolved(metadata, python):
    for extra in ("", *metadata.get_all("Provides-Extra")):
        assert not {"recbole", *({"ray"} - {extra})} & set(requirements(metadata, python, extra))

    # Installed with --no-deps, RecBole still needs the rest of its requirements; those are ours there.
    required = requirements(metadata, python)
    for theirs in map(Requirement, importlib.metadata.requires("recbole")):
        if theirs.marker is None and theirs.name != "ray":
            ours = required[canonicalize_name(theirs.name)].specifier
            bounds = {version.version for version in ours if version.operator in ("==", ">=")}
            assert bounds and all(bound in theirs.specifier for bound in bounds), f"{theirs} needs more than {ours}"


def test_extras_are_the_promised_ones(metadata):
    assert {"test", "plot", "bench", "benchmark", "ray", "completion", "ann"} == set(metadata.get_all("Provides-Extra"))


@pytest.mark.parametrize("python", PYTHONS)
def test_constraints_pin_every_requirement_within_its_range(metadata, python):
    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            if pin.marker is None or pin.marker.evaluate({"python_version": python}):
                assert canonicalize_name(pin.name) not in pins, f"pinned twice for Python {python}: {line}"
                pins[canonicalize_name(pin.name)] = re.fullmatch(r"==([^+]+)", str(pin.specifier))[1]
    for extra in ("", "test", "plot", "bench", "benchmark", "ray", "completion"):
        for name, required in requirements(metadata, python, extra).items():
            assert name in pins, f"constraints.txt does not pin {required}"
            assert pins[name] in required.specifier, f"constraints.txt pins {name} {pins[name]}; setup.cfg: {required}"


# --------------------------------------------------------------------------------------------- README and .ci/run


@pytest.mark.parametrize("command", README_COMMANDS)
def test_readme_shows_the_commands_that_ci_runs(command):
    # A command is a line of its own or joined by &&, and nothing more: `-e .` is not shown by `-e .[test]`.
    shown = re.compile(rf"(?:^|\$ |&& ){re.escape(command)}(?:$| &&)", re.MULTILINE)
    assert shown.search((ROOT / "README.md").read_text(encoding="utf-8")), f"README.md does not show: {command}"


@pytest.mark.parametrize("command", README_COMMANDS)
def test_ci_runs_the_commands_that_readme_shows(command):
    # CI adds options of its own to the main job, never to the other commands.
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    end = "(?: |$)" if command.startswith("python ") else "$"
    assert re.search(rf"^ *{re.escape(command)}{end}", script, re.MULTILINE), f"not in .ci/run: {command}"
