"""Each repair: what stock RecBole does on the installed versions, then what it does repaired."""

import importlib.util
import inspect
import itertools
import subprocess
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from recbole.config import Config
from recbole.data import create_dataset
from recbole.data.dataset import dataset as dataset_module
from recbole.data.dataset import sequential_dataset
from recbole.evaluator.register import metrics_dict
from recbole.model.context_aware_recommender import kd_dagfm
from recbole.model.general_recommender import LightGCN
from recbole.trainer import HyperTuning
from recbole.trainer import trainer as trainer_module
from recbole.utils import init_seed

from recbole_diffusion import on_import
from recbole_diffusion.adapter import repairs
from recbole_diffusion.settings import SettingsError

NUMPY_2 = int(np.__version__.split(".")[0]) >= 2
FILLS_IN_PLACE = repairs._pandas_fills_in_place()
ITEMS = """item_id:token\tprice:float\tclass:token\ttags:token_seq\tvector:float_seq
a\t1.0\tx\tred blue\t0.5 1.5
b\t\ty\t\t2.5 3.5
c\t4.0\t\tred\t
d\t7.0\tx\tgreen blue red\t4.5
"""
INTERACTIONS = [("u", "a"), ("u", "b"), ("u", "c"), ("v", "b"), ("v", "d"), ("w", "a")]


@pytest.fixture
def config(tmp_path):
    """A data set of six rows, with a missing number, a missing token and an empty cell in both kinds of lists."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    lines = ["user_id:token\titem_id:token\tlabel:float", *(f"{user}\t{item}\t1" for user, item in INTERACTIONS)]
    (folder / "tiny.inter").write_text("\n".join(lines) + "\n")
    (folder / "tiny.item").write_text(ITEMS)
    columns = {"inter": ["user_id", "item_id", "label"], "item": ["item_id", "price", "class", "tags", "vector"]}
    settings = {"data_path": str(tmp_path), "load_col": columns, "state": "ERROR", "LABEL_FIELD": "label"}
    return Config(model="BPR", dataset="tiny", config_dict=settings)


def in_new_process(code):
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=Path(repairs.__file__).parents[2])


def by_item(dataset, field):
    """The values of an item field under the items' own names."""
    feature = dataset._dataframe_to_interaction(dataset.item_feat)[field].numpy()
    return {name: feature[i] for name, i in dataset.field2token_id["item_id"].items()}


def test_a_missing_recbole_is_one_line_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "recbole", None)  # as if it were not installed
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    for version, command in (
        ((3, 11), "pip install recbole==1.2.1"),
        ((3, 12), "pip install --no-deps recbole==1.2.1"),
    ):
        monkeypatch.setattr(sys, "version_info", version)
        hook = on_import._Hook()
        sys.meta_path.insert(0, hook)
        with pytest.raises(ImportError) as caught:
            hook.find_spec("recbole", None)
        assert str(caught.value).endswith(command) and "\n" not in str(caught.value)


@pytest.mark.skipif(not NUMPY_2, reason="numpy 1 still has these names")
def test_numpy_names(monkeypatch):
    for name in ("float_", "complex_", "unicode_", "bool8"):
        monkeypatch.delattr(np, name)
    with pytest.raises(AttributeError, match=r"`np.float_` was removed in the NumPy 2.0 release"):
        Config.compatibility_settings(None)
    repairs.alias_numpy_names()
    Config.compatibility_settings(None)
    assert np.zeros(1, np.float_).dtype == "float64" and np.zeros(1, np.complex_).dtype == "complex128"
    assert np.array(["a"], np.unicode_).dtype == "<U1" and np.zeros(1, np.bool8).dtype == "bool"


