"""Checkpoints that hold tensors and plain data, for every RecBole model.

RecBole pickles its ``Config`` into a checkpoint (trainer/trainer.py:308): torch >= 2.6 refuses to read that (RecBole
issue #2212), and reading it with any torch can run code. Ours hold the settings that rebuild the Config, and everything
else as tensors and plain data (:mod:`recbole_diffusion.adapter.codec`), and are read with ``weights_only=True``.
:func:`install` makes RecBole's trainers use them. A checkpoint that RecBole itself wrote is read on request only.

Reading somebody else's checkpoint runs none of its content: no pickle, no ``eval`` (:mod:`recbole_diffusion.adapter.repairs`),
and no pickled file that its settings point to (:mod:`recbole_diffusion.adapter.pickles`).
"""

from __future__ import annotations

import contextlib
import os
import pickle
import weakref
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from logging import getLogger
from typing import Any

import recbole.data
import recbole.quick_start
import recbole.quick_start.quick_start
import torch
from recbole.config import Config
from recbole.trainer import trainer as trainers
from recbole.utils import init_logger, init_seed, set_color

from recbole_diffusion.adapter import refit
from recbole_diffusion.adapter.codec import decode, encode, plain
from recbole_diffusion.adapter.config import ignore_command_line
from recbole_diffusion.adapter.eval_input import input_of
from recbole_diffusion.adapter.known_keys import known_keys
from recbole_diffusion.adapter.patch import replace
from recbole_diffusion.adapter.pickles import kind_of, trust_pickles
from recbole_diffusion.registry import model_of
from recbole_diffusion.settings import parse_literal

FORMAT = "recbole_diffusion/1"
_KEYS = {"model", "dataset", "settings", "epoch", "state_dict", "other_parameter", "optimizer"}

# What Config works out from the other settings and from the machine, or a multi-process run hands to it.
_DERIVED = {"model", "dataset", "MODEL_TYPE", "MODEL_INPUT_TYPE", "eval_type", "device", "valid_metric_bigger"}
_DERIVED |= {"valid_neg_sample_args", "test_neg_sample_args", "single_spec", "local_rank", "nproc", "world_size"}
_DERIVED |= {"offset", "ip", "port"}


# A Config cannot be stored: it holds classes and enums, and RecBole pickles it for that reason. What rebuilds an equal one is
# its final settings, less what Config adds by itself, which it would refuse or take for the user's word when it meets it again.
def settings_of(config: Config) -> dict[str, Any]:
    """Plain settings that rebuild an equal ``Config``: ``Config(model=..., dataset=..., config_dict=settings)``.

    They include what was set later with ``config[key] = value``. Left out are what ``Config`` works out by itself (so a
    later assignment to one of those, such as ``valid_neg_sample_args``, is lost) and what is not plain: tensors,
    arrays, enums, objects. A string that ``Config`` would read as something else, such as ``"1"``, is quoted:
    ``"'1'"``.
    """
    stated = {**config.internal_config_dict, **config.external_config_dict}
    settings = {}
    for key, value in config.final_config_dict.items():
        if key in _DERIVED:
            continue
        if key == "data_path":
            value = _data_path(stated.get(key), value, config["dataset"])
        elif key == "train_neg_sample_args" and isinstance(value, dict) and value.get("distribution") == "none":
            value = None  # Config expands None to this, and refuses it as a setting of a model with CE loss
        with contextlib.suppress(TypeError):
            value = plain(value)
            # gpu_id is the one string that Config itself turns back from the number it reads.
            quoted = isinstance(value, str) and key != "gpu_id" and parse_literal(value) != value
            settings[key] = repr(value) if quoted else value
    return settings


def _data_path(stated: Any, joined: str, dataset: str) -> Any:
    """The folder before ``Config`` put the dataset's name behind it; for ml-100k it takes RecBole's own instead."""
    if dataset == "ml-100k" or joined == os.path.join(str(stated), dataset):
        return stated
    folder, name = os.path.split(joined)
    return folder if name == dataset else stated


