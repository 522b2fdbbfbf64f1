"""Builds and checks RecBole's ``Config``: merge order, known keys, value checks.

Lowest to highest: RecBole's own defaults (overall, task, model, data set), the protocol, the data set's YAML (ours, then the
one beside the data), our model's YAML, then the user's files, dictionary and command line. RecBole's ``Config`` does the
merging; :func:`install` hangs our layers into it, so stock entry points read them too.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from recbole.config import Config
from recbole.model.abstract_recommender import GeneralRecommender, SequentialRecommender
from recbole.utils import ModelType, argument_list

from recbole_diffusion.adapter.eval_input import check_test_input
from recbole_diffusion.adapter.patch import replace
from recbole_diffusion.adapter.refit import check_refit
from recbole_diffusion.adapter.seen_items import check_mask_seen
from recbole_diffusion.property_files import names_in, properties_dir, read_yaml
from recbole_diffusion.registry import closest, model_of, recbole_dir
from recbole_diffusion.settings import Settings, SettingsError, setting

# Keys of the plugin's own, with their defaults.
PLUGIN_KEYS: dict[str, Any] = {
    "strict_config": True,  # refuse unknown keys
    "corrections": True,  # change results of RecBole's own models (corrections.py); off for those in a stock script
    "protocol": None,  # name of the evaluation
    "empty_histories": "pad",  # or drop: what becomes of rows without a history in given parts (given_histories.py)
    "test_input": "train",  # or train+valid: what general models see at test time (eval_input.py)
    "mask_seen": None,  # or True, False: whether what a user has had is ranked (seen_items.py); None: as RecBole has it
    "refit": False,  # or True: test a model trained anew on the training and validation parts (refit.py)
    "matmul_precision": "highest",  # or high, medium: float32 products of our models (model/accelerate.py)
    "nproc": 1,  # processes that train one model (processes.py)
    "torch_compile": False,  # compile our models' networks
}

# What an evaluation protocol decides; a user's value for one of these is an override that the record names.
PROTOCOL_KEYS = ("eval_args", "metrics", "topk", "valid_metric", "repeatable", "test_input", "mask_seen", "refit")


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
    try:
        with ignore_command_line():
            config = RunConfig(model=model, dataset=dataset, config_file_list=config_file_list, config_dict=config_dict)
    except SettingsError:
        raise
    except (ValueError, TypeError, KeyError, NotImplementedError, RuntimeError) as error:
        # What RecBole itself refuses while it resolves settings is bad input as well.
        raise SettingsError(" ".join(str(error).split())) from error
    check_config(config)
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
    replace(Config, "_load_internal_config_dict", _with_our_layers)


def _checked_init(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def init(self: Config, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        # A script that runs RecBole's own models sees RecBole's own behaviour; ours are always checked.
        if model_of(self.model_class):
            check_config(self)

    return init


def _with_our_layers(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def load(self: Config, model: str, model_class: type, dataset: str) -> None:
        spec = model_of(model_class)
        # Our models take no key from a RecBole YAML of the same name; "-" names no file.
        original(self, (spec.stock_yaml or "-") if spec else model, model_class, dataset)
        for key, value in PLUGIN_KEYS.items():
            self.internal_config_dict.setdefault(key, value)
        self.internal_config_dict["corrections"] = _corrects(self, model_class)
        self.internal_config_dict.update(_our_layers(self, model, model_class, dataset))
        _drop_negatives_under_ce(self)

    return load


def _our_layers(config: Config, model: str, model_class: type, dataset: str) -> dict[str, Any]:
    given = config.external_config_dict
    data_path = given.get("data_path", config.internal_config_dict["data_path"])
    # A stock script that runs a model of RecBole's gets RecBole's settings: it knows nothing of a YAML beside the data.
    corrects = given.get("corrections", _corrects(config, model_class))
    of_dataset = _of_dataset(dataset, Path(data_path) / dataset) if corrects else {}
    # Who names the protocol: the user, or the data set (for the parts that it brings), or the model.
    of_parts = of_dataset.get("protocol") if given.get("benchmark_filename", True) else None
    protocol = given.get("protocol") or of_parts or _default_protocol(config, model_class)
    of_protocol = {} if protocol in (None, "recbole-default") else read_yaml(protocol_file(protocol))
    spec = model_of(model_class)
    of_model = read_yaml(properties_dir() / "model" / f"{model}.yaml") if spec and not spec.stock_yaml else {}
    return of_protocol | of_dataset | of_model | {"protocol": protocol}


def _corrects(config: Config, model_class: type) -> bool:
    """Whether results of RecBole's are corrected unless the user says otherwise: in our commands and for our models."""
    return isinstance(config, RunConfig) or model_of(model_class) is not None


def _of_dataset(dataset: str, folder: Path) -> dict[str, Any]:
    """What the YAML files of a data set say: ours, and the one in its folder."""
    return _read_all(properties_dir() / "dataset" / f"{dataset}.yaml", folder / f"{dataset}.yaml")


