import re
from pathlib import Path

import pytest
import yaml
from recbole.config import Config

from recbole_diffusion import registry
from recbole_diffusion.adapter import lookup
from recbole_diffusion.adapter.config import build_config
from recbole_diffusion.adapter.known_keys import known_keys
from recbole_diffusion.adapter.protocols import protocol_name, protocol_overrides
from recbole_diffusion.property_files import names_in, properties_dir
from recbole_diffusion.settings import SettingsError

OURS = [model.name for model in registry.MODELS.values() if not model.stock_yaml]


def properties_of_recbole(model):
    file = registry.recbole_dir() / "properties" / "model" / f"{model.__mro__[1].__name__}.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", OURS)
def test_the_yaml_of_a_model_holds_exactly_its_settings(name):
    text = (properties_dir() / "model" / f"{name}.yaml").read_text(encoding="utf-8")
    training = {"learner", "learning_rate", "weight_decay", "train_batch_size", "eval_batch_size", "eval_step",
                "stopping_step", "epochs", "train_neg_sample_args"}  # fmt: skip
    model = lookup.get_model(name)
    # A network of RecBole's own reads what RecBole's YAML of it has.
    stock = properties_of_recbole(model) if not hasattr(model, "settings_class") else {}
    settings = set(stock or model.settings_class.keys())
    assert set(yaml.safe_load(text)) - training == settings
    for key in settings:
        assert re.search(rf"^{key}: .*# \((int|float|str|bool|list of int)\) \S", text, re.M), f"{key} is not explained"


def test_our_diffrec_takes_no_key_from_recbole_s_yaml():
    config = Config(model="DiffRec", dataset="ml-100k")
    assert config["noise_schedule"] == "linear-var" and config["steps"] == 40  # RecBole's: linear, 5
    assert Config(model="StockDiffRec", dataset="ml-100k")["noise_schedule"] == "linear"