def config_from(checkpoint: dict[str, Any], overrides: dict[str, Any] | None = None) -> Config:
    """Rebuilds the ``Config`` of a checkpoint, on this machine's device, whatever the command line says.

    A setting that an older version knew and this one does not is kept without effect, and a warning names it.

    Args:
        checkpoint: what :func:`load_checkpoint` returned.
        overrides: settings to change; ``model`` (name or class) and ``dataset`` among them.

    Raises:
        ValueError: the model is a class of the user's own, which its name does not find, and ``overrides`` has no ``model``.
    """
    if "settings" in checkpoint:
        own = checkpoint.get("model_class", "recbole.")
        if not own.startswith(("recbole.", "recbole_diffusion.")) and "model" not in (overrides or {}):
            raise ValueError(f"checkpoint of {own}, a class of your own: hand it over, as overrides={{'model': <the class>}}")
        settings = {"model": checkpoint["model"], "dataset": checkpoint["dataset"], **checkpoint["settings"]}
    else:  # RecBole's own file: its DiffRec is our StockDiffRec
        stock = checkpoint["config"]
        model = f"Stock{stock['model']}" if model_of(stock.model_class) else stock.model_class
        settings = {"model": model, "dataset": stock["dataset"], **settings_of(stock)}
    settings |= overrides or {}
    model, dataset, strict = settings.pop("model"), settings.pop("dataset"), settings.get("strict_config", True)
    with ignore_command_line():
        config = Config(model=model, dataset=dataset, config_dict=settings | {"strict_config": False})
    config["strict_config"] = strict
    gone = sorted(set(settings) - known_keys(config.model, config.model_class) - set(config.internal_config_dict))
    if gone and strict:
        getLogger().warning(f"the checkpoint has settings that {config.model} no longer has: {', '.join(gone)}")
    return config


def save_checkpoint(
    trainer: Any, epoch: int, file: str | os.PathLike[str], extra: dict[str, Any] | None = None
) -> None:
    """Writes the state of a trainer, whole or not at all.

    Args:
        trainer: a RecBole trainer.
        epoch: the last epoch that was trained, from 0.
        file: where to; its folder is made.
        extra: further entries, of what :func:`encode` takes.

    Raises:
        ValueError: the model's ``other_parameter`` or ``extra`` holds something that is not data, or ``extra`` a key of
            the format itself.
    """
    config, model = trainer.config, trainer.model
    score, result = getattr(trainer, "_last_valid", (None, None))
    best = result if score == trainer.best_valid_score else trainer.best_valid_result
    state = {
        "format": FORMAT,
        "model": config["model"],
        "model_class": f"{config.model_class.__module__}.{config.model_class.__qualname__}",
        "dataset": config["dataset"],
        "settings": settings_of(config),
        "trained_on": getattr(trainer, "trained_on", "train"),
        "epoch": int(epoch),
        "cur_step": int(trainer.cur_step),
        "best_valid_score": float(trainer.best_valid_score),
        "best_valid_result": best and {name: float(value) for name, value in best.items()},
    }
    if isinstance(trainer, trainers.DecisionTreeTrainer):  # the trees are in a file that their library wrote
        state |= {"state_dict": trainer.temp_best_file, "other_parameter": None, "optimizer": None}
    else:
        state |= {"state_dict": encode(model.state_dict(), "state_dict")}
        state |= {"other_parameter": _other_parameter(model)} | _optimizers(trainer)
        state |= {"attributes": encode(_changed_attributes(trainer), "attributes")}
    if taken := set(extra or {}) & set(state):
        raise ValueError(f"extra of checkpoint {file} holds {sorted(taken)}: allowed are keys not in {sorted(state)}")
    state |= encode(extra or {}, "extra")
    file = os.fspath(file)
    os.makedirs(os.path.dirname(file) or ".", exist_ok=True)
    partial = f"{file}.{os.getpid()}.partial"
    try:
        torch.save(state, partial)
        os.replace(partial, file)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(partial)


def _other_parameter(model: Any) -> Any:
    """What the model wants kept beside its weights, less its own layers (DIN, SASRecF): ``state_dict`` has those."""
    layers = {id(layer) for layer in model.modules()}
    other = model.other_parameter() or {}
    return encode({name: value for name, value in other.items() if id(value) not in layers}, "other_parameter")


def _optimizers(trainer: Any) -> dict[str, Any]:
    """The states of all the trainer's optimisers: RecVAE's trainer, for one, has two that take turns."""
    named = {name: value for name, value in vars(trainer).items() if isinstance(value, torch.optim.Optimizer)}
    first = named.pop("optimizer", None)
    own = all(first is not optimizer for optimizer in named.values())
    return {
        "optimizer": encode(first.state_dict(), "optimizer") if first is not None and own else None,
        "optimizers": {name: encode(optimizer.state_dict(), name) for name, optimizer in named.items()},
    }


def _attributes(model: Any) -> dict[str, Any]:
    """The numbers and tensors among the plain attributes of the model's modules, as ``<path of the module>.<name>``.

    ``state_dict`` has parameters and buffers only, and ``other_parameter`` what RecBole's author has thought of.
    """
    other = set(getattr(model, "other_parameter_name", ()))
    return {
        f"{path}.{name}": value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, (bool, int, float, torch.Tensor)) and not (path == "" and name in other)
    }