def _default_protocol(config: Config, model_class: type) -> str | None:
    spec = model_of(model_class)
    if spec and spec.protocol:
        return spec.protocol
    if isinstance(config, RunConfig) and issubclass(model_class, SequentialRecommender):
        return "leave-one-out"
    if isinstance(config, RunConfig) and issubclass(model_class, GeneralRecommender):
        return "ratio-80-10-10"
    return None


def _read_all(*files: Path) -> dict[str, Any]:
    """The settings of the files that exist; later files win."""
    return {key: value for file in files if file.is_file() for key, value in read_yaml(file).items()}


def _drop_negatives_under_ce(config: Config) -> None:
    """RecBole's defaults for its sequential models contradict each other: cross-entropy loss, yet sampled negatives."""
    internal, given = config.internal_config_dict, config.external_config_dict
    sequential = internal["MODEL_TYPE"] == ModelType.SEQUENTIAL
    if sequential and given.get("loss_type", internal.get("loss_type")) == "CE":
        internal["train_neg_sample_args"] = None


def protocol_file(name: str) -> Path:
    """The YAML of a protocol, by name or by path.

    Raises:
        SettingsError: no such protocol.
    """
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
    made_for = _of_dataset(config["dataset"], Path(config["data_path"])).get("protocol")
    return f"given-parts (metrics of {name})" if config["benchmark_filename"] and name != made_for else name


def protocol_overrides(config: Config) -> dict[str, Any]:
    """What the user changed of the protocol that ``config`` names, for the record to say so."""
    base = dict(config.internal_config_dict)
    given = config.external_config_dict
    return {key: given[key] for key in PROTOCOL_KEYS if key in given and given[key] != base.get(key)}


# ---------------------------------------------------------------------------------------------------- the checks


@dataclasses.dataclass(frozen=True)
class TrainingSettings(Settings):
    """Ranges of the RecBole keys that every trained model reads."""

    epochs: int = setting(ge=0)
    train_batch_size: int = setting(ge=1)
    eval_batch_size: int = setting(ge=1)
    learning_rate: float = setting(gt=0)
    weight_decay: float = setting(ge=0)
    eval_step: int = setting(ge=0)
    stopping_step: int = setting(ge=0)
    seed: int = setting(ge=0)
    nproc: int = setting(ge=1)


def check_config(config: Config) -> None:
    """Checks keys, then values.

    Raises:
        SettingsError: an unknown key, or a value out of its range.
    """
    if config["strict_config"] is not False:
        check_keys(config)
    TrainingSettings.read(config)
    _check_learner(config)
    _check_valid_metric(config)
    check_test_input(config)
    check_mask_seen(config)
    check_refit(config)
    settings_class = getattr(config.model_class, "settings_class", None)
    if settings_class is not None:
        settings_class.read(config)


def check_keys(config: Config) -> None:
    """Refuses keys that neither RecBole nor the model reads.

    Keys that a stock script has on its own command line are not ours to judge, so only files and dictionaries count.

    Raises:
        SettingsError: names the key and the closest known one.
    """
    known = known_keys(config.model, config.model_class) | set(config.internal_config_dict)
    for source, given in (("file", config.file_config_dict), ("argument", config.variable_config_dict)):
        for key in given:
            if key not in known:
                raise SettingsError(
                    f"unknown setting {key!r} ({source}) for {config.model}{closest(key, known)}; "
                    "strict_config=False accepts any key"
                )
    for key, parts in (
        ("eval_args", ("split", "group_by", "order", "mode")),
        ("train_neg_sample_args", ("distribution", "sample_num", "alpha", "dynamic", "candidate_num")),
    ):
        given = config.external_config_dict.get(key)
        for part in given if isinstance(given, dict) else ():
            if part not in parts:
                raise SettingsError(
                    f"unknown part {part!r} of {key}{closest(part, parts)}; allowed: {', '.join(parts)}"
                )


def _check_learner(config: Config) -> None:
    """RecBole trains with Adam under any name that it does not know."""
    learners = ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam")
    if str(config["learner"]).lower() not in learners:
        raise SettingsError(f"learner = {config['learner']!r}: must be one of {', '.join(learners)}")


def _check_valid_metric(config: Config) -> None:
    """RecBole looks the validation metric up after the first epoch only; an epoch can be an hour."""
    available = [metric.lower() for metric in config["metrics"]]
    name, _, k = config["valid_metric"].lower().partition("@")
    if name not in available or (k and (not k.isdigit() or int(k) not in config["topk"])):
        raise SettingsError(
            f"valid_metric = {config['valid_metric']!r}: must be one of metrics {config['metrics']} "
            f"at one of topk {config['topk']}"
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
    spec = model_of(model_class)
    stock_yaml = recbole_dir() / "properties" / "model" / f"{(spec.stock_yaml if spec else None) or model}.yaml"
    return keys | (set(read_yaml(stock_yaml)) if stock_yaml.is_file() else set())


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
