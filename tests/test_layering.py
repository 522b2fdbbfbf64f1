"""Imports point one way: diffusion <- model <- quick_start, cli, benchmark."""

import ast
import sys
from pathlib import Path

import pytest

import recbole_diffusion

PACKAGE = Path(recbole_diffusion.__file__).parent
# What each part may import of the package; a file is of the part whose path is the longest prefix of its own.
MAY_IMPORT = {
    "diffusion": {"diffusion"},
    "data": {"data", "settings", "compat"},
    "model": {"model", "diffusion", "data", "settings"},
    "trainer": {"trainer", "checkpoint", "settings"},
    "settings.py": set(),
    "compat.py": set(),
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


@pytest.mark.parametrize("part", OUTSIDE)
def test_the_library_needs_torch_alone(part):
    for file in files(part):
        for top in {name.split(".")[0] for name in imported(file)} - {"recbole_diffusion"}:
            assert top in OUTSIDE[part] or top in sys.stdlib_module_names, f"{file.relative_to(PACKAGE)} imports {top}"
