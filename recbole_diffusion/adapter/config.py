"""Builds and checks RecBole's ``Config``: merge order, known keys, value checks.

Lowest to highest: RecBole's own defaults (overall, task, model, data set), the protocol, the data set's YAML (ours, then the
one beside the data), our model's YAML, then the user's files, dictionary and command line. RecBole's ``Config`` does the
merging; :func:`install` hangs our layers into it, so stock entry points read them too.
"""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
from recbole.config import Config
from recbole.model.abstract_recommender import GeneralRecommender, SequentialRecommender
from recbole.utils import ModelType

from recbole_diffusion.adapter.checks import check_values, names_no_negatives, rules_of
from recbole_diffusion.adapter.eval_input import check_test_input
from recbole_diffusion.adapter.known_keys import PLUGIN_KEYS, check_keys, stock_yaml
from recbole_diffusion.adapter.memory import within_memory
from recbole_diffusion.adapter.patch import replace
from recbole_diffusion.adapter.protocols import of_dataset, protocol_file
from recbole_diffusion.adapter.refit import check_refit
from recbole_diffusion.adapter.seen_items import check_mask_seen
from recbole_diffusion.property_files import properties_dir, read_yaml
from recbole_diffusion.registry import closest, model_of, recbole_dir
from recbole_diffusion.settings import SettingsError


class RunConfig(Config):
    """RecBole's ``Config`` under our own commands: RecBole's models get a protocol of ours too, so that rows can be compared.

    Under stock scripts they keep RecBole's own evaluation, which ``protocol = recbole-default`` brings back here.
    """


def build_config(
    model: str | type,
    dataset: str,
    config_file_list: Sequence[str | Path] | None = None,
    config_dict: dict[str, Any] | None = None,
) -> Config:
    """Builds a checked RecBole ``Config`` for any model, ours or RecBole's, leaving the command line alone.

    Raises:
        SettingsError: unknown model, protocol or key (with the closest match), or a value out of its range.
    """
    for file in config_file_list or []:
        read_yaml(Path(file))
    with ignore_command_line(), recbole_refusals():
        config = RunConfig(model=model, dataset=dataset, config_file_list=config_file_list, config_dict=config_dict)
    _check_cut(config)
    return config


@contextmanager
def ignore_command_line() -> Iterator[None]:
    """Keeps RecBole's ``Config`` from reading ``--key=value`` out of ``sys.argv``."""
    argv = sys.argv
    sys.argv = argv[:1]
    try:
        yield
    finally:
        sys.argv = argv


# ---------------------------------------------------------------------------------------------------- the layers


def install() -> None:
    """Hangs our layers and checks into RecBole's ``Config``; a second call changes nothing."""
    replace(Config, "__init__", _checked_init)
    replace(Config, "_load_variable_config_dict", _with_plain_numbers)
    replace(Config, "_load_internal_config_dict", _with_our_layers)


