"""Types and ranges of settings, as tables: RecBole's own keys, and the keys of its models.

RecBole checks few of its settings, and most of them late: a batch size of ``nan`` ends in an error of torch's after the data
have been read. The tables are read before RecBole computes anything with a value. A key that no table has is not judged.
"""

from __future__ import annotations

import codecs
import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole.evaluator.register import metric_types

from recbole_diffusion.adapter.eval_input import TEST_INPUTS
from recbole_diffusion.adapter.given_histories import EMPTY_HISTORIES
from recbole_diffusion.property_files import read_yaml
from recbole_diffusion.registry import closest
from recbole_diffusion.settings import SettingsError, checked, shortened

Rule = tuple[Any, dict[str, Any]]
"""A type (see :func:`recbole_diffusion.settings.checked`) and its bounds."""


def _rule(kind: Any, **bounds: Any) -> Rule:
    return kind, bounds


_FLAG, _FIELD, _TEXT = _rule(bool), _rule(str), _rule(str | None)
_FIELDS, _MAPPING = _rule(tuple[str, ...] | None, empty=True), _rule(dict | None)
_WITHOUT_CUT = ("auc", "gauc", "logloss", "mae", "rmse")
"""Metrics of which RecBole reports one value, not one for each of ``topk``."""

COMMON: dict[str, Rule] = {
    # the run
    "seed": _rule(int, ge=0, le=2**32 - 1),  # numpy's range
    "worker": _rule(int, ge=0, le=1024),
    "nproc": _rule(int, ge=1),
    "data_path": _FIELD,
    "checkpoint_dir": _FIELD,
    "dataset_save_path": _TEXT,
    "dataloaders_save_path": _TEXT,
    "state": _TEXT,
    "wandb_project": _FIELD,
    **dict.fromkeys(("use_gpu", "reproducibility", "show_progress", "save_dataset", "save_dataloaders", "log_wandb"), _FLAG),
    # training
    "epochs": _rule(int, ge=0),
    "train_batch_size": _rule(int, ge=1),
    "eval_batch_size": _rule(int, ge=1),
    "learner": _rule(str),
    "learning_rate": _rule(float, gt=0),
    "weight_decay": _rule(float, ge=0),
    "eval_step": _rule(int, ge=0),
    "stopping_step": _rule(int, ge=0),
    "loss_decimal_place": _rule(int, ge=0, le=20),
    "clip_grad_norm": _MAPPING,
    "train_neg_sample_args": _MAPPING,
    "transform": _TEXT,
    **dict.fromkeys(("shuffle", "enable_amp", "enable_scaler", "require_pow"), _FLAG),
    # evaluation
    "eval_args": _rule(dict),
    "repeatable": _FLAG,
    "valid_metric": _rule(str),
    "metric_decimal_place": _rule(int, ge=0, le=20),
    # data
    **dict.fromkeys(("USER_ID_FIELD", "ITEM_ID_FIELD", "RATING_FIELD", "TIME_FIELD", "LABEL_FIELD"), _TEXT),
    **dict.fromkeys(("NEG_PREFIX", "ITEM_LIST_LENGTH_FIELD", "LIST_SUFFIX", "POSITION_FIELD"), _FIELD),
    **dict.fromkeys(("HEAD_ENTITY_ID_FIELD", "TAIL_ENTITY_ID_FIELD", "RELATION_ID_FIELD", "ENTITY_ID_FIELD"), _FIELD),
    "field_separator": _FIELD,
    "seq_separator": _FIELD,
    "MAX_ITEM_LIST_LENGTH": _rule(int, ge=1),
    **dict.fromkeys(("load_col", "unload_col", "val_interval", "threshold", "seq_len", "preload_weight"), _MAPPING),
    "discretization": _MAPPING,
    "numerical_features": _rule(tuple[str, ...], empty=True),
    "normalize_field": _FIELDS,
    "normalize_all": _rule(bool | None),
    "filter_inter_by_user_or_item": _FLAG,
    "rm_dup_inter": _rule(str | None, choices=("first", "last")),
    "benchmark_filename": _rule(tuple[str, ...] | None),
    # the plugin's
    "strict_config": _FLAG,
    "protocol": _TEXT,
    "empty_histories": _rule(str, choices=EMPTY_HISTORIES),
    "test_input": _rule(str, choices=TEST_INPUTS),
    "matmul_precision": _rule(str, choices=("highest", "high", "medium")),
    "torch_compile": _FLAG,
    "refit": _FLAG,
    "both_maskings": _FLAG,
}

