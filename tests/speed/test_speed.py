import json
import time
from pathlib import Path

import pytest
import scipy.sparse
import torch
from recbole.data.interaction import Interaction
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from recbole_diffusion.cli import main
from recbole_diffusion.diffusion.denoisers import ConditionedDenoiser, ItemMLP
from recbole_diffusion.diffusion.exact import HiddenChain, affine_chain
from recbole_diffusion.diffusion.guidance import classifier_free
from recbole_diffusion.diffusion.noise import keyed_noise
from recbole_diffusion.diffusion.process import GaussianDiffusion
from recbole_diffusion.diffusion.samplers import ancestral, time_grid
from recbole_diffusion.diffusion.schedule import make_betas
from recbole_diffusion.model.interaction_rows import InteractionRows
from recbole_diffusion.model.sequential_recommender.causal import TARGETS
from recbole_diffusion.speed import data, diffrec, dreamrec, floor, page, sequential, sizes
from recbole_diffusion.speed.measure import Variant, compare, peak_mib
from recbole_diffusion.speed.peers import algorithm_2, copy_weights

ROOT = Path(__file__).parents[2]
SMALL = {
    "ml-1m": sizes.Size("DiffRec", 60, 50, 8.0, {"dims_dnn": [12, 4, 12], "steps": 6, "train_batch_size": 16}),
    "zhihu": sizes.Size("DreamRec", 60, 50, 6.0, {"hidden_size": 8, "inner_size": 8, "steps": 6, "history_length": 5}),
    "ml-100k": sizes.Size(
        "sequential models", 60, 50, 9.0, {"hidden_size": 8, "MAX_ITEM_LIST_LENGTH": 6, "train_batch_size": 64}, True
    ),
}
OF = {"ml-1m": "diffrec", "zhihu": "dreamrec", "ml-100k": "sequential"}


@pytest.fixture
def small(monkeypatch):
    for name, size in SMALL.items():
        monkeypatch.setitem(sizes.SIZES[OF[name]], name, size)


def task(folder, name, **more):
    size = SMALL[name]
    settings = {**data.write(folder, size, size.users), **size.settings, "checkpoint_dir": str(folder / "saved")}
    return sizes.Task(settings, size.users, "cpu", 1, **more)


# --------------------------------------------------------------------------------------------------------- the peers


def test_stock_diffrec_with_our_weights_gives_our_scores(tmp_path):
    measured = diffrec.measure(task(tmp_path, "ml-1m"))
    assert len(measured["agreement"]) == 2
    for row in measured["agreement"]:
        assert row["value"] <= 1e-5, row


def test_the_copied_weights_ignore_the_padding_item(tmp_path):
    settings = task(tmp_path, "ml-1m").settings
    ours, stock = (data.load(name, {**settings, "train_neg_sample_args": None}, "cpu") for name in ("DiffRec", "StockDiffRec"))
    copy_weights(ours.model.network, stock.model.mlp)
    x, t = torch.randn(3, ours.model.n_items), torch.tensor([0, 3, 5])
    theirs = stock.model.mlp.eval()(x, t)
    torch.testing.assert_close(theirs[:, 1:], ours.model.network.eval()(x[:, 1:], t), rtol=1e-5, atol=1e-6)
    assert (theirs[:, 0] == 0).all()


