"""The settings that exist: what the plugin, RecBole or a model reads. Anything else is refused, with the closest one named."""

from __future__ import annotations

import functools
import inspect
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from recbole.utils import argument_list

from recbole_diffusion.property_files import read_yaml
from recbole_diffusion.registry import closest, model_of, recbole_dir
from recbole_diffusion.settings import SettingsError

# Keys of the plugin's own, with their defaults.
PLUGIN_KEYS: dict[str, Any] = {
    "strict_config": True,  # refuse unknown keys
    "corrections": True,  # change results of RecBole's own models (corrections.py); off for those in a stock script
    "protocol": None,  # name of the evaluation
    "empty_histories": "pad",  # or drop: what becomes of rows without a history in given parts (given_histories.py)
    "test_input": "train",  # or train+valid: what general models see at test time (eval_input.py)
    "mask_seen": None,  # or True, False: whether what a user has had is ranked (seen_items.py); None: as RecBole has it
    "both_maskings": False,  # or True: the test is evaluated with seen items masked and unmasked (seen_items.py)
    "test_also": None,  # or a list of mappings: settings of scoring to test under as well (benchmark/evaluation.py)
    "refit": False,  # or True: test a model trained anew on the training and validation parts (refit.py)
    "matmul_precision": "highest",  # or high, medium: float32 products in our models' training (precision.py)
    "nproc": 1,  # processes that train one model (processes.py)
    "torch_compile": False,  # compile our models' networks
}


def check_keys(model: str, model_class: type, sources: dict[str, dict[str, Any]], others: set[str]) -> None:
    """Refuses keys that neither RecBole nor the model reads.

    Args:
        model: its name.
        model_class: its class.
        sources: the settings to check, by where they come from.
        others: further known keys.

    Raises:
        SettingsError: names the key and the closest known one.
    """
    known = known_keys(model, model_class) | others
    for source, given in sources.items():
        for key in given:
            if key not in known:
                raise SettingsError(
                    f"unknown setting {key!r} ({source}) for {model}{closest(key, known)}; "
                    "strict_config=False accepts any key"
                )


def known_keys(model: str, model_class: type) -> set[str]:
    """Every key that RecBole, the plugin or the model reads."""
    keys = set(_common_keys()) | set(PLUGIN_KEYS)
    settings_class = getattr(model_class, "settings_class", None)
    if settings_class is not None:
        return keys | set(settings_class.keys())
    for cls in model_class.__mro__:
        if not cls.__module__.startswith(("torch.", "builtins")):
            with suppress(OSError, TypeError):  # a class of a notebook has no file
                keys |= _keys_read_in(Path(inspect.getfile(cls)))
    file = stock_yaml(model, model_class)
    return keys | (set(read_yaml(file)) if file.is_file() else set())


@functools.lru_cache(maxsize=1)
def _common_keys() -> frozenset[str]:
    """Keys of RecBole's own: its YAML files, its argument lists, and what its source outside the models reads."""
    keys = {
        "model",
        "dataset",
        "config_files",
        "nproc",
        "ip",
        "port",
        "world_size",
        "group_offset",
        "offset",
        "local_rank",
    }
    for arguments in ("general", "training", "evaluation", "dataset"):
        keys |= set(getattr(argument_list, f"{arguments}_arguments"))
    properties = recbole_dir() / "properties"
    for file in [
        properties / "overall.yaml",
        properties / "dataset" / "sample.yaml",
        properties / "dataset" / "ml-100k.yaml",
    ]:
        keys |= set(read_yaml(file))
    for folder in ("config", "data", "evaluator", "quick_start", "sampler", "trainer", "utils"):
        for file in sorted((recbole_dir() / folder).rglob("*.py")):
            keys |= _keys_read_in(file)
    return frozenset(keys)


@functools.cache
def _keys_read_in(source: Path) -> frozenset[str]:
    """The keys ``k`` of every ``config["k"]`` in a source file: RecBole documents no complete list."""
    return frozenset(re.findall(r"config\[[\"']([\w-]+)[\"']\]", source.read_text(encoding="utf-8")))


def stock_yaml(model: str, model_class: type) -> Path:
    """RecBole's defaults of a model; ours have none there, but for RecBole's networks under another name."""
    spec = model_of(model_class)
    name = (spec.stock_yaml or "-") if spec else model
    return recbole_dir() / "properties" / "model" / f"{name}.yaml"