_LEARNERS = ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam")
_PARTS = {
    "eval_args": ("split", "group_by", "order", "mode"),
    "train_neg_sample_args": ("distribution", "sample_num", "alpha", "dynamic", "candidate_num"),
    "clip_grad_norm": ("max_norm", "norm_type"),
}
_NEGATIVES: dict[str, Rule] = {
    "distribution": _rule(str | None, choices=("uniform", "popularity", "none", "None")),
    "sample_num": _rule(int, ge=1),
    "alpha": _rule(float, ge=0),
    "dynamic": _FLAG,
    "candidate_num": _rule(int, ge=0),
}

# Keys of RecBole's models: what their names say of their range. A rule holds where RecBole's own default keeps it.
_BY_NAME: tuple[tuple[str, dict[str, Any]], ...] = (
    (r"layers?(_num)?$|^num_layers", {"ge": 1, "le": 1000}),
    (r"(size|dim|dimension|heads|factors?)$|^(n|num)_heads|^k$|^kfac$|^nv$|^nh$", {"ge": 1}),
    (r"dropout|_prob$|_ratio$", {"ge": 0, "le": 1}),
    (r"reg|weight|lambda|decay|eps$|std$|shrink", {"ge": 0}),
    (r"tau$|temperature$|^temp$", {"gt": 0}),
    (r"learning_rate|_lr$", {"gt": 0}),
)
_OF_MODELS: dict[tuple[str, str], Rule] = {
    ("EASE", "reg_weight"): _rule(float, gt=0),  # the matrix to be inverted is singular without
    ("SLIMElastic", "alpha"): _rule(float, ge=0),
    ("SLIMElastic", "l1_ratio"): _rule(float, ge=0, le=1),
    ("ItemKNN", "knn_method"): _rule(str, choices=("item", "user")),
}
_WORDS: dict[str, tuple[str, ...]] = {
    "loss_type": ("BPR", "CE"),
    "hidden_act": ("gelu", "relu", "swish", "tanh", "sigmoid"),
}
_KINDS = {
    "bool": bool, "int": int, "float": float, "str": str, "string": str, "dict": dict, "dict or None": dict | None,
    "bool or None": bool | None, "int or None": int | None, "str or None": str | None,
    "list of int": tuple[int, ...], "list of float": tuple[float, ...], "list of str": tuple[str, ...],
}  # fmt: skip


def rules_of(name: str, model_class: type, yaml: Path) -> dict[str, Rule]:
    """The rules of every key of RecBole's, of the plugin's, and of a model.

    Args:
        name: of the model.
        model_class: its class; ``settings_class`` has the rules of a model of ours.
        yaml: defaults of a model without one, whose comments name each key's type; need not exist.
    """
    settings_class = getattr(model_class, "settings_class", None)
    own = settings_class.rules() if settings_class is not None else _commented_rules(yaml)
    return COMMON | own | {key: rule for (model, key), rule in _OF_MODELS.items() if model == name}


@functools.cache
def _commented_rules(file: Path) -> dict[str, Rule]:
    """Rules from the comments ``# (int) ...`` of a model's YAML file, and from the names of the keys."""
    if not file.is_file():
        return {}
    defaults, rules = read_yaml(file), {}
    commented = re.findall(r"^([\w-]+):.*?# \(([^)]*)\)", file.read_text(encoding="utf-8"), re.MULTILINE)
    for key, kind in ((key, _KINDS[kind]) for key, kind in commented if kind in _KINDS and key in defaults):
        number = kind in (int, float, int | None, tuple[int, ...], tuple[float, ...])
        bounds: dict[str, Any] = next((bounds for name, bounds in _BY_NAME if number and re.search(name, key)), {})
        if kind is str and defaults[key] in _WORDS.get(key, ()):
            bounds = {"choices": _WORDS[key]}
        for rule in ((kind, {"empty": True} | bounds), (kind, {"empty": True})):
            try:
                checked(key, defaults[key], *rule)
            except SettingsError:
                continue
            rules[key] = rule
            break
    return rules


