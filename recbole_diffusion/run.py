"""One run: settings -> data -> model -> trainer -> result, and the record of it."""

from __future__ import annotations

import glob
import sys
from collections.abc import Sequence
from logging import FileHandler, Logger, LogRecord, getLogger
from pathlib import Path
from typing import Any

from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.trainer import Trainer
from recbole.utils import init_logger, init_seed, set_color

from recbole_diffusion.adapter.checkpoint import load_checkpoint, settings_of
from recbole_diffusion.adapter.config import build_config, check_dataset, recbole_refusals
from recbole_diffusion.adapter.data_files import check_data_files, check_sizes
from recbole_diffusion.adapter.lookup import trainer_of
from recbole_diffusion.adapter.memory import (
    check_training_memory,
    out_of_memory_is_one_line,
    watch_first_batches,
    within_memory,
)
from recbole_diffusion.adapter.pickles import trust_pickles
from recbole_diffusion.adapter.processes import check_processes, launch
from recbole_diffusion.adapter.refit import BOTH_PARTS, selected_epochs, union_loader
from recbole_diffusion.adapter.surroundings import check_surroundings
from recbole_diffusion.adapter.trainer import tracked
from recbole_diffusion.adapter.trainer.adversarial import AdversarialTrainer
from recbole_diffusion.benchmark.evaluation import evaluate_test, ways_to_score
from recbole_diffusion.benchmark.per_user import users_file, write_users
from recbole_diffusion.benchmark.record import (
    Run,
    best_epoch,
    check_record_file,
    make_record,
    settings_hash,
    what_counts,
    write_record,
)
from recbole_diffusion.settings import SettingsError

DETAIL = {"detail": True}  # marks what the screen shows only with --verbose