@pytest.mark.parametrize("scale", [0.0, 2.5])
def test_algorithm_2_is_the_guided_ancestral_sampler(scale):
    torch.manual_seed(0)
    network = ConditionedDenoiser(6, "mlp2").double()
    process = GaussianDiffusion(make_betas("cosine", 9))
    cond, no_history = torch.randn(5, 6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    noise = keyed_noise(torch.arange(5), 1)
    expected = ancestral(
        classifier_free(network, cond, no_history, scale), noise(cond, 0), process, time_grid(process), noise=noise
    )
    actual = algorithm_2(network, cond, no_history, process.betas, scale, noise)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_moments_tell_the_right_distribution_from_a_wrong_one():
    torch.manual_seed(0)
    d, n = 5, 4000
    process = GaussianDiffusion(make_betas("linear", 20))
    chain = affine_chain(0.3 * torch.randn(d, d), torch.randn(20, d), process)
    u, z = torch.randn(1, d), torch.randn(n, d)
    x = chain.sample(u.expand(n, d), z)
    assert max(dreamrec.moment_errors(x, chain, u)) < dreamrec.ALLOWED_Z
    of_mean, _ = dreamrec.moment_errors(x, chain, u + 1)
    _, of_covariance = dreamrec.moment_errors(chain.mean(u) + 1.1 * (x - chain.mean(u)), chain, u)
    assert of_mean > dreamrec.ALLOWED_Z and of_covariance > dreamrec.ALLOWED_Z


# --------------------------------------------------------------------------------------------------------- the floor


def flop(products):
    return floor.work(products)[0]


def counted(call):
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def test_the_floor_of_diffrec_is_what_torch_counts():
    n, hidden, e, batch, steps = 30, [8, 4, 6], 3, 5, 7
    network = ItemMLP(n, hidden, e)
    x, t = torch.randn(batch, n), torch.zeros(batch, dtype=torch.long)
    time = [(batch, e, e), (batch, e, hidden[0])]
    forward = counted(lambda: network(x, t))
    assert forward == flop([*floor.network(batch, n, hidden), *time])
    step = counted(lambda: network(x, t).sum().backward())
    # Of the time's layers: weights twice, and the activation between them.
    of_time = 2 * flop(time) + flop(time[1:])
    assert step == flop(floor.training_step(batch, n, hidden)) + of_time
    chain = HiddenChain(network, GaussianDiffusion(make_betas("linear", steps)))
    rows = torch.eye(batch, n).to_sparse_csr()
    assert counted(lambda: chain.scores(rows)) == flop(floor.hidden_chain(batch, n, hidden, steps))


def test_bytes_count_each_operand_and_result_once():
    assert floor.work([(2, 3, 5), (7, 1, 1)]) == (2 * 30 + 2 * 7, 4 * (6 + 15 + 10) + 4 * (7 + 1 + 7))


def test_the_floor_of_dreamrec_is_what_torch_counts(tmp_path):
    loaded = data.load("DreamRec", task(tmp_path, "zhihu").settings, "cpu")
    model, batch = loaded.model.eval().requires_grad_(False), loaded.test.dataset.inter_feat[:7]
    n, d, noise = len(batch), model.settings.hidden_size, keyed_noise(torch.arange(7), 1)
    cond = model.condition(batch)
    within_histories = flop([(n, d, model.settings.history_length)] * 2)
    encoder = counted(lambda: model.condition(batch)) - within_histories
    assert encoder == flop(floor.encoder(n, d, model.settings.inner_size))
    shift = torch.zeros(model.settings.steps, d)
    chain = counted(lambda: affine_chain(torch.zeros(d, d), shift, model.process))
    # Torch does not count the half of the products that is done in place; one more is the root's of the covariance.
    assert 2 * (chain - flop([(d, d, d)])) == flop(floor.composed_chain(d, model.settings.steps))
    assert counted(lambda: dreamrec.peer(model, cond)) == flop(floor.loop(n, d, model.settings.steps))
    model._closed_form(cond, noise)  # composes
    assert counted(lambda: model._closed_form(cond, noise)) == flop(floor.one_shot(n, d))


@pytest.mark.parametrize("name", ["PackedSASRec", "PackedGRU4Rec", "DreamRec"])
def test_the_floor_of_sequential_models_is_what_torch_counts(name, tmp_path):
    loaded = data.load(name, task(tmp_path, "ml-100k").settings | {"train_positions": "all"}, "cpu")
    model, (n, length) = loaded.model.eval(), (7, 6)
    d, layers = model.settings.hidden_size, getattr(model.settings, "n_layers", 0)
    windows = Interaction({
        model.ITEM_SEQ: torch.randint(1, 60, (n, length)), model.ITEM_SEQ_LEN: torch.full((n,), length),
        TARGETS: torch.randint(1, 60, (n, length)),
    })  # fmt: skip
    # Products within a history, which the floor leaves out: queries with keys, weights with values; of all layers but the last
    # at all positions, of the last where it is read out.
    at_all, at_last = flop([(n * length, d, length)] * 2), flop([(n, d, length)] * 2)
    step = counted(lambda: model.calculate_loss(windows).backward())
    if name != "DreamRec":  # torch does not count the gradient of the items' embeddings, which cross-entropy adds up in place
        step += flop([(n * length, *model.item_embedding.weight.shape)])
    assert step - 3 * layers * at_all == flop(sequential.training_step(loaded, windows))
    with torch.no_grad():
        model.full_sort_predict(windows)  # DreamRec composes its chain
        scores = counted(lambda: model.full_sort_predict(windows))
    within = (layers - 1) * at_all + at_last if layers else 0
    assert scores - within == flop(sequential.scoring(loaded, windows))


# --------------------------------------------------------------------------------------------------------- measuring


def test_peak_memory_is_that_of_the_worst_moment():
    mib = 2**18  # float32 numbers

    def call():
        a = torch.ones(3 * mib)
        b = a + 1  # 6
        del a
        return torch.cat([b, torch.ones(2 * mib)])  # 3 + 2 + 5

    assert peak_mib(call, "cpu") == pytest.approx(10, abs=0.01)


def test_variants_are_called_in_turns(capsys):
    calls = []
    variants = [
        Variant("a", lambda: calls.append("a"), work=(1e9, 8e6)),
        Variant("b", lambda: calls.append("b"), before=lambda: calls.append("before"), memory=False),
    ]
    rows = compare("scoring", 3, variants, 2, "cpu", shortest_s=1e-9)
    assert calls[-6:] == ["a", "before", "b"] * 2
    assert [row["variant"] for row in rows] == ["a", "b"] and rows[0]["ratio"] == 1.0
    assert rows[1]["ratio"] == rows[1]["seconds"] / rows[0]["seconds"] and rows[1]["peak_mib"] is None
    assert rows[0]["flop"] == 1e9 and rows[0]["bytes"] == 8e6 and rows[1]["flop"] is None
    assert len(rows[0]["times"]) == 2 and "turn 2 of 2" in capsys.readouterr().err


def test_a_part_of_an_epoch_is_scaled_to_the_whole(tmp_path, monkeypatch):
    loaded = data.load("SASRec", task(tmp_path, "ml-100k").settings | {"train_neg_sample_args": None}, "cpu")
    batches = []

    def loss(batch):
        batches.append(len(batch))
        return next(loaded.model.parameters()).sum()

    monkeypatch.setattr(loaded.model, "calculate_loss", loss)
    whole = sequential._epoch("SASRec", loaded, len(loaded.train), resumable=False)
    assert whole.name == "SASRec" and whole.scale == 1
    whole.call()
    targets, n = sum(batches), len(batches)
    assert targets == loaded.train.sample_size and n == len(loaded.train) > 2
    batches.clear()
    part = sequential._epoch("SASRec", loaded, 2, resumable=False)
    assert part.name == f"SASRec, extrapolated from 2 of {n} batches a turn"
    for _ in range(n):
        part.call()
    # It goes on from batch to batch through whole epochs, and its scale counts targets.
    assert sum(batches) == 2 * targets and batches[:2] == [64, 64]
    assert part.scale * 128 == pytest.approx(targets)


def test_the_part_of_an_epoch_depends_on_its_time(tmp_path, monkeypatch):
    loaded = data.load("PackedSASRec", task(tmp_path, "ml-100k").settings, "cpu")
    assert sequential._batches_of_a_turn(loaded, resumable=True) == len(loaded.train) > 2
    monkeypatch.setattr(sequential, "LONGEST_TURN_S", 0)
    assert sequential._batches_of_a_turn(loaded, resumable=True) == 1


def test_an_evaluation_is_of_the_first_histories(tmp_path):
    loaded = data.load("SASRec", task(tmp_path, "ml-100k").settings | {"train_neg_sample_args": None}, "cpu")
    part = data.first_histories(loaded, 7)
    assert len(loaded.test.dataset) == 50 and part.sample_size == 7
    (whole, *_), (rows, *_) = next(iter(loaded.test)), next(iter(part))
    assert torch.equal(rows["item_id_list"], whole["item_id_list"][:7])
    assert 0 <= data.evaluation(loaded, part)()["recall@10"] <= 1


def test_a_scaled_time_is_a_multiple_of_the_call_s():
    plain, scaled = (Variant("sleeps", lambda: time.sleep(0.01), scale=scale) for scale in (1.0, 50.0))
    assert 0.01 <= plain.seconds("cpu") and 0.5 <= scaled.seconds("cpu")


def test_generated_data_are_long_tailed_and_seeded():
    table = data.interactions(2000, 1000, 20.0)
    assert table.equals(data.interactions(2000, 1000, 20.0)) and not table.equals(data.interactions(2000, 1000, 20.0, seed=1))
    assert not table.duplicated(["user_id:token", "item_id:token"]).any()
    lengths = table["user_id:token"].value_counts()
    assert len(lengths) == 1000 and 15 < lengths.mean() < 21 and lengths.max() > 5 * lengths.median()
    whole = data.interactions(2000, 1000, 20.0, repetitions=True)
    assert whole["user_id:token"].value_counts().mean() == pytest.approx(20, rel=0.1) and len(whole) > len(table)
    popularity = table["item_id:token"].value_counts()
    assert popularity.head(100).sum() > 0.4 * len(table)


def test_every_item_is_known_however_few_users(tmp_path):
    few = data.write(tmp_path / "few", SMALL["ml-1m"], 3)
    loaded = data.load("DiffRec", {**task(tmp_path, "ml-1m").settings, **few}, "cpu")
    assert loaded.model.n_items == 61 and loaded.counts()["users"] == 3


# ------------------------------------------------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("model", "rows"),
    [
        ("diffrec", {"training epoch": 3, "scoring": 5}),
        ("dreamrec", {"training epoch": 2, "generation": 5, "scoring": 4}),
        ("sequential", {"training epoch": 9, "evaluation": 8}),
    ],
)
def test_the_command_prints_the_table_and_writes_the_record(model, rows, small, tmp_path, capsys):
    assert main(["speed", model, "--repeats", "2", "--users", "40", "--json", "out/speed.json"]) == 0
    record = json.loads(Path("out/speed.json").read_text())
    printed = capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "something else was written"
    assert record["data"]["users"] == 40 and record["data"]["items"] == 60 and record["command"][1] == "speed"
    found = {part: sum(row["part"] == part for row in record["rows"]) for part in rows}
    assert found == rows and len(record["rows"]) == sum(rows.values())
    for row in record["rows"]:
        assert len(row["times"]) == 2 and min(row["times"]) > 0
        assert any(line.startswith(row["part"]) and row["variant"] in line for line in printed.splitlines())
    for row in record["agreement"]:
        assert row["value"] <= row["allowed"] and row["what"] in printed
    bare = [row for row in record["rows"] if row["variant"].endswith("alone")]
    assert bare and all(row["peak_mib"] is None and row["flop"] > 0 for row in bare)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dreamrek"], "unknown model 'dreamrek': did you mean 'dreamrec'"),
        (["diffrec", "--size", "zhihu"], "--size 'zhihu' is no size of diffrec; known: ml-1m, yelp, amazon-book"),
        (["diffrec", "--users", "0"], "--users '0': must be an integer >= 1"),
        (["diffrec", "--repeats", "few"], "--repeats 'few': must be an integer >= 1"),
        (["diffrec", "--threads", "-1"], "--threads '-1': must be an integer >= 1"),
        (["diffrec", "--parts", "all"], "--parts 'all': must be of scoring, training"),
        (["diffrec", "--device", "tpu"], "--device 'tpu': must be cpu or cuda"),
        (["diffrec", "--steps=3"], "unknown argument '--steps=3'"),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys, tmp_path):
    assert main(["speed", *arguments]) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"error: {message}") and err.count("\n") == 1 and out == ""
    assert not list(tmp_path.iterdir())


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit):
        main(["speed", "--help"])
    assert "recbole-diffusion speed diffrec --size amazon-book" in capsys.readouterr().out


