"""RecBole models trained on a toy data set, for the tests of checkpoints."""

import types

import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_trainer, init_seed

from toy import QUIET, two_circles

NO_NEGATIVES = {"train_neg_sample_args": None}
SMALL = QUIET | {"epochs": 2, "embedding_size": 8, "hidden_size": 8, "inner_size": 8, "n_heads": 2, "n_layers": 1}
JOBS = {
    "BPR": {},
    "LightGCN": {},  # keeps embeddings beside its weights
    "EASE": {},  # a csr and a dense matrix
    "ItemKNN": {"k": 5},  # a csc and a lil matrix
    "SLIMElastic": {},
    "Pop": {},
    "RecVAE": NO_NEGATIVES | {"latent_dimension": 8, "hidden_dimension": 8, "n_enc_epochs": 1},  # two optimisers
    "SASRec": NO_NEGATIVES,
    "SASRecF": NO_NEGATIVES | {"selected_features": ["kind"], "pooling_mode": "mean"},  # a layer beside its weights
}


def circles(folder):
    """Writes the data set, with a feature of the items; returns its settings."""
    settings = two_circles(folder, users=40)
    items = [f"{item}\t{'xy'[item % 2]}" for item in range(24)]
    (folder / "circles" / "circles.item").write_text("\n".join(["item_id:token\tkind:token", *items]) + "\n")
    settings["load_col"] = settings["load_col"] | {"item": ["item_id", "kind"]}
    return settings


def train(model, data, **more):
    """A trained model: trainer, test data, and the scores of some users."""
    config = Config(model=model, dataset="circles", config_dict=SMALL | data | JOBS.get(model, {}) | more)
    init_seed(config["seed"], config["reproducibility"])
    train_data, valid_data, test_data = data_preparation(config, create_dataset(config))
    network = config.model_class(config, train_data._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, network)
    trainer.fit(train_data, valid_data, show_progress=False)
    trainer.evaluate(test_data)
    return types.SimpleNamespace(trainer=trainer, train=train_data, valid=valid_data, test=test_data)


def scores_of(model, test_data):
    model.eval()
    with torch.no_grad():
        return [model.full_sort_predict(batch[0]).clone() for batch in test_data]


def equal(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