def _note_attributes(original: Callable[..., None]) -> Callable[..., None]:
    """Notes what the attributes are when the trainer is made, which is before training changes any."""

    def init(self: Any, config: Any, model: Any) -> None:
        original(self, config, model)
        self._attributes_before = {
            key: (weakref.ref(value), value._version) if isinstance(value, torch.Tensor) else value
            for key, value in _attributes(self.model).items()
        }

    return init


def _changed_attributes(trainer: Any) -> dict[str, Any]:
    """The plain attributes that training has changed: the step of an annealing (MultiVAE), an attention matrix (KGAT).

    The other ones stay out, so that settings that a resumed training changes (another weight of a loss, say) are not changed
    back. So do those that were neither number nor tensor before: caches, mostly.
    """
    changed = {}
    for key, value in _attributes(trainer.model).items():
        before = trainer._attributes_before.get(key)
        if isinstance(value, torch.Tensor):
            same = not isinstance(before, tuple) or (before[0]() is value and before[1] == value._version)
        else:
            same = before is None or isinstance(before, tuple) or before == value
        if not same:
            changed[key] = value
    return changed


def load_checkpoint(
    file: str | os.PathLike[str], map_location: Any = None, trust_pickle: bool = False
) -> dict[str, Any]:
    """Reads a checkpoint.

    Args:
        file: one that :func:`save_checkpoint` wrote, or with ``trust_pickle`` one that RecBole wrote.
        map_location: where tensors go, as for ``torch.load``.
        trust_pickle: also read RecBole's own format, which **can run any code** that its writer put into it.

    Returns:
        The entries of the file, decoded: ``model, dataset, settings, trained_on, epoch, cur_step, best_valid_score,
        best_valid_result, state_dict, other_parameter, attributes, optimizer, optimizers`` and any extra ones. RecBole's
        format has ``config`` in place of the first three, and neither ``trained_on`` nor ``best_valid_result`` nor
        ``attributes`` nor ``optimizers``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint, damaged, or a pickle that is not trusted.
    """
    path = os.fspath(file)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no checkpoint file {path!r}")
    kind, state = kind_of(path), None
    try:
        if kind == "archive":
            with zipfile.ZipFile(path) as archive:
                if (damaged := archive.testzip()) is not None:
                    raise ValueError(f"wrong checksum of {damaged!r}")
            with contextlib.suppress(pickle.UnpicklingError):  # holds more than tensors and plain data
                state = torch.load(path, map_location=map_location, weights_only=True)
        if state is None and kind is not None and trust_pickle:
            state = torch.load(path, map_location=map_location, weights_only=False)
            if isinstance(state, dict) and {"config", "state_dict"} <= set(state):
                return state
        if isinstance(state, dict) and state.get("format") == FORMAT and set(state) >= _KEYS:
            return {key: decode(value) for key, value in state.items()}
    except Exception as error:  # what torch raises for a damaged file depends on where the damage is
        raise ValueError(f"checkpoint {path!r} is damaged: {' '.join(str(error).split())[:200]}") from error
    if state is None and kind is not None:
        raise ValueError(
            f"checkpoint {path!r} is a pickle, as RecBole writes them, and reading a pickle can run any code: if you "
            "trust its writer, use recbole_diffusion.adapter.checkpoint.load_data_and_model(file, trust_pickle=True)"
        )
    raise ValueError(f"{path!r} is not a checkpoint of format {FORMAT}, or it is damaged")


def load_data_and_model(
    model_file: str | os.PathLike[str], trust_pickle: bool = False, overrides: dict[str, Any] | None = None
) -> tuple[Config, Any, Any, Any, Any, Any]:
    """Rebuilds everything from a checkpoint; takes the place of ``recbole.quick_start.load_data_and_model``.

    Args:
        model_file: a checkpoint.
        trust_pickle: also read RecBole's own checkpoints, and RecBole's pickled datasets and data loaders where the
            settings name some; both **can run any code** that their writer put into them.
        overrides: settings to change, such as ``data_path``.

    Returns:
        ``(config, model, dataset, train_data, valid_data, test_data)``; the training data of a refitted model are those of the
        training and validation parts.

    Raises:
        FileNotFoundError, ValueError: see :func:`load_checkpoint`.
    """
    checkpoint = load_checkpoint(model_file, "cpu", trust_pickle)
    config = config_from(checkpoint, overrides)
    init_seed(config["seed"], config["reproducibility"])
    init_logger(config)
    logger = getLogger()
    logger.info(config)
    with trust_pickles(trust_pickle):
        dataset = recbole.data.create_dataset(config)
        logger.info(dataset)
        train_data, valid_data, test_data = recbole.data.data_preparation(config, dataset)
        if checkpoint.get("trained_on") == refit.BOTH_PARTS:
            parts = (data._dataset for data in (train_data, valid_data, test_data))
            train_data = refit.union_loader(config, dataset, *parts)
            test_data.input_parts = None  # the model has the validation items already
        init_seed(config["seed"], config["reproducibility"])
        model = config.model_class(config, train_data._dataset).to(config["device"])
    if config["device"].type != "cpu":
        checkpoint = load_checkpoint(model_file, config["device"], trust_pickle)
    _load_into(model, checkpoint)
    return config, model, dataset, train_data, valid_data, test_data


