import pytest
import torch

from recbole_diffusion.model.topk import chunked_topk


@pytest.mark.parametrize("chunk", [1, 7, 50, 1000])
@pytest.mark.parametrize("k", [1, 10, 50])
def test_chunks_give_the_whole_ranking(chunk, k):
    torch.manual_seed(0)
    queries, table = torch.randn(5, 8, dtype=torch.float64), torch.randn(50, 8, dtype=torch.float64)
    scores, rows = chunked_topk(queries, table, k, chunk)
    expected = (queries @ table.T).sort(descending=True)
    assert torch.equal(rows, expected.indices[:, :k])
    torch.testing.assert_close(scores, expected.values[:, :k])


def test_k_beyond_the_table():
    with pytest.raises(ValueError, match="k = 4: must be in .1, 3."):
        chunked_topk(torch.ones(1, 2), torch.ones(3, 2), 4)
