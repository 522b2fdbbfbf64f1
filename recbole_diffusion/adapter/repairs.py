"""Repairs of RecBole 1.2.1 on today's numpy, pandas, scipy, torch and setuptools: crashes, and what newer libraries broke.

Where RecBole runs as written and its results are changed is :mod:`recbole_diffusion.adapter.corrections`.

One function per repair. Each names the symptom, the place in RecBole 1.2.1 and, where there is one, RecBole's GitHub
issue; each does nothing where the installed versions do not need it, and nothing the second time. :func:`apply` runs
them all and imports RecBole on the way.

The repair of ``torch.load`` (torch >= 2.6 refuses RecBole's pickled Config) is a checkpoint format of its own: see
``recbole_diffusion.adapter.checkpoint``.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.machinery
import importlib.util
import re
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from recbole_diffusion.adapter.patch import ChangedModule, replace
from recbole_diffusion.settings import SettingsError, parse_literal

_OLD_NUMPY_NAMES = {"bool": np.bool_, "bool8": np.bool_, "object": np.object_, "str": np.str_, "unicode": np.str_}
_OLD_NUMPY_NAMES |= {"complex": np.complex128, "complex_": np.complex128, "float": np.float64, "float_": np.float64}
_OLD_NUMPY_NAMES |= {"int": np.int_, "long": np.int_, "unicode_": np.str_}


def apply() -> None:
    """Imports RecBole and repairs it; a second call changes nothing."""
    alias_numpy_names()
    restore_dok_update()
    import_thop_without_distutils()
    import_quick_start()
    leave_anomaly_detection_off()
    fill_missing_values()
    read_empty_sequences()
    measure_lists()
    silence_needless_warnings()
    parse_settings_safely()
    name_kd_teacher_safely()
    read_tuning_choices_safely()
    use_current_grad_scaler()
    collect_counts()
    search_exhaustively()


def alias_numpy_names() -> None:
    """Gives back the names that numpy dropped.

    Symptoms: ``np.float_ was removed in the NumPy 2.0 release`` from config/configurator.py:630 (issue #1604);
    ``module 'numpy' has no attribute 'bool8'`` from ray 2.6.3, which quick_start/quick_start.py:20 imports (pull
    request #2155). ``Config`` itself sets ``np.float``, ``np.int`` and their like; they are set here too, since a
    process that loads a pickled dataset or Config never builds one, and then evaluator/metrics.py:90 and
    data/interaction.py:31 fail.
    """
    for name, target in _OLD_NUMPY_NAMES.items():
        # vars(), not hasattr(): numpy's module __getattr__ warns when asked for some of these names.
        if name not in vars(np):
            setattr(np, name, target)


def restore_dok_update() -> None:
    """Gives ``scipy.sparse.dok_matrix`` its ``_update`` method back.

    Symptom: ``'dok_matrix' object has no attribute '_update'`` (scipy >= 1.13) from lightgcn.py:111, ncl.py:131,
    ngcf.py:110, spectralcf.py:123, gcmc.py:174, kgin.py:356 and mcclk.py:425 (issues #2034, #2090, #2185).
    """
    from scipy.sparse import dok_matrix

    def _update(self: Any, data: dict[tuple[int, int], Any]) -> None:
        """Adds entries, given as {(row, column): value}, without a check of each one."""
        self._dict.update(data)

    if not hasattr(dok_matrix, "_update"):
        dok_matrix._update = _update


@contextlib.contextmanager
def _stand_ins(modules: dict[str, types.ModuleType]) -> Iterator[None]:
    """Puts modules into ``sys.modules`` for one import, so that no other package ever sees them."""
    before = {name: sys.modules[name] for name in modules if name in sys.modules}
    for name, module in modules.items():
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]
        sys.modules.update(before)


def import_thop_without_distutils() -> None:
    """Imports thop, which counts the FLOPs of a model, where Python has no distutils.

    Symptom: ``No module named 'distutils'`` from thop/profile.py:1, which utils/utils.py:298 (``get_flops``) imports,
    on Python 3.12 and later unless setuptools stands in for distutils.
    """
    if importlib.util.find_spec("distutils") is None and importlib.util.find_spec("thop") is not None:
        stand_ins = {name: types.ModuleType(name) for name in ("distutils", "distutils.version")}
        vars(stand_ins["distutils.version"])["LooseVersion"] = lambda text: [int(n) for n in re.findall(r"\d+", text)]
        with _stand_ins(stand_ins):
            importlib.import_module("thop.profile")


def import_quick_start() -> None:
    """Imports ``recbole.quick_start``, with a stand-in for ``ray.tune`` where ray cannot be imported.

    Symptoms, from quick_start/quick_start.py:20: ``No module named 'ray'`` (no wheels for Python >= 3.12; issues #1518
    and #1820), ``No module named 'pkg_resources'`` (recent setuptools dropped it). RecBole uses ray for one call,
    ``tune.report`` in ``objective_function``; outside a ray session that does nothing, as does the stand-in.
    """
    if "recbole.quick_start.quick_start" in sys.modules:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ray 2.6.3 warns on import of its own use of pkg_resources
        try:
            stand_ins = {}
            importlib.import_module("ray.tune")
        except Exception:  # whatever breaks inside ray, RecBole works without it
            stand_ins = {name: types.ModuleType(name) for name in ("ray", "ray.tune")}
            vars(stand_ins["ray"])["tune"] = stand_ins["ray.tune"]
            vars(stand_ins["ray.tune"])["report"] = lambda *args, **metrics: None
    with _stand_ins(stand_ins):
        importlib.import_module("recbole.quick_start")


def leave_anomaly_detection_off() -> None:
    """Imports RecBole's sequential models without the debugging mode that one of them switches on.

    Symptom: none but the time: model/sequential_recommender/sine.py:25, which importing any sequential model imports,
    calls ``torch.autograd.set_detect_anomaly(True)``. From then on every backward pass of the process looks for NaN in
    every gradient and keeps a traceback of every operation, which takes two thirds of a training step.
    """
    import torch

    enabled = torch.is_anomaly_enabled()
    importlib.import_module("recbole.model.sequential_recommender")
    torch.autograd.set_detect_anomaly(enabled)


def _pandas_fills_in_place() -> bool:
    """Whether ``frame[column].fillna(..., inplace=True)`` changes the frame, and does so without a warning."""
    import pandas as pd

    frame = pd.DataFrame({"x": [float("nan")]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            frame["x"].fillna(0.0, inplace=True)
        except Warning:
            return False
    return not bool(frame["x"].isna().any())


def fill_missing_values() -> None:
    """Fills missing feature values again: 0 for tokens, the column's mean for floats.

    Symptom: none, which is the harm. With pandas 3 (or copy-on-write) data/dataset/dataset.py:648 and :650 fill a
    copy, so NaN reaches the model; pandas 2.2 warns of it for every column.
    """
    if _pandas_fills_in_place():
        return
    from recbole.data.dataset.dataset import Dataset
    from recbole.utils import FeatureType

    def make(original: Callable[..., None]) -> Callable[..., None]:
        def _fill_nan(self: Any) -> None:
            for name in self.feat_name_list:
                frame = getattr(self, name)
                for field in frame:
                    kind = self.field2type[field]
                    if kind == FeatureType.TOKEN:
                        frame[field] = frame[field].fillna(0)
                    elif kind == FeatureType.FLOAT:
                        frame[field] = frame[field].fillna(frame[field].mean())
                    else:  # a NaN among lists: a row that a merge added
                        dtype = np.int64 if kind == FeatureType.TOKEN_SEQ else np.float64
                        frame[field] = [np.array([], dtype) if isinstance(x, float) else x for x in frame[field]]

        return _fill_nan

    replace(Dataset, "_fill_nan", make)


def read_empty_sequences() -> None:
    """Reads an empty cell of a ``*_seq`` column as an empty list again.

    Symptom: ``'float' object has no attribute 'split'`` from data/dataset/dataset.py:504 or :509, since with pandas 3
    line 501 fills a copy. The columns are filled as they are read, before RecBole renames them from ``field:type`` to
    ``field``.
    """
    if _pandas_fills_in_place():
        return
    import pandas as pd
    from recbole.data.dataset import dataset as module

    def read_csv(*args: Any, **kwargs: Any) -> Any:
        frame = pd.read_csv(*args, **kwargs)
        for column in frame.columns:
            if str(column).endswith("_seq"):
                frame[column] = frame[column].fillna("")
        return frame

    replace(module, "pd", lambda original: types.SimpleNamespace(**{**vars(pd), "read_csv": read_csv}))


def measure_lists() -> None:
    """Takes the lengths of the lists in a ``*_seq`` column again, not the length of the column.

    Symptoms: ``Length of values (1) does not match length of index`` from data/dataset/dataset.py:1218; none at all
    from sequential_dataset.py:163, where each history of a ``benchmark_filename`` gets the number of rows as its
    length. Both call ``series.agg(len)``, since pandas 3 ``len(series)``. A module global takes the place of the
    builtin there.
    """
    import pandas as pd
    from recbole.data.dataset import dataset, kg_dataset, sequential_dataset

    def length(obj: Any) -> Any:
        return obj.map(len) if isinstance(obj, pd.Series) else len(obj)

    for module in (dataset, kg_dataset, sequential_dataset):
        replace(module, "len", lambda original: length)


def silence_needless_warnings() -> None:
    """Silences warnings, shown by default, of things in RecBole's data sets that are repaired here or do no harm.

    Symptoms: ``ChainedAssignmentError`` from data/dataset/dataset.py:501, which :func:`read_empty_sequences` has made
    unnecessary; ``FutureWarning`` from :1217 (pandas 2.1 to 2.3), which :func:`measure_lists` has prepared for; ``The
    given NumPy array is not writable`` from :2202, since with pandas 3 the values of a column are read-only: RecBole
    drops the frame at once, so the memory that the tensor shares with it has one owner left.
    """
    shared, copied = "The given NumPy array is not writable", "A value is (being|trying to be) set on a copy"
    for message in (copied, "using .*len.* in Series.agg cannot aggregate", shared):
        warnings.filterwarnings("ignore", message, module=r"recbole\.data\.dataset")


def parse_settings_safely() -> None:
    """Keeps ``Config`` from running its settings as code.

    Symptom: config/configurator.py:131 calls ``eval`` on every setting given as text, so a settings dictionary (from
    a checkpoint, a tuning job, a command line) can run anything, and a text such as ``re.x`` ends in an unrelated
    error. Literals and arithmetic (``2*1024``) are read as before; any other expression stays text.
    """
    from recbole.config import Config

    def make(original: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
        def _convert_config_dict(self: Any, config_dict: dict[str, Any]) -> dict[str, Any]:
            return {k: parse_literal(v) if isinstance(v, str) else v for k, v in config_dict.items()}

        return _convert_config_dict

    replace(Config, "_convert_config_dict", make)


def name_kd_teacher_safely() -> None:
    """Keeps KD_DAGFM from running its setting ``teacher`` as code.

    Symptom: model/context_aware_recommender/kd_dagfm.py:44 calls ``eval`` on the setting. A module global of that name
    takes the place of the builtin there, and finds a network by its name.
    """
    from recbole.model.context_aware_recommender import kd_dagfm as module

    def named_network(name: str) -> type:
        networks: dict[str, type] = {"CrossNet": module.CrossNet, "CIN": module.CIN, "DAGFM": module.DAGFM}
        if name not in networks:
            raise ValueError(f"teacher [{name}] of KD_DAGFM should be one of {sorted(networks)}")
        return networks[name]

    replace(module, "eval", lambda original: named_network)


def read_tuning_choices_safely() -> None:
    """Keeps HyperTuning from running its parameter file as code.

    Symptom: trainer/hyper_tuning.py:239 calls ``eval`` on the list of a ``choice``.
    """
    from recbole.trainer import hyper_tuning as module

    def choices(text: str) -> list[Any]:
        value = parse_literal(text)
        if not isinstance(value, (list, tuple)):
            raise SettingsError(f"choice {text!r}: must be a list of values, such as [0.1,0.01] or ['a','b']")
        return list(value)

    replace(module, "eval", lambda original: choices)


def use_current_grad_scaler() -> None:
    """Builds the gradient scaler through torch's current interface.

    Symptom: ``FutureWarning: torch.cuda.amp.GradScaler(args...) is deprecated`` in every epoch, from
    trainer/trainer.py:235 and :1440 (torch >= 2.4). Torch before 2.3 has only the old interface, which is then kept.
    """
    import torch
    from recbole.trainer import trainer as module

    def make(original: Any) -> types.SimpleNamespace:
        return types.SimpleNamespace(
            GradScaler=functools.partial(torch.amp.GradScaler, "cuda"),
            autocast=functools.partial(torch.autocast, "cuda"),
        )

    if hasattr(torch.amp, "GradScaler"):
        replace(module, "amp", make)


def collect_counts() -> None:
    """Lets metrics use what is not a tensor: numbers of users and items, counts of the training data.

    Symptom: ``'int' object has no attribute 'cpu'`` (or ``'Counter' object``) at the first evaluation with ItemCoverage,
    AveragePopularity, GiniIndex, ShannonEntropy or TailPercentage, from evaluator/collector.py:236 (RecBole issue #2194).
    """
    import torch
    from recbole.evaluator.collector import Collector

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def get_data_struct(self: Any) -> Any:
            held = self.data_struct._data_dict
            counts = {key: held.pop(key) for key in list(held) if not isinstance(held[key], torch.Tensor)}
            collected = original(self)
            for struct in (self.data_struct, collected):
                struct._data_dict.update(counts)
            return collected

        return get_data_struct

    replace(Collector, "get_data_struct", make)


def search_exhaustively() -> None:
    """Gives HyperTuning's default search the kind of random generator that hyperopt asks for since 0.2.7.

    Symptom: ``'RandomState' object has no attribute 'integers'`` from hyperopt, at the first trial of
    trainer/hyper_tuning.py:114 (``algo="exhaustive"``).
    """
    from recbole.trainer import hyper_tuning as module

    def generator(seed: int) -> Any:
        from hyperopt.pyll import stochastic

        modern = "integers" in stochastic.randint.__code__.co_names
        return np.random.default_rng(seed) if modern else np.random.RandomState(seed)

    random = types.SimpleNamespace(RandomState=generator)
    replace(module, "np", lambda original: ChangedModule(original, random=random))