def load_weights(model: Any, file: str | os.PathLike[str], device: Any = None) -> None:
    """Loads what a checkpoint holds of the model itself; see :func:`load_checkpoint` for what it raises."""
    _load_into(model, load_checkpoint(file, map_location=device))


def _load_into(model: Any, checkpoint: dict[str, Any]) -> None:
    model.load_state_dict(checkpoint["state_dict"])
    model.load_other_parameter(checkpoint.get("other_parameter"))


def install() -> None:
    """Makes RecBole's trainers and ``load_data_and_model`` use these checkpoints; a second call changes nothing."""
    for owner in (trainers.Trainer, trainers.DecisionTreeTrainer):
        replace(owner, "_save_checkpoint", lambda original: lambda self, *args, **kwargs: _save(self, *args, **kwargs))
        replace(owner, "_valid_epoch", _valid_epoch)
    replace(trainers.Trainer, "__init__", _note_attributes)
    replace(trainers.Trainer, "resume_checkpoint", lambda original: _resume)
    replace(trainers.Trainer, "evaluate", _evaluate)
    replace(trainers.PretrainTrainer, "save_pretrained_model", lambda original: _save_pretrained)
    replace(recbole.quick_start.quick_start, "load_data_and_model", lambda original: load_data_and_model, everywhere=True)


def _save(self: Any, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
    """Writes a checkpoint, in the first of several processes only; the others wait until they can read it."""
    file = kwargs.pop("saved_model_file", self.saved_model_file)
    if self.config["single_spec"] or self.config["local_rank"] == 0:
        # RecBole says -1 for a resumed training that has nothing left to do; the file keeps its epoch.
        save_checkpoint(self, self.start_epoch - 1 if epoch < 0 else epoch, file)
        if verbose:
            self.logger.info(set_color("Saving current", "blue") + f": {file}")
    if not self.config["single_spec"]:
        torch.distributed.barrier()


def _save_pretrained(self: Any, epoch: int, saved_model_file: str) -> None:
    """Writes the checkpoint of a pretraining stage (S3Rec, RaCT)."""
    _save(self, epoch, verbose=False, saved_model_file=saved_model_file)
    self.saved_model_file = saved_model_file


def _resume(self: Any, resume_file: str | os.PathLike[str]) -> None:
    """Goes on from a checkpoint: weights, counters, optimisers, epoch, early stopping and the best result so far."""
    checkpoint = load_checkpoint(resume_file, map_location=self.device)
    self.saved_model_file = str(resume_file)
    self.start_epoch = checkpoint["epoch"] + 1
    self.cur_step = checkpoint["cur_step"]
    self.best_valid_score = checkpoint["best_valid_score"]
    best = checkpoint.get("best_valid_result")
    self.best_valid_result = best and OrderedDict(best)
    if checkpoint["model"].lower() != self.config["model"].lower():
        self.logger.warning(f"{resume_file} is a checkpoint of {checkpoint['model']}, not of {self.config['model']}")
    _load_into(self.model, checkpoint)
    for key, value in checkpoint.get("attributes", {}).items():
        path, _, name = key.rpartition(".")
        setattr(self.model.get_submodule(path), name, value)
    for name, state in {"optimizer": checkpoint["optimizer"], **checkpoint.get("optimizers", {})}.items():
        if state is not None:
            getattr(self, name).load_state_dict(state)
    self.logger.info(f"Checkpoint loaded. Resume training from epoch {self.start_epoch}")


def _evaluate(original: Callable[..., Any]) -> Callable[..., Any]:
    def evaluate(
        self: Any, eval_data: Any, load_best_model: bool = True, model_file: Any = None, show_progress: bool = False
    ) -> Any:
        if eval_data and load_best_model:
            file = model_file or self.saved_model_file
            load_weights(self.model, file, self.device)
            self.logger.info(f"Loading model structure and parameters from {file}")
        with input_of(self.model, eval_data):
            return original(self, eval_data, load_best_model=False, show_progress=show_progress)

    return evaluate


def _valid_epoch(original: Callable[..., Any]) -> Callable[..., Any]:
    def valid_epoch(self: Any, *args: Any, **kwargs: Any) -> Any:
        # RecBole saves a new best model before it notes its result in best_valid_result.
        self._last_valid = original(self, *args, **kwargs)
        return self._last_valid

    return valid_epoch