def _checked_init(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def init(self: Config, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if is_checked(self, self.model_class):
            check_test_input(self)
            check_mask_seen(self)
            check_refit(self)
            settings_class = getattr(self.model_class, "settings_class", None)
            if settings_class is not None:
                with within_memory(self, "reading the settings"):  # a schedule has a number for each of its steps
                    settings_class.read(self)

    return init


def is_checked(config: Config, model_class: type) -> bool:
    """Whether settings are checked, and RecBole's results corrected unless the user says otherwise.

    It is so in our commands and for our models: a script that runs RecBole's own models sees RecBole's own behaviour.
    """
    return isinstance(config, RunConfig) or model_of(model_class) is not None


def _with_plain_numbers(original: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Takes tuners' numbers, which are numpy's, for Python's; RecBole would refuse ``topk = np.int64(10)``."""

    def plain(value: Any) -> Any:
        if isinstance(value, (np.generic, np.ndarray)):
            return value.tolist()
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return type(value)(map(plain, value)) if type(value) in (list, tuple) else value

    def load(self: Config, config_dict: dict[str, Any] | None) -> dict[str, Any]:
        return original(self, plain(config_dict))

    return load


def _with_our_layers(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def load(self: Config, model: str, model_class: type, dataset: str) -> None:
        spec = model_of(model_class)
        # Our models take no key from a RecBole YAML of the same name; "-" names no file.
        original(self, (spec.stock_yaml or "-") if spec else model, model_class, dataset)
        for key, value in PLUGIN_KEYS.items():
            self.internal_config_dict.setdefault(key, value)
        self.internal_config_dict["corrections"] = is_checked(self, model_class)
        stock_keys, stock_eval_args = set(self.internal_config_dict), self.internal_config_dict["eval_args"]
        layers = _our_layers(self, model, model_class, dataset)
        for layer in layers.values():
            self.internal_config_dict.update(layer)
        if spec or self.internal_config_dict["protocol"]:
            _merge_eval_args(self, stock_eval_args, list(layers.values()))
        _drop_negatives(self, model, layers["model"])
        if is_checked(self, model_class):
            _check_before_use(self, model, model_class, stock_keys, layers)

    return load


def _check_before_use(
    config: Config, model: str, model_class: type, stock_keys: set[str], layers: dict[str, dict[str, Any]]
) -> None:
    """Checks keys, then values, before RecBole computes anything with them.

    Raises:
        SettingsError: an unknown key, or a value of another type or out of its range.
    """
    internal, given = config.internal_config_dict, config.external_config_dict
    merged = internal | given
    if merged["strict_config"] is not False:
        # Keys that a stock script has on its own command line are not ours to judge.
        sources = {"file": config.file_config_dict, "argument": config.variable_config_dict}
        check_keys(model, model_class, sources | {name: layers[name] for name in ("protocol", "data set")}, stock_keys)
    own_yaml = properties_dir() / "model" / f"{model}.yaml"
    yaml = own_yaml if model_of(model_class) and own_yaml.is_file() else stock_yaml(model, model_class)
    for key, value in check_values(merged, rules_of(model, model_class, yaml)).items():
        (given if key in given else internal)[key] = value


def _merge_eval_args(config: Config, stock: Any, layers: list[dict[str, Any]]) -> None:
    """Lets ``eval_args`` that say one thing (``{'mode': 'uni10'}``) take the others from the protocol.

    RecBole takes what is missing from defaults of its own: a random split of each user, ranking all items.
    """
    given = (config.file_config_dict, config.variable_config_dict, config.cmd_config_dict)
    ours, users = ([layer["eval_args"] for layer in part if "eval_args" in layer] for part in (layers, given))
    if all(isinstance(part, dict) for part in (*ours, *users)):  # else the check of values has something to say
        config.internal_config_dict["eval_args"] = base = functools.reduce(_overlay, ours or [stock])
        if users:
            config.external_config_dict["eval_args"] = functools.reduce(_overlay, users, base)


def _overlay(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """``eval_args`` over others; ``mode`` is one for both parts, or one for each."""

    def modes(part: dict[str, Any]) -> Any:
        mode = part.get("mode", {})
        return {"valid": mode, "test": mode} if isinstance(mode, str) else mode

    both = modes(below), modes(above)
    mixed = {"mode": both[0] | both[1]} if all(isinstance(mode, dict) and mode for mode in both) else {}
    return below | above | mixed


def _our_layers(config: Config, model: str, model_class: type, dataset: str) -> dict[str, dict[str, Any]]:
    """Our layers by name, lowest first."""
    given = config.external_config_dict
    data_path = given.get("data_path", config.internal_config_dict["data_path"])
    # A stock script that runs a model of RecBole's gets RecBole's settings: it knows nothing of a YAML beside the data.
    corrects = given.get("corrections", is_checked(config, model_class))
    of_data = of_dataset(dataset, Path(data_path) / dataset) if corrects else {}
    # Who names the protocol: the user, or the data set (for the parts that it brings), or the model.
    of_parts = of_data.get("protocol") if given.get("benchmark_filename", True) else None
    protocol = given.get("protocol") or of_parts or _default_protocol(config, model_class)
    of_protocol = {} if protocol in (None, "recbole-default") else read_yaml(protocol_file(protocol))
    spec = model_of(model_class)
    of_model = read_yaml(properties_dir() / "model" / f"{model}.yaml") if spec and not spec.stock_yaml else {}
    return {"protocol": of_protocol, "data set": of_data, "model": of_model | {"protocol": protocol}}


def _default_protocol(config: Config, model_class: type) -> str | None:
    spec = model_of(model_class)
    if spec and spec.protocol:
        return spec.protocol
    if isinstance(config, RunConfig) and issubclass(model_class, SequentialRecommender):
        return "leave-one-out"
    if isinstance(config, RunConfig) and issubclass(model_class, GeneralRecommender):
        return "ratio-80-10-10"
    return None


def _drop_negatives(config: Config, model: str, of_model: dict[str, Any]) -> None:
    """Takes sampled negatives away from models that have no use for them.

    RecBole's defaults for its sequential models contradict each other: cross-entropy loss, yet sampled negatives. Of ours,
    DreamRec would train on negatives as if they were targets, if a file shared with other models asked for them.
    """
    internal, given = config.internal_config_dict, config.external_config_dict
    sequential = internal["MODEL_TYPE"] == ModelType.SEQUENTIAL
    if sequential and given.get("loss_type", internal.get("loss_type")) == "CE":
        internal["train_neg_sample_args"] = None
    asked = given.get("train_neg_sample_args")
    takes_none = of_model.get("train_neg_sample_args", asked) is None
    if takes_none and asked is not None and not (isinstance(asked, dict) and names_no_negatives(asked)):
        getLogger().warning(f"train_neg_sample_args = {asked}: ignored, {model} takes no sampled negatives")
        given["train_neg_sample_args"] = None


# ---------------------------------------------------------------------------------------------------- the checks


@contextmanager
def recbole_refusals(about: str = "") -> Iterator[None]:
    """Turns what RecBole refuses into one line of bad input.

    An error that a line ``raise ...`` of RecBole's makes is a refusal; any other error is a bug, RecBole's or ours, and
    stays what it is.

    Args:
        about: what the line begins with.

    Raises:
        SettingsError: RecBole's words on one line.
    """
    try:
        yield
    except SettingsError:
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        if not (Path(last.filename).is_relative_to(recbole_dir()) and (last.line or "").startswith("raise")):
            raise
        raise SettingsError(about + " ".join(str(error).split())) from error


def _check_cut(config: Config) -> None:
    """Refuses to read more of a history than there is. Only what was asked for is judged: the default is cut in silence."""
    asked, there = config.external_config_dict.get("history_length"), config["MAX_ITEM_LIST_LENGTH"]
    if asked is not None and config["history_length"] > there:
        raise SettingsError(f"history_length = {asked}: must be at most MAX_ITEM_LIST_LENGTH = {there}")


def check_dataset(config: Config) -> None:
    """Refuses a data set that is not there. RecBole would go and download it, then fail on the way.

    Raises:
        SettingsError: names the folder and the closest data set found there.
    """
    folder, name = Path(config["data_path"]), config["dataset"]
    if not folder.is_dir():
        beside = [path.name for path in folder.parent.glob("*") if path.is_dir()] if folder.parent.is_dir() else []
        raise SettingsError(
            f"unknown dataset {name!r}: no folder {folder}{closest(name, [*beside, 'ml-100k'])}; "
            "put RecBole's atomic files there, or name their parent with --data_path"
        )
    parts = [f"{part}." for part in config["benchmark_filename"]] if config["benchmark_filename"] else [""]
    for part in parts:
        if not (folder / f"{name}.{part}inter").is_file():
            raise SettingsError(f"dataset {name!r}: no file {folder / f'{name}.{part}inter'}")
    _check_time_field(config)


def _check_time_field(config: Config) -> None:
    """A sequential model orders by time; a data set without a YAML of its own loads no time column."""
    field, columns = config["TIME_FIELD"], (config["load_col"] or {}).get("inter")
    if config["MODEL_TYPE"] == ModelType.SEQUENTIAL and not config["benchmark_filename"] and columns and field not in columns:
        raise SettingsError(
            f"dataset {config['dataset']!r}: {config.model} needs the time field {field!r}, but load_col = "
            f"{config['load_col']}; add it: --load_col=\"{{'inter': {[*columns, field]}}}\""
        )