def test_the_page_is_made_from_the_records(small, tmp_path, capsys):
    main(["speed", "diffrec", "--repeats", "1", "--parts", "scoring", "--json", "records/ml-1m-cpu.json"])
    file = Path("page.md")
    file.write_text(f"# Speed\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    where = ["--page", str(file), "--records", "records"]
    assert page.main([*where, "--check"]) == 1
    assert page.main(where) == 0 and page.main([*where, "--check"]) == 0
    text = file.read_text()
    assert "| scoring | 50 | StockDiffRec |" in text and "old" not in text and text.endswith("\nafter\n")
    file.write_text("# no marks\n")
    with pytest.raises(ValueError, match="must hold the lines"):
        page.main(where)


@pytest.mark.skipif(not (ROOT / "results").is_dir(), reason="a copy of the sources without the results")
def test_the_page_in_the_repository_is_in_step():
    where = ["--page", str(ROOT / "docs" / "performance.md"), "--records", str(ROOT / "results" / "speed")]
    assert page.main([*where, "--check"]) == 0


# ----------------------------------------------------------------------------------------------- a step waits for nothing


# At all positions DreamRec waits once a batch, to learn how many targets it has.
@pytest.mark.parametrize(
    ("model", "name", "settings"), [("DiffRec", "ml-1m", {}), ("DreamRec", "zhihu", {"train_positions": "last"})]
)
def test_no_training_step_waits_for_the_device(model, name, settings, tmp_path):
    """Tensors without values: whatever needs one, so would have to wait for a device, raises."""
    loaded = data.load(model, task(tmp_path, name).settings | settings, "cpu")
    batch = next(iter(loaded.train))
    with FakeTensorMode(allow_non_fake_inputs=True):
        loaded.model.calculate_loss(batch).backward()


def test_dense_rows_of_odd_histories():
    matrix = scipy.sparse.csr_matrix([[0, 0, 0], [0, 2, 3], [0, 0, 0], [5, 0, 0], [0, 0, 0]])
    users = torch.tensor([4, 1, 0, 3, 1, 2])
    assert torch.equal(InteractionRows(matrix).dense(users), torch.tensor(matrix.toarray(), dtype=torch.float)[users])
    empty = InteractionRows(scipy.sparse.csr_matrix((2, 3)))
    assert torch.equal(empty.dense(torch.tensor([1])), torch.zeros(1, 3))
