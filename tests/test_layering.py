"""Imports point one way: diffusion, settings <- model <- adapter <- the uses."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import recbole_diffusion

PACKAGE = Path(recbole_diffusion.__file__).parent
LIGHT = {"settings", "registry", "property_files", "version"}  # need neither torch nor RecBole
# What each part may import of the package.
MAY_IMPORT = {
    "settings.py": set(),
    "registry.py": set(),
    "property_files.py": {"settings"},
    "diffusion": {"diffusion"},
    "convert": {"convert", "settings"},
    "model": {"model", "diffusion"} | LIGHT,
    "adapter": {"adapter", "model"} | LIGHT,
    "benchmark": {"benchmark", "adapter", "plots"} | LIGHT,
    "speed": {"speed", "benchmark", "adapter", "model", "diffusion"} | LIGHT,
    "analysis": {"analysis", "adapter", "model", "diffusion"} | LIGHT,
    "plots": {"plots", "analysis", "adapter", "model", "diffusion"} | LIGHT,
    "recommendation": {"recommendation", "adapter", "model"} | LIGHT,
    "run.py": {"benchmark", "adapter"} | LIGHT,
    "commands": {"commands", "run", "benchmark", "speed", "analysis", "plots", "recommendation", "convert", "adapter"} | LIGHT,
    "cli.py": {"commands"} | LIGHT,
}
OUTSIDE = {"diffusion": {"torch"}}


def imported(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= (
                {f"{node.module}.{alias.name}" for alias in node.names}
                if node.module == "recbole_diffusion"
                else {node.module}
            )
    return names


def files(part: str) -> list[Path]:
    path = PACKAGE / part
    return [path] if path.suffix else sorted(path.rglob("*.py"))


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_imports_point_one_way(part):
    assert files(part)
    for file in files(part):
        for name in imported(file):
            if name.split(".")[0] == "recbole_diffusion":
                inside = name.split(".")[1]
                assert inside in MAY_IMPORT[part], f"{file.relative_to(PACKAGE)} imports {name}"


def test_every_part_has_a_place():
    parts = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert parts - {"properties"} == {*MAY_IMPORT, "__init__.py", "on_import.py", "version.py"}


@pytest.mark.parametrize("part", OUTSIDE)
def test_the_library_needs_torch_alone(part):
    for file in files(part):
        for top in {name.split(".")[0] for name in imported(file)} - {"recbole_diffusion"}:
            assert top in OUTSIDE[part] or top in sys.stdlib_module_names, f"{file.relative_to(PACKAGE)} imports {top}"


COMMANDS = ("run", "models", "recommend", "convert", "benchmark", "report", "plot", "elbo", "speed")


@pytest.mark.parametrize("command", ["--help", "--version", "models", *(f"{name} --help" for name in COMMANDS)])
def test_quick_commands_import_neither_torch_nor_recbole(command):
    code = f"""
import sys
from recbole_diffusion.cli import main
try:
    status = main({command.split()})
except SystemExit as end:
    status = end.code
heavy = {{"torch", "recbole", "pandas", "numpy"}} & set(sys.modules)
sys.exit(f"imported {{heavy}}" if heavy else status)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0 and done.stdout, done.stderr
