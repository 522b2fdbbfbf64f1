"""Given parts with histories: what RecBole makes of long, short and empty ones."""

import pytest
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.dataset import SequentialDataset
from recbole.utils import get_model

from recbole_diffusion.adapter import given_histories, repairs

repairs.apply()
given_histories.install()

# Rows of (user, history, times of the history, target); the second training row and the first test row have no history.
PARTS = {
    "train": [("u", "a b c d", "1 2 3 4", "e"), ("v", "", "", "b"), ("w", "c", "7", "a")],
    "valid": [("x", "b a", "5 6", "c")],
    "test": [("y", "", "", "d"), ("z", "e d c", "1 2 3", "a")],
}


@pytest.fixture
def load(tmp_path):
    folder = tmp_path / "toy"
    folder.mkdir()
    header = "user_id:token\titem_id_list:token_seq\ttime_list:float_seq\titem_id:token\n"
    for part, rows in PARTS.items():
        text = header + "".join("\t".join(row) + "\n" for row in rows)
        (folder / f"toy.{part}.inter").write_text(text)

    def load(model="SASRec", **settings):
        settings = {
            "data_path": str(tmp_path),
            "benchmark_filename": ["train", "valid", "test"],
            "load_col": {"inter": ["user_id", "item_id_list", "time_list", "item_id"]},
            "alias_of_item_id": ["item_id_list"],
            "train_neg_sample_args": None,
            "topk": [1],
            "valid_metric": "NDCG@1",
            **settings,
        }
        config = Config(model=model, dataset="toy", config_dict=settings)
        return config, *data_preparation(config, create_dataset(config))

    return load


def rows(loader):
    """(history as padded text, length, target) of each row."""
    data = loader.dataset
    names = data.id2token("item_id", data.inter_feat["item_id_list"].numpy())
    histories = [" ".join(row).replace("[PAD]", "-") for row in names.tolist()]
    targets = data.id2token("item_id", data.inter_feat["item_id"].numpy()).tolist()
    return list(zip(histories, data.inter_feat["item_length"].tolist(), targets, strict=True))


def test_long_histories_keep_the_latest_items_and_all_have_the_set_width(load):
    _, train, valid, test = load(MAX_ITEM_LIST_LENGTH=3)
    assert rows(train) == [("b c d", 3, "e"), ("- - -", 1, "b"), ("c - -", 1, "a")]
    assert rows(valid) == [("b a -", 2, "c")]
    assert rows(test) == [("- - -", 1, "d"), ("e d c", 3, "a")]
    # Other columns of the history are cut with it.
    assert train.dataset.inter_feat["time_list"].tolist() == [[2, 3, 4], [0, 0, 0], [7, 0, 0]]


def test_short_histories_are_padded_to_the_set_width(load):
    _, train, valid, _ = load(MAX_ITEM_LIST_LENGTH=6)
    assert rows(train)[0] == ("a b c d - -", 4, "e")
    assert rows(valid) == [("b a - - - -", 2, "c")]


def test_rows_without_history_can_be_left_out(load):
    _, train, valid, test = load(MAX_ITEM_LIST_LENGTH=3, empty_histories="drop")
    assert rows(train) == [("b c d", 3, "e"), ("c - -", 1, "a")]
    assert rows(valid) == [("b a -", 2, "c")]
    assert rows(test) == [("e d c", 3, "a")]


def test_refuses_other_treatments(load):
    with pytest.raises(ValueError, match="empty_histories = 'skip': must be one of pad, drop"):
        load(empty_histories="skip")


def test_says_that_parts_have_no_histories(load):
    with pytest.raises(ValueError, match=r"no column 'item_id_list', so sequential models cannot read them"):
        load(load_col={"inter": ["user_id", "item_id"]}, alias_of_item_id=None)


@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec", "NARM", "STAMP", "Caser"])
@pytest.mark.parametrize("width", [2, 5])
def test_stock_models_run_on_empty_and_cut_histories(load, model, width):
    config, train, _, test = load(model, MAX_ITEM_LIST_LENGTH=width)
    network = get_model(model)(config, train.dataset).to(config["device"])
    for batch in train:
        assert network.calculate_loss(batch.to(config["device"])).isfinite()
    network.eval()
    for batch, *_ in test:
        scores = network.full_sort_predict(batch.to(config["device"])).view(2, -1)
        assert scores.isfinite().all()


def test_histories_that_recbole_builds_stay_as_they_are(tmp_path):
    folder = tmp_path / "whole"
    folder.mkdir()
    text = "user_id:token\titem_id:token\ttimestamp:float\n" + "".join(
        f"u\t{item}\t{i}\n" for i, item in enumerate("abcd")
    )
    (folder / "whole.inter").write_text(text)
    settings = {
        "data_path": str(tmp_path),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "train_neg_sample_args": None,
        "MAX_ITEM_LIST_LENGTH": 2,
    }
    config = Config(model="SASRec", dataset="whole", config_dict=settings)
    loaders = data_preparation(config, create_dataset(config))
    assert [rows(loader) for loader in loaders] == [[("a -", 1, "b")], [("a b", 2, "c")], [("b c", 2, "d")]]


def test_a_second_repair_changes_nothing():
    before = vars(SequentialDataset).copy()
    given_histories.install()
    assert vars(SequentialDataset) == before
