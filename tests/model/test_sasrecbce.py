import torch
from contract import ModelContract, Prepared

FAST = {"hidden_size": 32, "inner_size": 32, "epochs": 20, "learning_rate": 0.01, "train_batch_size": 128, "eval_step": 5,
        "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "stopping_step": 20}  # fmt: skip


class TestSASRecBCE(ModelContract):
    name = "SASRecBCE"
    settings = FAST
    hit = 0.9


def test_loss_is_binary_cross_entropy(tmp_path):
    run = Prepared("SASRecBCE", FAST, tmp_path)
    model, batch = run.model.eval(), next(iter(run.train))
    rows = torch.arange(len(batch))
    scores = model.full_sort_predict(batch)
    logits = torch.stack([scores[rows, batch[model.POS_ITEM_ID]], scores[rows, batch[model.NEG_ITEM_ID]]])
    labels = torch.tensor([[1.0], [0.0]]).expand_as(logits)
    expected = 2 * torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    torch.testing.assert_close(model.calculate_loss(batch), expected)
