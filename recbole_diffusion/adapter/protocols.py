"""Named evaluations: the file of each, what a run's is called, and what its user changed of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole.config import Config

from recbole_diffusion.property_files import names_in, properties_dir, read_yaml
from recbole_diffusion.registry import closest
from recbole_diffusion.settings import SettingsError

# What an evaluation protocol decides; a user's value for one of these is an override that the record names.
PROTOCOL_KEYS = ("eval_args", "metrics", "topk", "valid_metric", "repeatable", "test_input", "mask_seen", "refit")


def protocol_file(name: str) -> Path:
    """The YAML of a protocol, by name or by path.

    Raises:
        SettingsError: no such protocol.
    """
    if not isinstance(name, str):
        raise SettingsError(f"protocol = {name!r}: must be a string, one of {', '.join(names_in('protocol'))}, or a YAML file")
    named = properties_dir() / "protocol" / f"{name}.yaml"
    if named.is_file():
        return named
    if name.endswith((".yaml", ".yml")) and Path(name).is_file():
        return Path(name)
    known = [*names_in("protocol"), "recbole-default"]
    raise SettingsError(
        f"unknown protocol {name!r}{closest(name, known)}; known: {', '.join(known)}"
    )


def protocol_name(config: Config) -> str:
    """What the record calls the evaluation.

    Given parts are nobody's split: unless the data set names the protocol that they are made for, they are called by what they
    are, and the protocol only says which metrics are taken.
    """
    name = config["protocol"] or "recbole-default"
    made_for = of_dataset(config["dataset"], Path(config["data_path"])).get("protocol")
    return f"given-parts (metrics of {name})" if config["benchmark_filename"] and name != made_for else name


def protocol_overrides(config: Config) -> dict[str, Any]:
    """What the user changed of the protocol that ``config`` names, for the record to say so."""
    base = dict(config.internal_config_dict)
    given = config.external_config_dict
    return {key: given[key] for key in PROTOCOL_KEYS if key in given and given[key] != base.get(key)}


def of_dataset(dataset: str, folder: Path) -> dict[str, Any]:
    """What the YAML files of a data set say: ours, and the one in its folder."""
    return _read_all(properties_dir() / "dataset" / f"{dataset}.yaml", folder / f"{dataset}.yaml")


def _read_all(*files: Path) -> dict[str, Any]:
    """The settings of the files that exist; later files win."""
    return {key: value for file in files if file.is_file() for key, value in read_yaml(file).items()}