def check_values(values: Mapping[str, Any], rules: Mapping[str, Rule]) -> dict[str, Any]:
    """Checks every value that has a rule, and what RecBole's keys have to do with each other.

    Args:
        values: settings, all layers merged.
        rules: from :func:`rules_of`.

    Returns:
        The values that RecBole is to have instead: 2 for 2.0, where a whole number is asked for.

    Raises:
        SettingsError: a value of another type, or out of its range.
    """
    whole: dict[str, Any] = {}
    for key, (kind, rule) in rules.items():
        if key in values:
            value = checked(key, values[key], kind, rule)
            if kind is int and type(values[key]) is not int:
                whole[key] = value
            elif isinstance(value, tuple) and (isinstance(values[key], tuple) or kind == tuple[int, ...]):
                whole[key] = list(value)
    _check_texts(values)
    _check_metrics(values, whole)
    _check_eval_args(values["eval_args"])
    _check_negatives(values.get("train_neg_sample_args"))
    heads, width = (whole.get(key, values.get(key)) for key in ("n_heads", "hidden_size"))
    if "n_heads" in rules and "hidden_size" in rules and width % heads:
        raise SettingsError(f"hidden_size = {width!r}: must be a multiple of n_heads = {heads!r}")
    return whole


def _check_texts(values: Mapping[str, Any]) -> None:
    for key in ("data_path", "checkpoint_dir", "field_separator", "seq_separator", *(key for key in COMMON if "_FIELD" in key)):
        if values.get(key) is not None and (not values[key] or "\0" in values[key]):
            raise SettingsError(f"{key} = {values[key]!r}: must not be empty")
    if (clip := values.get("clip_grad_norm")) is not None:
        _check_parts("clip_grad_norm", clip)
        checked("clip_grad_norm: max_norm", clip.get("max_norm"), float, {"gt": 0})
        checked("clip_grad_norm: norm_type", clip.get("norm_type", 2), float, {"gt": 0})
    if values["learner"].lower() not in _LEARNERS:  # RecBole trains with Adam under any name that it does not know
        raise SettingsError(f"learner = {values['learner']!r}: must be one of {', '.join(_LEARNERS)}")
    parts = values.get("benchmark_filename")
    if parts is not None and len(parts) != 3:
        raise SettingsError(f"benchmark_filename = {parts!r}: must name three parts: training, validation and test")
    if (encoding := values.get("encoding")) is not None:
        try:
            codecs.lookup(encoding)
        except (LookupError, TypeError, ValueError) as error:
            raise SettingsError(f"encoding = {shortened(encoding)}: must be one that Python knows, such as utf-8") from error
    for key in ("user_inter_num_interval", "item_inter_num_interval", "entity_kg_num_interval", "relation_kg_num_interval"):
        if values.get(key) is not None and not _is_interval(values[key]):
            raise SettingsError(f"{key} = {shortened(values[key])}: must be an interval such as '[5,inf)'")
    for key in ("load_col", "unload_col"):
        for suffix, columns in (values.get(key) or {}).items():
            listed = isinstance(columns, (list, tuple)) and all(isinstance(column, str) for column in columns)
            if not (columns is None or columns == "*" or listed):
                raise SettingsError(f"{key}[{suffix!r}] = {shortened(columns)}: must be a list of columns, or '*'")


def _is_interval(value: Any) -> bool:
    number = r"\s*[-+]?(?:\d+\.?\d*|\.\d+|inf)\s*"
    one = rf"\s*[\[(]{number},{number}[\])]\s*"
    return isinstance(value, str) and re.fullmatch(rf"{one}(?:;{one})*", value) is not None


