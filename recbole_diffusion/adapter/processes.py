"""Several processes train one model: repairs of RecBole's multi-process run, and our own launch of it.

RecBole 1.2.1 starts its processes on GPUs only, counts some users twice and averages metrics with wrong weights. Here it also
starts on CPUs (gloo in place of nccl), every user is evaluated once, and the metrics are computed from the lists of all users,
so that they equal those of one process. One function per repair; :func:`install` makes them all.
"""

from __future__ import annotations

import functools
import json
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import recbole.utils.utils
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from recbole.config import Config
from recbole.data.dataloader import FullSortEvalDataLoader, NegSampleEvalDataLoader
from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.evaluator import Evaluator
from recbole.trainer import trainer as trainers
from torch.nn.parallel import DistributedDataParallel

from recbole_diffusion.adapter.patch import replace
from recbole_diffusion.settings import NonFiniteLossError, SettingsError


def install() -> None:
    """Repairs RecBole's multi-process run; one process is as before, and a second call changes nothing."""
    replace(Config, "_init_device", _start_on_cpus)
    replace(trainers.AbstractTrainer, "__init__", _wrap_on_cpus)
    replace(AbstractDataLoader, "__init__", _evaluate_every_row_once)
    replace(Evaluator, "evaluate", _evaluate_all_rows)
    replace(trainers.Trainer, "_map_reduce", lambda original: lambda self, result, num_sample: result)
    replace(recbole.utils.utils, "ensure_dir", _make_folder, everywhere=True)


# ---------------------------------------------------------------------------------------------------- the repairs


def _start_on_cpus(original: Callable[[Config], None]) -> Callable[[Config], None]:
    """Joins the processes with gloo where there is no GPU.

    Symptom: ``AssertionError`` from config/configurator.py:496, which wants a GPU id per process, or ``Distributed package
    doesn't have NCCL built in`` from :497.
    """

    @functools.wraps(original)
    def _init_device(self: Config) -> None:
        settings = self.final_config_dict
        if "local_rank" not in settings or gpu_ids(self):
            original(self)
            return
        settings |= {"gpu_id": "", "device": torch.device("cpu"), "single_spec": False}
        if not dist.is_initialized():
            dist.init_process_group(
                "gloo",
                rank=settings["local_rank"] + settings["offset"],
                world_size=settings["world_size"],
                init_method=f"tcp://{settings['ip']}:{settings['port']}",
            )
        if settings["local_rank"] != 0:  # as in RecBole: only the first process reports
            settings |= {"state": "error", "show_progress": False, "verbose": False}

    return _init_device


def gpu_ids(config: Config) -> list[str]:
    """The GPUs that a run may use, none on a machine without."""
    given = config.final_config_dict["gpu_id"]
    text = ",".join(map(str, given)) if isinstance(given, tuple) else str(given)
    os.environ["CUDA_VISIBLE_DEVICES"] = text  # as RecBole does; torch reads it when it is first asked for a GPU
    return text.split(",") if text and torch.cuda.is_available() else []


def _wrap_on_cpus(original: Callable[..., None]) -> Callable[..., None]:
    """Averages gradients on CPUs too.

    Symptom: ``DistributedDataParallel device_ids and output_device arguments only work with single-device/multiple-device
    GPU modules`` from trainer/trainer.py:60. The synchronised batch norm of :59 exists on GPUs only; on CPUs each process
    normalises by its own batch.
    """

    @functools.wraps(original)
    def init(self: Any, config: Any, model: torch.nn.Module) -> None:
        if not config["single_spec"]:
            # Buffers that are not saved are data, the same everywhere; the others follow the first process in every step.
            data = {name for name, _ in model.named_buffers()} - set(model.state_dict())
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, data)
        if config["single_spec"] or config["device"].type != "cpu":
            original(self, config, model)
            return
        self.config, self.model = config, model
        self.distributed_model = DistributedDataParallel(model)

    return init