def run_recbole_diffusion(
    model: str | type = "DreamRec",
    dataset: str = "ml-100k",
    config_file_list: Sequence[str | Path] | None = None,
    config_dict: dict[str, Any] | None = None,
    *,
    record: str | Path | None = None,
    users: str | Path | None = None,
    resume: bool = False,
    trust_pickle: bool = False,
    verbose: bool = False,
    command: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Trains and evaluates a model, ours or RecBole's.

    Args:
        model: name or class.
        dataset: name; its files lie in ``<data_path>/<dataset>/`` (ml-100k ships inside RecBole).
        config_file_list: YAML files of settings.
        config_dict: settings; these win over the files.
        record: file for the JSON record.
        users: file for the metrics of each test user (:mod:`recbole_diffusion.benchmark.per_user`); with a record it is
            ``<record>.users.npz`` where nothing else is said.
        resume: keep the training state at every epoch, and go on from it if an earlier run left one.
        trust_pickle: read pickled data sets, data loaders and pretrained models, which **can run any code**.
        verbose: show all settings, the data and the network; the log file always has them.
        command: the command line, for the record.

    Returns:
        The record (see :func:`recbole_diffusion.benchmark.record.make_record`).

    Raises:
        SettingsError: bad settings; nothing has been written then.
    """
    if record is not None:
        check_record_file(record)
    config = build_config(model, dataset, config_file_list, config_dict)
    check_dataset(config)
    check_data_files(config)
    check_surroundings(config)
    ways_to_score(config)
    command = command or sys.argv
    if config["nproc"] > 1:
        _check_processes(config, resume)
        asked = (model, dataset, config_file_list, config_dict, record, users, command, trust_pickle, verbose)
        return launch(_run_as_one_of_several, config["nproc"], *asked)
    with trust_pickles(trust_pickle), out_of_memory_is_one_line(config):
        return run(config, record=record, users=users, resume=resume, verbose=verbose, command=command)


def _check_processes(config: Config, resume: bool) -> None:
    """Refuses what several processes cannot do."""
    trainer = trainer_of(config)
    if issubclass(trainer, AdversarialTrainer):
        trainer.check_processes(config)
    if resume:
        raise SettingsError(f"nproc = {config['nproc']!r}: must be 1 for resume, which keeps the state of one process")
    check_processes(config)


def _run_as_one_of_several(
    settings: dict[str, Any],
    model: str | type,
    dataset: str,
    config_file_list: Sequence[str | Path] | None,
    config_dict: dict[str, Any] | None,
    record: str | Path | None,
    users: str | Path | None,
    command: Sequence[str],
    trust_pickle: bool,
    verbose: bool,
) -> dict[str, Any]:
    """What each process of a multi-process run does; the first one writes the files."""
    config = build_config(model, dataset, config_file_list, {**(config_dict or {}), **settings})
    if settings["local_rank"] != 0:
        record = users = None
    with trust_pickles(trust_pickle):
        return run(config, record=record, users=users, verbose=verbose, command=command)


def run(
    config: Config,
    *,
    record: str | Path | None = None,
    users: str | Path | None = None,
    resume: bool = False,
    verbose: bool = False,
    command: Sequence[str] = (),
) -> dict[str, Any]:
    """Trains and evaluates what ``config`` says; see :func:`run_recbole_diffusion`."""
    init_seed(config["seed"], config["reproducibility"])
    init_logger(config)
    logger = getLogger()
    log_file = _shorten(logger, verbose)
    logger.info(config, extra=DETAIL)

    dataset, loaders = _load_data(config, logger)
    train_data, valid_data, test_data = loaders
    parts = {name: data._dataset for name, data in zip(("train", "valid", "test"), loaders, strict=True)}
    file = Path(config["checkpoint_dir"]) / f"{config['model']}-{config['dataset']}-{settings_hash(config)}"

    both_data = union_loader(config, dataset, *parts.values()) if config["refit"] else None
    trainer = _make_trainer(config, parts["train"], file, resume)
    logger.info(trainer.model, extra=DETAIL)
    logger.info(_summary(config, parts, trainer.model))
    watch_first_batches(config, trainer.model, valid_data)
    _, valid = trainer.fit(train_data, valid_data, show_progress=config["show_progress"])
    curve, refitted = trainer.curve, None
    if both_data is not None:
        epochs = selected_epochs(best_epoch(curve, config["valid_metric_bigger"]), config)
        logger.info(set_color("Training anew", "blue") + f" on training and validation parts: {epochs} epochs")
        trainer = _make_trainer(config, both_data._dataset, _refit_file(file), resume)
        trainer.epochs, trainer.trained_on = epochs, BOTH_PARTS
        trainer.fit(both_data, show_progress=config["show_progress"])
        refitted = {"epochs": epochs, "curve": trainer.curve}

    if refitted is not None:
        test_data.input_parts = None  # the model has the validation items already
    tested = evaluate_test(trainer, train_data if both_data is None else both_data, test_data)
    finished = Run(
        config=config,
        model=trainer.model,
        parts=parts,
        curve=curve,
        checkpoint=trainer.saved_model_file,
        valid=dict(valid or {}),
        refit=refitted,
        tested=tested,
        command=list(command),
        log=log_file,
    )
    logger.info(set_color("best valid ", "yellow") + f": {finished.valid}")
    logger.info(set_color("test result", "yellow") + f": {tested.metrics}")

    result = make_record(finished)
    if users is None and record is not None:
        users = users_file(record)
    if users is not None and tested.values:
        tokens = dataset.id2token(dataset.uid_field, tested.users)
        result["per_user"] = write_users(Path(users), tokens, tested.values)
    if record is not None:
        write_record(result, Path(record))
    # Kept until now: a kill during the evaluation must not cost the training.
    for kept in (_state_file(file), _state_file(_refit_file(file))) if resume else ():
        kept.unlink(missing_ok=True)
    return result


def _shorten(logger: Logger, verbose: bool) -> str | None:
    """Keeps ``DETAIL`` off the screen unless ``verbose``; returns the log file, None where RecBole has opened none."""
    file = None
    for handler in logger.handlers:
        if isinstance(handler, FileHandler):
            file = handler.baseFilename
        else:
            (handler.removeFilter if verbose else handler.addFilter)(_is_brief)
    return file


def _summary(config: Config, parts: dict[str, Any], model: Any) -> str:
    """One line in the place of all settings, the data and the network."""
    train = parts["train"]
    rows = " / ".join(f"{len(part):,}" for part in parts.values())
    weights = sum(p.numel() for p in model.parameters())
    return (
        f"{config['model']} on {config['dataset']}: {train.user_num - 1:,} users, {train.item_num - 1:,} items, {rows} rows "
        f"for training / validation / test; {weights:,} weights on {config['device']}; settings: the log file, or --verbose"
    )


def _is_brief(record: LogRecord) -> bool:
    return not getattr(record, "detail", False)


def _make_trainer(config: Config, data: Any, file: Path, resume: bool) -> Any:
    """A new model, and the trainer that keeps its checkpoint, and with ``resume`` its state, under the name ``file``."""
    # The model's draws do not depend on how many the data, or an earlier training, took; each of several processes has
    # draws of its own.
    init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
    with recbole_refusals(f"{config['model']}: "), within_memory(config, "building the model"):
        model = config.model_class(config, data).to(config["device"])
    check_training_memory(config, model)
    trainer = tracked(trainer_of(config))(config, model)
    trainer.saved_model_file = str(file.with_name(f"{file.name}.pth"))
    if resume and isinstance(trainer, Trainer):  # the tree libraries train in one call, between whose rounds we cannot stop
        trainer.state_file = _state_file(file)
        _warn_of_other_states(config, trainer.state_file)
    return trainer


def _state_file(file: Path) -> Path:
    """Where the training state of a run is kept until the run has ended."""
    return file.with_name(f"{file.name}.resume.pth")


def _refit_file(file: Path) -> Path:
    """The name of the second training of a run that trains anew."""
    return file.with_name(f"{file.name}-refit")


def _warn_of_other_states(config: Config, file: Path) -> None:
    """Says so where there is a training state of the same model and data set, but of other settings."""
    if file.exists():
        return
    settings = what_counts(settings_of(config))
    for other in sorted(file.parent.glob(f"{glob.escape(config['model'])}-*.resume.pth")):
        try:
            state = load_checkpoint(other, "cpu")
        except ValueError:
            continue
        if (state["model"], state["dataset"]) != (config["model"], config["dataset"]):
            continue
        kept = what_counts(state["settings"])
        differing = [
            f"{key} = {kept.get(key)!r} there, {settings.get(key)!r} here"
            for key in sorted({*kept, *settings})
            if kept.get(key) != settings.get(key)
        ]
        getLogger().warning(
            f"resume: this run starts from the beginning. {other} is the state of a run under other settings "
            f"({'; '.join(differing)}); give those to go on from it"
        )


def _load_data(config: Config, logger: Logger) -> tuple[Any, tuple[Any, Any, Any]]:
    """RecBole's data set and the data loaders of its three parts; what it says of data that do not fit becomes one line."""
    about = f"dataset {config['dataset']!r} with {config['model']}: "
    with recbole_refusals(about), within_memory(config, "reading the data"):
        dataset = create_dataset(config)
        logger.info(dataset, extra=DETAIL)
        check_sizes(config, dataset)
        return dataset, data_preparation(config, dataset)