def _check_metrics(values: Mapping[str, Any], whole: dict[str, Any]) -> None:
    """RecBole looks the validation metric up after the first epoch only; an epoch can be an hour."""
    topk = values["topk"] if isinstance(values["topk"], (list, tuple)) else [values["topk"]]
    cuts = list(checked("topk", topk, tuple[int, ...], {"ge": 1}))
    if isinstance(values["topk"], tuple) or any(type(k) is not int for k in topk):
        whole["topk"] = cuts
    metrics = [values["metrics"]] if isinstance(values["metrics"], str) else values["metrics"]
    checked("metrics", metrics, tuple[str, ...], {})
    for metric in metrics:
        if metric.lower() not in metric_types:
            raise SettingsError(f"metrics: unknown metric {metric!r}{closest(metric, metric_types)}")
    if len({metric_types[metric.lower()] for metric in metrics}) > 1:
        raise SettingsError(f"metrics = {metrics!r}: metrics of rankings and of values (AUC, RMSE, ...) cannot be mixed")
    available = [name for metric in metrics for name in ([metric] if metric.lower() in _WITHOUT_CUT else
                                                         [f"{metric}@{k}" for k in cuts])]  # fmt: skip
    if values["valid_metric"].lower() not in [name.lower() for name in available]:
        raise SettingsError(
            f"valid_metric = {values['valid_metric']!r}: must be one of {', '.join(available)} (metrics at one of topk)"
        )


def _check_eval_args(given: Mapping[str, Any]) -> None:
    _check_parts("eval_args", given)
    split = given.get("split", {"RS": [8, 1, 1]})
    if not isinstance(split, dict) or len(split) != 1 or not set(split) <= {"RS", "LS", "TS"}:
        allowed = "{'RS': [0.8, 0.1, 0.1]} or {'LS': 'valid_and_test'}"
        raise SettingsError(f"eval_args: split = {shortened(split)}: must be {allowed}")
    ((kind, parts),) = split.items()
    if kind == "LS" and parts != "valid_and_test":
        raise SettingsError(f"eval_args: split = {shortened(split)}: must be 'valid_and_test'; each part is needed")
    if kind != "LS":
        ratios = checked(f"eval_args: split[{kind!r}]", parts, tuple[float, ...], {"gt": 0})
        if len(ratios) != 3:
            raise SettingsError(f"eval_args: split = {shortened(split)}: must be three numbers: training, validation, test")
    checked("eval_args: order", given.get("order", "RO"), str, {"choices": ("RO", "TO")})
    group_by = given.get("group_by")
    if group_by is not None and not (isinstance(group_by, str) and group_by.lower() in ("user", "none")):
        raise SettingsError(f"eval_args: group_by = {shortened(group_by)}: must be user or None")
    mode = given.get("mode", "full")
    modes = {"valid": mode, "test": mode} if isinstance(mode, str) else mode
    if not isinstance(modes, dict) or not modes or not set(modes) <= {"valid", "test"}:
        raise SettingsError(f"eval_args: mode = {shortened(mode)}: must be a mode, or one for each of valid and test")
    for part, value in modes.items():
        if not isinstance(value, str) or not re.fullmatch(r"full|labeled|(uni|pop)[1-9]\d{0,8}", value):
            allowed = "full, labeled, uniN or popN (such as uni100)"
            raise SettingsError(f"eval_args: mode of {part} = {shortened(value)}: must be {allowed}")


def names_no_negatives(given: Mapping[str, Any]) -> bool:
    """Whether ``train_neg_sample_args`` say that there are none, as RecBole writes it."""
    return str(given.get("distribution", "uniform")).lower() == "none"


def _check_negatives(given: Mapping[str, Any] | None) -> None:
    if given is not None and not names_no_negatives(given):
        _check_parts("train_neg_sample_args", given)
        for key, value in given.items():
            checked(f"train_neg_sample_args: {key}", value, *_NEGATIVES[key])


def _check_parts(key: str, given: Mapping[str, Any]) -> None:
    allowed = _PARTS[key]
    for part in given:
        if part not in allowed:
            raise SettingsError(f"unknown part {part!r} of {key}{closest(part, allowed)}; allowed: {', '.join(allowed)}")