def test_importing_recbole():
    """As on Python 3.12 and later, without ray (2.6.3 has no wheels there) and without distutils."""
    code = """
import sys, torch
sys.modules.update({"ray": None, "distutils": None})  # None: importing it fails, as if it were not installed
for name in ("recbole.quick_start", "thop.profile"):
    try: __import__(name)
    except ImportError as error: print("stock:", error.name.partition(".")[0])
import recbole.model.sequential_recommender
print("stock: debugging mode", torch.is_anomaly_enabled())
torch.autograd.set_detect_anomaly(False)
for loaded in [m for m in sys.modules if m.startswith(("recbole", "thop"))]: del sys.modules[loaded]

from recbole_diffusion.adapter import repairs
repairs.apply()
from recbole.quick_start.quick_start import run_recbole, tune
from thop.profile import register_hooks
import recbole.model.sequential_recommender
print("repaired:", run_recbole.__name__, tune.report(ndcg=1), len(register_hooks) > 10)
print("repaired: debugging mode", torch.is_anomaly_enabled())
# Unpickling a data set builds no Config, which would set these two.
import numpy as np
print("numpy:", np.float.__name__, np.long.__name__)
print("left behind:", [name for name in ("ray", "ray.tune", "distutils") if sys.modules.get(name)])
"""
    done = in_new_process(code)
    assert done.stdout.splitlines() == [
        "stock: ray",
        "stock: distutils",
        "stock: debugging mode True",
        "repaired: run_recbole None True",
        "repaired: debugging mode False",
        "numpy: float64 int64",
        "left behind: []",
    ], done.stderr


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None or importlib.util.find_spec("pkg_resources") is None or not NUMPY_2,
    reason="ray is not installed, or cannot be imported anyway (pkg_resources), or needs no repair (numpy 1)",
)
def test_ray_itself_works_with_numpy_2():
    assert "module 'numpy' has no attribute 'bool8'" in in_new_process("import ray.tune").stderr
    from recbole.quick_start.quick_start import tune

    assert tune.__name__ == "ray.tune" and tune is sys.modules["ray.tune"]


def test_dok_matrix_update(monkeypatch, config):
    dataset = create_dataset(config)
    if scipy.sparse.dok_matrix._update.__module__ != repairs.__name__:
        pytest.skip("this scipy has dok_matrix._update")
    monkeypatch.delattr(scipy.sparse.dok_matrix, "_update")
    with pytest.raises(AttributeError, match="has no attribute '_update'"):
        LightGCN(lightgcn_config(config), dataset)
    repairs.restore_dok_update()
    normalised = LightGCN(lightgcn_config(config), dataset).norm_adj_matrix.to_dense().numpy()

    users, items = dataset.inter_feat["user_id"].to_numpy(), dataset.inter_feat["item_id"].to_numpy()
    items = items + dataset.user_num
    adjacency = np.zeros(normalised.shape)
    adjacency[users, items] = adjacency[items, users] = 1
    degree = adjacency.sum(1) + 1e-7  # RecBole's guard against a division by zero
    np.testing.assert_allclose(normalised, adjacency / np.sqrt(np.outer(degree, degree)), rtol=1e-5)


def lightgcn_config(config):
    return Config(model="LightGCN", dataset="tiny", config_dict=dict(config.external_config_dict))


@pytest.mark.skipif(FILLS_IN_PLACE, reason="this pandas fills a column in place")
def test_missing_values_are_filled(monkeypatch, config):
    repaired = dataset_module.Dataset._fill_nan
    monkeypatch.setattr(dataset_module.Dataset, "_fill_nan", repaired.__wrapped__)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stock = create_dataset(config)
    if int(pd.__version__.split(".")[0]) >= 3:  # before, pandas only warned
        assert np.isnan(by_item(stock, "price")["b"])

    monkeypatch.setattr(dataset_module.Dataset, "_fill_nan", repaired)
    check_filled(create_dataset(config))


def check_filled(dataset):
    prices, mean = by_item(dataset, "price"), (1 + 4 + 7) / 3
    assert prices == {"[PAD]": mean, "a": 1, "b": mean, "c": 4, "d": 7}
    classes = {name: dataset.id2token("class", int(i)) for name, i in by_item(dataset, "class").items()}
    assert classes == {"[PAD]": "[PAD]", "a": "x", "b": "y", "c": "[PAD]", "d": "x"}


def test_missing_values_and_empty_cells_whatever_the_pandas(config):
    dataset = create_dataset(config)
    check_filled(dataset)
    tags = {
        name: [t for t in dataset.id2token("tags", i) if t != "[PAD]"] for name, i in by_item(dataset, "tags").items()
    }
    assert tags == {"[PAD]": [], "a": ["red", "blue"], "b": [], "c": ["red"], "d": ["green", "blue", "red"]}
    vectors = {name: list(vector) for name, vector in by_item(dataset, "vector").items()}
    assert vectors == {"[PAD]": [0, 0], "a": [0.5, 1.5], "b": [2.5, 3.5], "c": [0, 0], "d": [4.5, 0]}


@pytest.mark.skipif(int(pd.__version__.split(".")[0]) < 3, reason="before pandas 3 the cell is filled")
@pytest.mark.parametrize("field", ["tags", "vector"])
def test_empty_cells_of_lists(monkeypatch, config, field):
    config["load_col"]["item"] = ["item_id", field]
    with monkeypatch.context() as stock:
        stock.setattr(dataset_module, "pd", pd)
        with warnings.catch_warnings(), pytest.raises(AttributeError, match="'float' object has no attribute 'split'"):
            warnings.simplefilter("ignore")
            create_dataset(config)
    assert len(create_dataset(config).item_feat) == 5


