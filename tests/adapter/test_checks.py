"""Bad settings are one line before the data are read; what can be taken for what is meant is."""

import re

import numpy as np
import pytest
from recbole.config import Config

from recbole_diffusion import registry
from recbole_diffusion.adapter import checks
from recbole_diffusion.adapter.config import build_config
from recbole_diffusion.property_files import read_yaml
from recbole_diffusion.settings import SettingsError, checked
from toy import two_circles


@pytest.mark.parametrize(
    ("model", "given", "merged"),
    [
        ("DreamRec", {"mode": "uni10"}, {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": ("uni10", "uni10")}),
        ("DreamRec", {"mode": {"test": "uni10"}}, {"split": {"LS": "valid_and_test"}, "mode": ("full", "uni10")}),
        ("DiffRec", {"order": "TO"}, {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "TO", "mode": ("full", "full")}),
        ("DiffRec", {"split": {"LS": "valid_and_test"}}, {"split": {"LS": "valid_and_test"}, "order": "RO"}),
    ],
)
def test_partial_eval_args_are_merged_into_the_protocol(model, given, merged):
    for make in (build_config, Config):
        config = make(model, "ml-100k", None, {"eval_args": given})
        found = config["eval_args"] | {"mode": tuple(config["eval_args"]["mode"].values())}
        assert {key: found[key] for key in merged} == merged


def test_eval_args_of_a_file_and_of_a_dictionary_are_merged(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("eval_args: {order: TO, mode: uni5}\n")
    given = {"protocol": "ratio-80-10-10", "eval_args": {"mode": {"valid": "full"}}}
    found = build_config("BPR", "ml-100k", [file], given)["eval_args"]
    assert found["order"] == "TO" and found["mode"] == {"valid": "full", "test": "uni5"}
    assert found["split"] == {"RS": [0.8, 0.1, 0.1]}


def test_a_stock_script_without_a_protocol_gets_what_recbole_makes_of_it():
    assert Config("SASRec", "ml-100k", None, {"eval_args": {"mode": "uni10"}})["eval_args"]["split"] == {"RS": [0.8, 0.1, 0.1]}


@pytest.mark.parametrize("model", ["DiffRec", "BPR"])
def test_whole_numbers_and_numpy_s_are_taken(model):
    given = {"epochs": 2.0, "seed": 1e3, "topk": np.array([5, 10]), "train_batch_size": np.int64(64)}
    given |= {"valid_metric": "NDCG@10", "learning_rate": np.float32(0.5), "show_progress": np.bool_(False)}
    given |= {"embedding_size": np.float64(8)}
    config = build_config(model, "ml-100k", None, given)
    for key, value in {"epochs": 2, "seed": 1000, "topk": [5, 10], "train_batch_size": 64, "learning_rate": 0.5,
                       "show_progress": False, "embedding_size": 8}.items():  # fmt: skip
        assert config[key] == value and type(config[key]) is type(value), key
    assert type(build_config(model, "ml-100k", None, {"topk": 5.0, "valid_metric": "Hit@5"})["topk"][0]) is int


WRONG = [
    ("BPR", {"epochs": 2.5}, "epochs = 2.5: must be an integer >= 0"),
    ("BPR", {"seed": 2**32}, "seed = 4294967296: must be an integer >= 0 and <= 4294967295"),
    ("BPR", {"train_batch_size": float("nan")}, "train_batch_size = nan: must be an integer"),
    ("BPR", {"learning_rate": float("inf")}, "learning_rate = inf: must be a finite number > 0"),
    ("BPR", {"embedding_size": 0}, "embedding_size = 0: must be an integer >= 1"),
    ("BPR", {"valid_metric": "NDCG"}, "valid_metric = 'NDCG': must be one of Recall@10, "),
    ("BPR", {"valid_metric": 5}, "valid_metric = 5: must be a string"),
    ("BPR", {"metrics": ["Recal"]}, "unknown metric 'Recal': did you mean 'recall'"),
    ("BPR", {"metrics": 5}, "metrics = 5: must be a non-empty list of a string"),
    ("BPR", {"metrics": ["Recall", "AUC"]}, "metrics of rankings and of values"),
    ("BPR", {"topk": "many"}, "topk = .*must be a non-empty list of an integer >= 1"),
    ("BPR", {"topk": []}, "topk = .*must be a non-empty list"),
    ("BPR", {"eval_args": {"split": {"RS": [1, 0, 0]}}}, "eval_args: split.*> 0"),
    ("BPR", {"eval_args": {"split": {"RS": [8, 2]}}}, "eval_args: split.*three numbers"),
    ("BPR", {"eval_args": {"split": {"LS": "test_only"}}}, "eval_args: split.*each part is needed"),
    ("BPR", {"eval_args": {"mode": "uni0"}}, "eval_args: mode of valid = 'uni0'"),
    ("BPR", {"eval_args": {"order": "OT"}}, "eval_args: order = 'OT': must be one of RO, TO"),
    ("BPR", {"eval_args": "full"}, "eval_args = 'full': must be a mapping"),
    ("BPR", {"train_neg_sample_args": {"sample_num": -1}}, "train_neg_sample_args: sample_num = -1"),
    ("BPR", {"use_gpu": "yes"}, "use_gpu = 'yes': must be True or False"),
    ("BPR", {"checkpoint_dir": 5}, "checkpoint_dir = 5: must be a string"),
    ("BPR", {"checkpoint_dir": ""}, "checkpoint_dir = '': must not be empty"),
    ("BPR", {"user_inter_num_interval": "5"}, "user_inter_num_interval = .*must be an interval"),
    ("BPR", {"benchmark_filename": ["train", "test"]}, "benchmark_filename = .*must name three parts"),
    ("BPR", {"encoding": "utf-9"}, "encoding = 'utf-9'"),
    ("DreamRec", {"MAX_ITEM_LIST_LENGTH": 0}, "MAX_ITEM_LIST_LENGTH = 0: must be an integer >= 1"),
    ("DreamRec", {"history_length": 60}, "history_length = 60: must be at most MAX_ITEM_LIST_LENGTH = 50"),
    ("DreamRec", {"empty_histories": "foo"}, "empty_histories = 'foo': must be one of pad, drop"),
    ("DiffRec", {"torch_compile": "foo"}, "torch_compile = 'foo': must be True or False"),
    ("DiffRec", {"matmul_precision": "foo"}, "matmul_precision = 'foo': must be one of highest"),
    ("DiffRec", {"dims_dnn": [1e12]}, "dims_dnn = .*<= 2147483647"),
    ("SASRec", {"hidden_size": 9}, "hidden_size = 9: must be a multiple of n_heads = 2"),
    ("SASRec", {"hidden_act": "foo"}, "hidden_act = 'foo': must be one of gelu, "),
    ("SASRec", {"loss_type": "foo"}, "loss_type = 'foo': must be one of BPR, CE"),
    ("SASRec", {"n_layers": 10**6}, "n_layers = 1000000: must be an integer >= 1 and <= 1000"),
    ("EASE", {"reg_weight": float("nan")}, "reg_weight = nan: must be a finite number > 0"),
    ("ItemKNN", {"k": 0}, "k = 0: must be an integer >= 1"),
    ("MultiVAE", {"dropout_prob": 1.5}, "dropout_prob = 1.5: must be a finite number >= 0 and <= 1"),
    ("MultiVAE", {"mlp_hidden_size": "600"}, "mlp_hidden_size = 600: must be a list of an integer >= 1"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "settings", "message"), WRONG)
def test_wrong_values_are_one_line(model, settings, message):
    with pytest.raises(SettingsError) as error:
        build_config(model, "ml-100k", None, settings)
    assert re.search(message, str(error.value)) and "\n" not in str(error.value)


def test_the_keys_of_a_data_set_s_yaml_are_checked(tmp_path):
    data = two_circles(tmp_path)
    file = tmp_path / "circles" / "circles.yaml"
    for text, message in (("USER_ID_FEILD: x\n", "unknown setting 'USER_ID_FEILD' .data set. for DiffRec.*'USER_ID_FIELD'"),
                          ("MAX_ITEM_LIST_LENGTH: 0\n", "MAX_ITEM_LIST_LENGTH = 0")):  # fmt: skip
        file.write_text(text)
        with pytest.raises(SettingsError, match=message):
            build_config("DiffRec", "circles", None, data)


def test_negatives_for_a_model_that_takes_none_are_ignored_with_a_line(caplog):
    """DreamRec would train on the negatives' rows as if they were targets."""
    shared = {"train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}}
    assert build_config("BPR", "ml-100k", None, dict(shared))["train_neg_sample_args"]["sample_num"] == 1
    assert not caplog.messages
    config = build_config("DreamRec", "ml-100k", None, shared)
    assert config["train_neg_sample_args"]["distribution"] == "none"
    assert len(caplog.messages) == 1 and "ignored, DreamRec takes no sampled negatives" in caplog.text


def test_recbole_s_defaults_pass_and_nearly_all_keys_have_a_rule():
    """The rules come from the comments of RecBole's YAML files: a wrong reading would refuse RecBole's own defaults."""
    keys, without = 0, []
    for model in registry.stock_models():
        file = registry.recbole_dir() / "properties" / "model" / f"{model}.yaml"
        rules = checks.rules_of(model, type(model, (), {}), file)
        for key, value in read_yaml(file).items():
            keys += 1
            if key in rules:
                checked(key, value, *rules[key])
            else:
                without.append(f"{model}.{key}")
    assert len(without) < 0.05 * keys, without


def test_what_recbole_refuses_is_bad_input_and_what_breaks_is_a_bug(monkeypatch):
    with pytest.raises(SettingsError, match="repeatable"):
        build_config("SASRec", "ml-100k", None, {"repeatable": False})
    monkeypatch.setattr(Config, "_init_device", lambda self: {}["device"])
    with pytest.raises(KeyError):
        build_config("BPR", "ml-100k")
