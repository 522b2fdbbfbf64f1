"""Every model of ours computes on a device that is not the CPU what it computes on the CPU."""

import pytest
import torch
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_trainer, init_seed

from other_device import DEVICE, other_device
from recbole_diffusion.adapter.config import build_config
from recbole_diffusion.adapter.lookup import get_model
from recbole_diffusion.registry import MODELS
from toy import QUIET, checkerboard, two_circles

SMALL = {"dims_dnn": [8], "steps": 3, "n_cate": 2, "in_dims": [8, 4], "out_dims": [8], "svd_rank": 2, "hidden_size": 8}
SMALL |= {"g_hidden": [8], "d_hidden": [8], "hidden": [8], "latent_dimension": 4, "embedding_size": 8, "inner_size": 8}
# Our dropout draws its numbers in another way on a CPU (FastDropout).
SMALL |= dict.fromkeys(["dropout", "ae_dropout", "hidden_dropout_prob", "attn_dropout_prob", "dropout_prob"], 0.0)
SMALL["embedding_dropout_prob"] = 0.0
VARIANTS = {
    "StockLDiffRec": [{"n_cate": 1}],
    "DiffRec": [{}, {"sampler": "ancestral", "sampling_steps": 2, "sampling_noise": True}, {"noise_scale": 0.0}],
    "LDiffRec": [{}, {"sampler": "ancestral"}, {"mean_type": "eps"}],
    "DreamRec": [{}, {"train_positions": "last"}, {"denoiser": "mlp2"}, {"sampler": "ddim", "sampler_steps": 2},
                 {"n_samples": 2, "ranking": "centred"}],
    "DiffuRec": [{}, {"train_positions": "all"}, {"sampler": "one_pass"}],
    "PreferDiff": [{"sampler_steps": 2}, {"sampler_steps": 2, "sampler": "loop"}],
    "PriorDiff": [{"sampler_steps": 1}, {"sampler_steps": 3, "prior": "pop"}, {"sampler_steps": 2, "train_positions": "last"}],
    "PackedSASRec": [{}, {"loss": "gbce"}, {"loss": "bce", "negatives_from": "unseen"}, {"train_positions": "last"}],
    "CFGAN": [{}, {"mode": "item"}],
}  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_a_model_computes_the_same_on_another_device(model, tmp_path):
    general = MODELS[model].task == "general_recommender"
    dataset, data = ("checkerboard", checkerboard(tmp_path, 24)) if general else ("circles", two_circles(tmp_path, 40))
    for variant in VARIANTS.get(model, [{}]):
        config = build_config(model, dataset, None, QUIET | data | SMALL | variant | {"strict_config": False})
        here = computed(config)
        with other_device():
            config["device"] = DEVICE
            there = computed(config)
        for name, value in here.items():
            torch.testing.assert_close(there[name], value, msg=lambda text, of=f"{name} of {variant}": f"{of}: {text}")


def computed(config):
    """Losses of the first moves of training, then scores by every method, all on the CPU."""
    init_seed(config["seed"], True)
    train, _, test = data_preparation(config, create_dataset(config))
    device = config["device"]
    model = get_model(config["model"])(config, train._dataset).to(device)
    assert {p.device for p in [*model.parameters(), *model.buffers()]} <= {device}
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    losses = []
    for optimizer, loss in steps(trainer, train):
        optimizer.zero_grad()
        losses.append(loss())
        losses[-1].backward()
        optimizer.step()
    model.eval()
    batch = next(iter(test))[0].to(device)
    found = {"losses": torch.stack([loss.detach().cpu() for loss in losses])}
    with torch.no_grad():
        found["all"] = model.full_sort_predict(batch).clone()
        if hasattr(model, "topk"):
            found["topk"] = model.topk(batch, 3)[1]
        items = torch.arange(len(batch), device=device) % (model.n_items - 1) + 1
        batch.update(type(batch)({model.ITEM_ID: items}))
        found["pairs"] = model.predict(batch)
        if hasattr(model, "diagnostics"):
            found |= {name: torch.tensor(value) for name, value in model.diagnostics().items()}
    return {name: value.cpu() for name, value in found.items()}


def steps(trainer, train):
    """Some steps of training: optimiser, and what computes its loss."""
    if hasattr(trainer, "moves"):
        for epoch in (0, 100):  # IRGAN pretrains first
            for move in list(trainer.moves(train, epoch)[1])[:40]:
                yield move.optimizer, move.loss
    else:
        for interaction in train:
            interaction = interaction.to(trainer.device)
            yield trainer.optimizer, lambda batch=interaction: trainer.model.calculate_loss(batch)