@pytest.fixture
def histories(tmp_path):
    """Settings of sequences that were split beforehand, with histories of 1, 2 and 3 items in each part."""
    (tmp_path / "split").mkdir()
    rows = ["user_id:token\titem_id_list:token_seq\titem_id:token", "u\ta\tb", "v\tb c\td", "w\ta b c\td"]
    for part in ("train", "valid", "test"):
        (tmp_path / "split" / f"split.{part}.inter").write_text("\n".join(rows) + "\n")
    settings = {"benchmark_filename": ["train", "valid", "test"], "alias_of_item_id": ["item_id_list"]}
    settings |= {"load_col": {"inter": ["user_id", "item_id_list", "item_id"]}, "train_neg_sample_args": None}
    return Config(
        model="SASRec", dataset="split", config_dict=settings | {"data_path": str(tmp_path), "state": "ERROR"}
    )


def test_lengths_of_lists(monkeypatch, config, histories):
    def lengths():
        return [part.inter_feat[part.item_list_length_field].tolist() for part in create_dataset(histories).build()]

    # Other parts of the package build on this method; here RecBole's own is meant.
    presets = inspect.unwrap(sequential_dataset.SequentialDataset._benchmark_presets)
    monkeypatch.setattr(sequential_dataset.SequentialDataset, "_benchmark_presets", presets)
    assert lengths() == [[1, 2, 3]] * 3
    create_dataset(config)
    if int(pd.__version__.split(".")[0]) < 3:
        pytest.skip("before pandas 3 nothing else happens without the repair")
    monkeypatch.delattr(sequential_dataset, "len")
    assert lengths() == [[9, 9, 9]] * 3, "the number of rows, without a word"
    monkeypatch.delattr(dataset_module, "len")
    with pytest.raises(ValueError, match=r"Length of values \(1\) does not match length of index"):
        create_dataset(config)


def test_loading_data_warns_of_nothing(config):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)  # of pandas 4; not shown by default
        repairs.silence_needless_warnings()
        create_dataset(config).build()


SETTINGS = [
    ("[64, 32]", [64, 32]),
    ("1e-3", 0.001),
    ("{'RS': [0.8, 0.1, 0.1]}", {"RS": [0.8, 0.1, 0.1]}),
    ("None", None),
    ("null", "null"),
    ("none", "none"),
    ("true", True),
    ("False", False),
    ("'1'", "1"),
    ("full", "full"),
    (" ", " "),
    ("{1, 2}", "{1, 2}"),
    ("2*1024", 2048),
    ("[2**10, -(3 - 1) / 4, 7 // 2 % 2]", [1024, -0.5, 1]),
    ("1e-3 * 10", 0.01),
    ("'a' * 3", "'a' * 3"),
    ("9**9**9", "9**9**9"),
    ("10**100", "10**100"),
    ("1 / 0", "1 / 0"),
    ("re.compile", "re.compile"),
]


@pytest.mark.parametrize(("text", "value"), SETTINGS)
def test_settings_are_read(text, value):
    parsed = Config._convert_config_dict(None, {"key": text, "number": 5})
    assert parsed == {"key": value, "number": 5} and type(parsed["key"]) is type(value)


def test_settings_are_not_run(tmp_path):
    text = f"__import__('pathlib').Path({str(tmp_path / 'ran')!r}).touch() or 'x'"
    assert Config._convert_config_dict.__wrapped__(None, {"key": text})["key"] == "x"
    assert (tmp_path / "ran").exists(), "RecBole's own runs it"
    (tmp_path / "ran").unlink()
    assert Config(model="BPR", dataset="ml-100k", config_dict={"key": text})["key"] == text
    assert not (tmp_path / "ran").exists()


def test_kd_dagfm_s_teacher_is_not_run(monkeypatch, tmp_path, config):
    def build(teacher):
        settings = config.external_config_dict | {
            "teacher": teacher,
            "load_col": {"inter": ["user_id", "item_id", "label"]},
        }
        model_config = Config(model="KD_DAGFM", dataset="tiny", config_dict=settings)
        return kd_dagfm.KD_DAGFM(model_config, create_dataset(model_config))

    evil = f"lambda config: __import__('pathlib').Path({str(tmp_path / 'ran')!r}).touch()"
    with monkeypatch.context() as stock:
        stock.delattr(kd_dagfm, "eval")
        build(evil)
    assert (tmp_path / "ran").exists(), "RecBole's own runs it"
    (tmp_path / "ran").unlink()
    with pytest.raises(ValueError, match=r"should be one of \['CIN', 'CrossNet', 'DAGFM'\]"):
        build(evil)
    assert not (tmp_path / "ran").exists()
    assert isinstance(build("CIN").teacher_network, kd_dagfm.CIN)