def test_layers_win_in_order(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("steps: 7\nlearning_rate: 1e-2\nseed: 1\n")
    config = build_config("DiffRec", "ml-100k", [file], {"seed": 2})
    assert (config["steps"], config["learning_rate"], config["seed"]) == (7, 0.01, 2)
    assert config["dims_dnn"] == [600, 200, 600]  # the model's YAML
    assert config["checkpoint_dir"] == "saved"  # RecBole's


def test_a_data_set_brings_its_yaml(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.yaml").write_text("USER_ID_FIELD: session_id\n")
    assert build_config("DiffRec", "mine", None, {"data_path": str(tmp_path)})["USER_ID_FIELD"] == "session_id"
    # the file lies in the data folder, not among RecBole's, so a stock model reads it as well
    assert build_config("BPR", "mine", None, {"data_path": str(tmp_path)})["USER_ID_FIELD"] == "session_id"


@pytest.mark.parametrize("model", ["BPR", "SASRec"])
@pytest.mark.parametrize("name", names_in("protocol"))
def test_a_protocol_wins_over_recbole_s_defaults(name, model):
    given = yaml.safe_load((properties_dir() / "protocol" / f"{name}.yaml").read_text(encoding="utf-8"))
    config = build_config(model, "ml-100k", None, {"protocol": name})
    assert config["eval_args"]["split"] == given["eval_args"]["split"]
    assert config["protocol"] == name and not protocol_overrides(config)
    # earlier items are candidates for sequential models and masked for general ones
    assert config["repeatable"] == (model == "SASRec")


def test_who_names_the_protocol(tmp_path):
    """The user, else the data set for the parts that it brings, else the model."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.yaml").write_text("protocol: diffrec-paper\nbenchmark_filename: [a, b, c]\n")
    cases = [
        ("DiffRec", {}),
        ("BPR", {}),
        ("DiffRec", {"protocol": "ratio-80-10-10"}),
        ("DreamRec", {"benchmark_filename": None}),
    ]
    chosen = [build_config(model, "mine", None, {"data_path": str(tmp_path)} | more)["protocol"] for model, more in cases]
    assert chosen == ["diffrec-paper", "diffrec-paper", "ratio-80-10-10", "leave-one-out"]


EVALUATION = ("eval_args", "metrics", "topk", "valid_metric", "metric_decimal_place", "repeatable")


@pytest.mark.parametrize(
    ("model", "like"), [("SASRec", "DreamRec"), ("BPR", "DiffRec"), ("Pop", "DiffRec"), ("StockDiffRec", "DiffRec")]
)
def test_recbole_s_models_are_evaluated_like_ours_on_our_command_line(model, like):
    ours, theirs = (build_config(name, "ml-100k") for name in (like, model))
    assert theirs["protocol"] == ours["protocol"] is not None
    assert {key: theirs[key] for key in EVALUATION} == {key: ours[key] for key in EVALUATION}


def test_stock_scripts_keep_recbole_s_evaluation():
    stock = Config(model="SASRec", dataset="ml-100k")
    assert stock["protocol"] is None and stock["topk"] == [10] and stock["valid_metric"] == "MRR@10"
    told = build_config("SASRec", "ml-100k", None, {"protocol": "recbole-default"})
    assert {key: told[key] for key in EVALUATION} == {key: stock[key] for key in EVALUATION}
    # No protocol of ours is made for these.
    assert build_config("FM", "ml-100k")["protocol"] is None and build_config("KGAT", "ml-100k")["protocol"] is None


def test_given_parts_are_called_by_what_they_are(tmp_path):
    (tmp_path / "mine").mkdir()
    parts = {"data_path": str(tmp_path), "benchmark_filename": ["train", "valid", "test"]}
    cases = [
        ("DiffRec", {}),
        ("SASRec", {}),
        ("BPR", {"protocol": "diffrec-paper"}),
        ("BPR", {"benchmark_filename": None}),
    ]
    names = [protocol_name(build_config(model, "mine", None, parts | more)) for model, more in cases]
    assert names == [
        "given-parts (metrics of ratio-80-10-10)", "given-parts (metrics of leave-one-out)",
        "given-parts (metrics of diffrec-paper)", "ratio-80-10-10"]  # fmt: skip
    # A data set that says which protocol its parts are made for.
    (tmp_path / "mine" / "mine.yaml").write_text("protocol: diffrec-paper\nbenchmark_filename: [train, valid, test]\n")
    where = {"data_path": str(tmp_path)}
    assert protocol_name(build_config("BPR", "mine", None, where)) == "diffrec-paper"
    other = where | {"protocol": "ratio-80-10-10"}
    assert protocol_name(build_config("BPR", "mine", None, other)) == "given-parts (metrics of ratio-80-10-10)"


def test_a_changed_protocol_is_told():
    config = build_config("DiffRec", "ml-100k", None, {"topk": [10], "valid_metric": "NDCG@10"})
    assert config["protocol"] == "ratio-80-10-10" and protocol_overrides(config) == {"topk": [10]}


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("DreamRec", {"learing_rate": 0.1}, "unknown setting 'learing_rate' .* did you mean 'learning_rate'"),
        ("BPR", {"embeding_size": 8}, "unknown setting 'embeding_size' .* did you mean 'embedding_size'"),
        ("BPR", {"dims_dnn": [8]}, "unknown setting 'dims_dnn' .* for BPR"),
        ("DreamRec", {"dims_dnn": [8]}, "unknown setting 'dims_dnn' .* for DreamRec"),
        ("DreamRec", {"eval_args": {"ordr": "TO"}}, "unknown part 'ordr' of eval_args.* did you mean 'order'"),
        ("DreamRec", {"steps": 0}, "steps = 0: must be an integer >= 1"),
        ("DiffRec", {"noise_min": 0.5, "noise_max": 0.1}, "noise_min = 0.5: must be <= noise_max = 0.1"),
        ("DiffRec", {"sampling_steps": 41}, "sampling_steps = 41: must be <= steps = 40"),
        ("DiffRec", {"noise_schedule": "liner"}, "noise_schedule = 'liner': must be one of linear, "),
        ("DiffRec", {"noise_min": 0.01, "noise_max": 0.01}, "noise_schedule = 'linear-var': "),
        ("BPR", {"learning_rate": -1}, "learning_rate = -1: must be a finite number > 0"),
        ("BPR", {"learner": "adm"}, "learner = 'adm': must be one of adam, "),
        ("BPR", {"valid_metric": "NDCG@7"}, "valid_metric = 'NDCG@7': must be one of Recall@10, "),
        ("BPR", {"protocol": "leave-one-ot"}, "unknown protocol 'leave-one-ot': did you mean 'leave-one-out'"),
        ("DreamRek", {}, "unknown model 'DreamRek': did you mean 'DreamRec'"),
        ("lightgcn", {}, "unknown model 'lightgcn': did you mean 'LightGCN'"),
    ],
)
def test_bad_settings_are_one_clear_line(model, settings, message):
    with pytest.raises(SettingsError) as error:
        build_config(model, "ml-100k", None, settings)
    assert re.search(message, str(error.value)) and "\n" not in str(error.value)


def test_settings_files_that_cannot_be_read_are_named(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [1\n")
    with pytest.raises(SettingsError, match="bad.yaml: not YAML"):
        build_config("BPR", "ml-100k", [bad])
    bad.write_text("- 1\n")
    with pytest.raises(SettingsError, match="bad.yaml: must be a mapping"):
        build_config("BPR", "ml-100k", [bad])
    with pytest.raises(SettingsError, match="nosuch.yaml"):
        build_config("BPR", "ml-100k", [Path("nosuch.yaml")])


def test_strict_config_false_accepts_any_key():
    assert build_config("DreamRec", "ml-100k", None, {"mine": 1, "strict_config": False})["mine"] == 1


def test_a_stock_script_with_a_stock_model_is_left_alone():
    assert Config(model="BPR", dataset="ml-100k", config_dict={"mine": 1})["mine"] == 1
    with pytest.raises(SettingsError, match="'mine'"):
        Config(model="DiffRec", dataset="ml-100k", config_dict={"mine": 1})


@pytest.mark.parametrize("name", ["BPR", "MacridVAE", "SASRec", "LightGCN", "EASE", "StockDiffRec", "StockLDiffRec"])
def test_every_key_of_a_stock_yaml_is_known(name):
    spec = registry.find(name)
    stock = (
        registry.recbole_dir() / "properties" / "model" / f"{(spec.stock_yaml if spec else None) or name}.yaml"
    )
    assert set(yaml.safe_load(stock.read_text())) <= known_keys(name, lookup.get_model(name))


def test_cross_entropy_models_need_no_word_about_negatives():
    assert Config(model="SASRec", dataset="ml-100k")["train_neg_sample_args"]["distribution"] == "none"
    config = Config(model="SASRec", dataset="ml-100k", config_dict={"loss_type": "BPR"})
    assert config["train_neg_sample_args"]["distribution"] == "uniform"
