"""What every model of the plugin must do. A model's test class inherits :class:`ModelContract` and names the model."""

import copy
import math

import pytest
import torch
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_trainer, init_seed

from recbole_diffusion import load_data_and_model, registry
from recbole_diffusion.adapter.config import build_config
from recbole_diffusion.adapter.lookup import get_model
from toy import QUIET, checkerboard, two_circles


class Prepared:
    """A model with its data and its trainer, as a run has them."""

    def __init__(self, name, settings, folder):
        general = registry.find(name).task == "general_recommender"
        data = checkerboard(folder) if general else two_circles(folder)
        self.config = build_config(
            name, "checkerboard" if general else "circles", None,
            QUIET | data | {"checkpoint_dir": str(folder / "saved"), "topk": [1, 5], "valid_metric": "NDCG@5"} | settings,
        )  # fmt: skip
        init_seed(self.config["seed"], True)
        self.train, self.valid, self.test = data_preparation(self.config, create_dataset(self.config))
        self.model = get_model(name)(self.config, self.train._dataset)
        self.trainer = get_trainer(self.config["MODEL_TYPE"], name)(self.config, self.model)

    def fit(self):
        self.trainer.fit(self.train, self.valid, verbose=False)
        return self

    def evaluate(self):
        return self.trainer.evaluate(self.test, load_best_model=True)

    def batch(self):
        """The first test batch, as the trainer passes it to the model."""
        return next(iter(self.test))[0]


class ModelContract:
    name: str
    settings: dict = {}  # smaller and faster than the defaults
    variants: list[dict] = [{}]  # settings under which scoring takes another path
    loss_falls = True  # False: a game, in which one player's gain is the other's loss
    closed_form = False  # True: there is nothing to train, an untrained model is a trained one
    hit = 1.0  # least share of users whose withheld item comes out on top

    @pytest.fixture(scope="class")
    @classmethod
    def prepared(cls, tmp_path_factory):
        return Prepared(cls.name, cls.settings, tmp_path_factory.mktemp(cls.name)).fit()

    @pytest.fixture
    def scored(self, prepared):
        prepared.model.eval()
        with torch.no_grad():
            yield prepared

    def with_variant(self, prepared, variant):
        """The trained model under other scoring settings."""
        config = copy.copy(prepared.config)
        config.final_config_dict = prepared.config.final_config_dict | variant
        model = type(prepared.model)(config, prepared.train._dataset)
        model.load_state_dict(prepared.model.state_dict())
        return model.eval()

    def test_learns_what_is_withheld(self, prepared):
        assert prepared.evaluate()["hit@1"] >= self.hit

    def test_a_batch_of_one_is_a_row_of_a_batch(self, scored):
        batch = scored.batch()
        for variant in self.variants:
            model = self.with_variant(scored, variant)
            whole = model.full_sort_predict(batch)
            assert whole.shape == (len(batch), model.n_items)
            for row in (0, len(batch) - 1):
                alone = model.full_sort_predict(batch[[row]])
                torch.testing.assert_close(alone[0], whole[row], rtol=1e-4, atol=1e-5, msg=str(variant))

    def test_predict_is_a_gather_of_full_sort_predict(self, scored):
        batch = scored.batch()
        items = torch.arange(len(batch)) % (scored.model.n_items - 1) + 1
        batch.update(type(batch)({scored.model.ITEM_ID: items}))
        for variant in self.variants:
            model = self.with_variant(scored, variant)
            expected = model.full_sort_predict(batch)[torch.arange(len(batch)), items]
            torch.testing.assert_close(
                model.predict(batch), expected, rtol=1e-4, atol=1e-5, check_dtype=False, msg=str(variant)
            )

    def test_scores_are_repeatable_and_may_be_overwritten(self, scored):
        batch = scored.batch()
        for variant in self.variants:
            model = self.with_variant(scored, variant)
            first = model.full_sort_predict(batch)
            kept = first.clone()
            first.fill_(-torch.inf)
            assert torch.equal(model.full_sort_predict(batch), kept), variant

    def test_the_padding_item_is_never_recommended(self, scored):
        scores = scored.model.full_sort_predict(scored.batch())
        assert (scores[:, 0] == -torch.inf).all() and scores[:, 1:].isfinite().all()

    def test_save_and_load_change_nothing(self, scored):
        expected = scored.evaluate()
        scores = scored.model.full_sort_predict(scored.batch())
        config, model, _, _, _, test = load_data_and_model(scored.trainer.saved_model_file)
        model.eval()
        assert torch.equal(model.full_sort_predict(next(iter(test))[0]), scores)
        for name, value in scored.model.state_dict().items():
            assert torch.equal(model.state_dict()[name], value), name
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
        assert trainer.evaluate(test, load_best_model=False) == expected

    def test_same_seed_same_result(self, tmp_path):
        short = self.settings | {"epochs": 2, "eval_step": 1}
        runs = [Prepared(self.name, short | {"seed": seed}, tmp_path / str(run)).fit() for run, seed in enumerate((1, 1, 2))]
        states = [run.model.state_dict() for run in runs]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
        assert any(not torch.equal(states[0][key], states[2][key]) for key in states[0])

    def test_a_repeated_row_scores_alike(self, scored):
        """The sampled evaluator repeats a user or history for every candidate: each must meet the same scores."""
        batch = scored.batch()
        repeated = batch.repeat_interleave(2)
        items = torch.tensor([1, 2]).repeat(len(batch))
        repeated.update(type(batch)({scored.model.ITEM_ID: items}))
        expected = scored.model.full_sort_predict(batch)[:, 1:3].reshape(-1)
        torch.testing.assert_close(scored.model.predict(repeated), expected, rtol=1e-4, atol=1e-5, check_dtype=False)
        if hasattr(scored.model, "distinct"):
            histories, row = scored.model.distinct(repeated)
            each = histories[scored.model.ITEM_SEQ]
            assert torch.equal(each[row], repeated[scored.model.ITEM_SEQ])
            assert len(each) == len({tuple(history) for history in each.tolist()})

    def test_sampled_evaluation(self, tmp_path):
        """RecBole's sampled evaluator, on a model that is not trained: the target among itself and 5 others."""
        sampled = {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "uni5"}}
        run = Prepared(self.name, self.settings | sampled | {"topk": [1, 6], "valid_metric": "NDCG@6"}, tmp_path)
        result = run.trainer.evaluate(run.test, load_best_model=False)
        assert result["hit@6"] == 1 and 0 < result["mrr@6"] and (result["mrr@6"] == 1) == self.closed_form

    @pytest.mark.parametrize("setting", [{"enable_amp": True}, {"matmul_precision": "medium"}])
    def test_faster_training_still_trains(self, setting, tmp_path):
        run = Prepared(self.name, self.settings | {"epochs": 2, "eval_step": 1} | setting, tmp_path).fit()
        first, last = (run.trainer.train_loss_dict[epoch] for epoch in (0, 1))
        assert math.isfinite(first) and math.isfinite(last)
        assert not self.loss_falls or 0 <= last < first
        assert all(parameter.dtype == torch.float32 for parameter in run.model.parameters())