def test_the_gradient_scaler_does_not_warn(config):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scaler = trainer_module.amp.GradScaler(enabled=False)
        assert not scaler.is_enabled() and scaler.scale(torch.ones(1)) == 1
        trainer_module.amp.autocast(enabled=False)
    if isinstance(trainer_module.amp, types.ModuleType):
        pytest.skip("this torch has only the interface that RecBole uses")
    assert type(scaler) is torch.amp.GradScaler
    if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 4):
        with pytest.warns(FutureWarning, match="deprecated"):
            torch.cuda.amp.GradScaler(enabled=False)


def test_metrics_of_counts(tmp_path):
    """Item coverage by hand: Pop's list is one and the same for two users, whatever it is."""
    from recbole.evaluator.collector import Collector

    config = {"metrics": ["ItemCoverage", "AveragePopularity"], "topk": [2], "metric_decimal_place": 4, "device": "cpu",
              "eval_args": {"mode": {"valid": "full"}}, "ITEM_ID_FIELD": "item"}  # fmt: skip
    collector = Collector(config)
    counts = {1: 4, 2: 2, 3: 1}
    train = types.SimpleNamespace(dataset=types.SimpleNamespace(num=lambda field: 11, item_counter=counts))
    collector.data_collect(train)
    collector.data_struct.set("rec.items", torch.tensor([[1, 2], [1, 2]]))
    with pytest.raises(AttributeError, match="no attribute 'cpu'"):
        Collector.get_data_struct.__wrapped__(collector)
    struct = collector.get_data_struct()
    assert evaluate("ItemCoverage", config, struct) == {"itemcoverage@2": 0.1818}  # 2 of 11: RecBole counts the padding item
    assert evaluate("AveragePopularity", config, struct) == {"averagepopularity@2": 3.0}
    assert "rec.items" not in collector.data_struct and collector.data_struct.get("data.num_items") == 11  # as RecBole resets


def test_coverage_and_gini_index_equal_a_count_by_hand():
    """Over 25 items and, as RecBole has it, the padding item. Gini: mean absolute difference over twice the mean."""
    lists = torch.randn(30, 25, generator=torch.Generator().manual_seed(0)).topk(3).indices + 1
    lists[:20] = torch.tensor([4, 9, 2])  # a model that has collapsed for most
    counts = np.zeros(26)
    for item in lists.flatten().tolist():
        counts[item] += 1
    data = {"rec.items": lists, "data.num_items": 26}
    config = {"topk": [3], "metric_decimal_place": 6}
    by_pairs = np.mean([abs(a - b) for a in counts for b in counts]) / (2 * counts.mean())
    assert evaluate("ItemCoverage", config, data) == {"itemcoverage@3": pytest.approx((counts > 0).sum() / 26, abs=1e-6)}
    assert evaluate("GiniIndex", config, data) == {"giniindex@3": pytest.approx(by_pairs, abs=1e-6)}


def evaluate(metric, config, struct):
    return metrics_dict[metric.lower()](config).calculate_metric(struct)


def test_applying_twice_changes_nothing():
    def state():
        owners = (dataset_module, dataset_module.Dataset, Config, kd_dagfm, trainer_module.Trainer)
        return [{name: value for name, value in vars(owner).items() if name != "pd"} for owner in owners]

    before = state()
    repairs.apply()
    assert state() == before
    init_seed(0, True)


def test_a_tuning_file_is_not_run(tmp_path):
    file = tmp_path / "space.test"
    file.write_text("learning_rate choice [0.1, 0.01]\nembedding_size choice [8, 16]\n")
    assert set(HyperTuning(print, params_file=file).space) == {"learning_rate", "embedding_size"}
    file.write_text(f"learning_rate choice [__import__('os').mkdir({str(tmp_path / 'ran')!r})]\n")
    with pytest.raises(SettingsError, match="must be a list of values"):
        HyperTuning(print, params_file=file)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("names", [["a"], ["a", "b"]])
def test_the_default_search_of_tuning_tries_every_combination_once(names):
    tried = []

    def objective(config_dict, config_file_list):
        tried.append(config_dict)
        score = sum(config_dict.values())
        metrics = {"recall@10": score}
        return {"model": "BPR", "best_valid_score": score, "valid_score_bigger": True,
                "best_valid_result": metrics, "test_result": metrics}  # fmt: skip

    tuning = HyperTuning(objective, params_dict={"choice": {name: [1, 2, 5] for name in names}}, early_stop=100)
    tuning.run()
    assert sorted(tuple(params.values()) for params in tried) == sorted(itertools.product([1, 2, 5], repeat=len(names)))
    assert tuning.best_params == {name: 5 for name in names}
