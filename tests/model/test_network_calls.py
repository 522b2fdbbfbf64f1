"""``network_calls`` of the record is how many rows the network sees for each row of scores."""

import pytest
import torch
from contract import Prepared

TINY = {"hidden_size": 8, "inner_size": 8, "n_layers": 1, "n_heads": 2, "MAX_ITEM_LIST_LENGTH": 8}
DREAM = {"hidden_size": 8, "inner_size": 8, "steps": 6, "beta_end": 0.3}
# What the network sees, settings, and how often. PreferDiff's published grid has a step more than it is asked for.
CASES = {
    "DiffRec": ("network", {"dims_dnn": [8], "steps": 3, "sampler": "ancestral"}, 3),
    "FlowCF": ("network", {"dims_dnn": [8], "steps": 3, "sampling_steps": 2}, 2),
    "GiffCF": ("network", {"steps": 3, "sampling_steps": 2}, 2),
    "DreamRec": ("network", DREAM | {"sampler": "ancestral", "guidance_scale": 2.0}, 12),
    "DreamRec, unguided": ("network", DREAM | {"sampler": "ddim", "sampler_steps": 4, "guidance_scale": 0.0}, 4),
    "DreamRec, closed form": ("network", DREAM | {"sampler": "exact"}, 0),
    "PreferDiff": ("network", {"hidden_size": 8, "steps": 6, "sampler": "loop", "sampler_steps": 3, "guidance_scale": 2.0}, 8),
    "PreferDiff, composed": ("network", {"hidden_size": 8, "steps": 6, "sampler": "one_pass", "sampler_steps": 3}, 0),
    "DiffuRec": ("denoiser.output", TINY | {"steps": 6, "sampler": "loop", "sampler_steps": 4}, 4),
    "ADRec": ("denoiser.output", TINY | {"steps": 6, "sampler": "loop", "sampler_steps": None}, 6),
    "FMRec": ("denoiser.output", TINY | {"steps": 6, "sampler": "one_pass"}, 1),
}


@pytest.mark.parametrize("case", CASES)
def test_rows_through_the_network(case, tmp_path):
    part, settings, calls = CASES[case]
    prepared = Prepared(case.split(",")[0], settings, tmp_path)
    model, batch = prepared.model.eval(), prepared.batch()
    seen = []
    hook = model.get_submodule(part).register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    with torch.no_grad():
        rows = len(model.full_sort_predict(batch))
    hook.remove()
    if case.startswith(("DiffuRec", "ADRec", "FMRec", "PreferDiff")):
        histories = batch[model.ITEM_SEQ][:, : int(batch[model.ITEM_SEQ_LEN].max())]
        rows = len(torch.unique(histories, dim=0))  # each distinct history is generated once
    assert model.network_calls == calls and sum(seen) == calls * rows