def _evaluate_every_row_once(original: Callable[..., None]) -> Callable[..., None]:
    """Gives each process a stretch of the rows to evaluate, none of them twice, and shuffles training rows by the seed.

    Symptom: ``DistributedSampler`` (data/dataloader/abstract_dataloader.py:60) repeats the first rows until the processes
    have equally many, so those users count twice. In training that is as it must be: all processes step together.
    """

    @functools.wraps(original)
    def init(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        original(self, config, *args, **kwargs)
        if config["single_spec"]:
            return
        self.sampler.seed = config["seed"]  # RecBole's is 0 whatever the seed of the run
        if isinstance(self, (FullSortEvalDataLoader, NegSampleEvalDataLoader)):
            rank, world = dist.get_rank(), dist.get_world_size()
            bounds = [self.sample_size * part // world for part in (rank, rank + 1)]
            self.batch_sampler.sampler = range(*bounds)

    return init


def _evaluate_all_rows(original: Callable[..., Any]) -> Callable[..., Any]:
    """Computes the metrics of all processes' rows, in every process.

    Symptom: ``_map_reduce`` (trainer/trainer.py:627), which does nothing now, weighs each process's rounded metrics by four
    times its number of batches (``len`` of a tuple), not by its users; and no weights could combine AUC or ItemCoverage.
    """

    @functools.wraps(original)
    def evaluate(self: Any, dataobject: Any) -> Any:
        if not self.config["single_spec"]:
            held = dataobject._data_dict
            mine = {key: value for key, value in held.items() if isinstance(value, torch.Tensor)}
            parts: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(parts, mine)
            for key in {key for part in parts for key in part}:  # a process without rows has no key
                held[key] = torch.cat([part[key] for part in parts if key in part])
        return original(self, dataobject)

    return evaluate


def _make_folder(original: Callable[[str], None]) -> Callable[[str], None]:
    """Makes a folder that another process may be making as well.

    Symptom: ``FileExistsError`` from utils/utils.py:52 where both have seen that the checkpoint folder is not there.
    """

    @functools.wraps(original)
    def ensure_dir(dir_path: str) -> None:
        os.makedirs(dir_path, exist_ok=True)

    return ensure_dir


# ----------------------------------------------------------------------------------------------------- the launch


def mean_over_processes(value: float) -> float:
    """The mean of a number that each process has one of."""
    if not dist.is_initialized():
        return value
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return sum(values) / len(values)


def check_processes(config: Config) -> None:
    """Refuses more processes than GPUs.

    Raises:
        SettingsError: says what to do.
    """
    gpus = gpu_ids(config)
    if gpus and len(gpus) < config["nproc"]:
        raise SettingsError(
            f"nproc = {config['nproc']!r}: must be at most the number of GPUs in gpu_id = {config['gpu_id']!r}; name one for "
            "each process, as in --gpu_id=0,1, or none: --gpu_id=''"
        )


def launch(work: Callable[..., dict[str, Any]], nproc: int, *args: Any) -> dict[str, Any]:
    """Calls ``work(settings, *args)`` in each of several new processes on this machine.

    Args:
        work: a function of a module, which takes the settings that make a ``Config`` one of several, and returns plain data
            or raises.
        nproc: how many processes.

    Returns:
        What it returned in the first process.

    Raises:
        SettingsError, NonFiniteLossError: as ``work`` raised it in any of them.
    """
    errors = mp.get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        # A file, because a process that puts more than a pipe holds into a queue waits for a reader, who waits for it.
        result = Path(folder) / "result.json"
        try:
            mp.spawn(_work, (work, nproc, free_port(), str(result), errors, args), nprocs=nproc)
        except mp.ProcessRaisedException:
            if not errors.empty():
                raise errors.get() from None
            raise
        return json.loads(result.read_text(encoding="utf-8"))


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        return taken.getsockname()[1]


def _work(rank: int, work: Callable[..., Any], nproc: int, port: int, result: str, errors: Any, args: Any) -> None:
    settings = {"local_rank": rank, "nproc": nproc, "world_size": nproc, "ip": "localhost", "port": port, "offset": 0}
    torch.set_num_threads(max(1, torch.get_num_threads() // nproc))  # the processes share the cores
    try:
        found = work(settings, *args)
    except (SettingsError, NonFiniteLossError) as error:
        errors.put(error)
        raise
    if rank == 0:
        Path(result).write_text(json.dumps(found, default=str), encoding="utf-8")
    if dist.is_initialized():
        dist.destroy_process_group()
