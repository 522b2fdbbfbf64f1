"""Reads the YAML files of ``properties/`` (defaults, data sets, protocols, benchmarks); needs neither torch nor RecBole."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from recbole_diffusion.settings import SettingsError


def properties_dir() -> Path:
    """The folder of our YAML files: inside an installed package, beside it in a source tree or an editable install."""
    package = Path(__file__).resolve().parent
    installed = package / "properties"
    return installed if installed.is_dir() else package.parent / "properties"


def names_in(kind: str) -> list[str]:
    """Names of the files of one kind (``protocol``, ``benchmark``, ...), sorted."""
    return sorted(file.stem for file in (properties_dir() / kind).glob("*.yaml"))


def read_yaml(file: Path) -> dict[str, Any]:
    """Reads a settings file; numbers are what RecBole takes for numbers (``1e-3`` is one).

    Raises:
        SettingsError: no such file, not UTF-8, not YAML, a key given twice, or not a mapping.
    """
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise SettingsError(f"settings file {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise SettingsError(f"settings file {file}: line {line} is not UTF-8; save the file in that encoding") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingsError(f"settings file {file}: not YAML: {' '.join(str(error).split())}") from error
    if content is not None and not isinstance(content, dict):
        raise SettingsError(f"settings file {file}: must be a mapping of keys to values, got {type(content).__name__}")
    for key in content or {}:
        if not isinstance(key, str):
            raise SettingsError(f"settings file {file}: key {key!r}: must be a string")
    return content or {}


class _Loader(yaml.SafeLoader):
    """YAML without Python objects, with the floats of RecBole's loader (config/configurator.py:102), and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen and isinstance(key, yaml.ScalarNode):
                problem = f"key {key.value!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"""^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
        |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
        |\.[0-9_]+(?:[eE][-+][0-9]+)?
        |[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*
        |[-+]?\.(?:inf|Inf|INF)
        |\.(?:nan|NaN|NAN))$""",
        re.VERBOSE,
    ),
    list("-+0123456789."),
)
