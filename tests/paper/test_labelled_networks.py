"""Networks that take labels: every engine, the convolution, decoders and scores against the plain network."""

from __future__ import annotations

import copy
import random
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from makemore.backprop.engine import BackpropEngine
from makemore.backprop.windows import WindowsEngine, WindowsStep
from makemore.core.errors import DataError, UsageError
from makemore.core.layer import LabelColumn, Layer
from makemore.data.labels import Labels
from makemore.data.word_list import WordList
from makemore.export.torch_module import to_module
from makemore.inference.conditioning import LabelDistribution, conditioned
from makemore.inference.convolution import Convolution
from makemore.inference.decoder import CachedDecoder, FullContextDecoder
from makemore.inference.generation import Filters, Sample, generate, generate_scored
from makemore.inference.predictor import ConvolutionPredictor, EnsemblePredictor, as_predictor
from makemore.inference.scoring import log_likelihoods, loss
from makemore.lecture.evaluation import split_loss
from makemore.lecture.layers import Embedding, Linear
from makemore.lecture.sampling import sample_word
from makemore.modern.soft_targets import SoftTargets
from makemore.paper.layers import LabelledEmbedding
from makemore.run.catalog import NETWORKS, build_network, network_plan
from makemore.training.engine import AutogradEngine
from makemore.training.ensemble import Ensemble, EnsembleEngine

VOCAB, SIZES = 9, (4, 3)
COLUMNS = (LabelColumn("country", ("DE", "FR", "US")), LabelColumn("gender", ("F", "M")))


def labelled_network(name: str, **sizes: int) -> Layer:
    """A network of the catalogue in float64, with labels whose rows are not zeros and other statistics."""
    generator = Generator().manual_seed(1)
    network = network_plan(name, **sizes).build(VOCAB, generator, SIZES).to(torch.float64)
    for name, tensor in network.state_dict().items():
        if name.endswith("label_weight"):
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        if name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return network


def contexts(batch: int, length: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Contexts with labels in front, and targets."""
    generator = Generator().manual_seed(seed)
    labels = torch.stack([torch.randint(size, (batch,), generator=generator) for size in SIZES], dim=1)
    symbols = torch.randint(VOCAB, (batch, length), generator=generator)
    return torch.cat([labels, symbols], 1), torch.randint(VOCAB, (batch,), generator=generator)


def words_with_labels(number: int = 60, seed: int = 0) -> WordList:
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefgh", k=rng.randint(1, 7))) for _ in range(number)]
    return WordList.of(
        words,
        labels={
            "country": [rng.choice(["DE", "FR", "US", None]) for _ in words],
            "gender": [rng.choice(["F", "M"]) for _ in words],
        },
    )


def test_the_layer_adds_the_rows_of_its_labels_at_each_position() -> None:
    layer = LabelledEmbedding(VOCAB, 5, SIZES)
    X, _ = contexts(6, 4)
    plain = Embedding(VOCAB, 5)
    plain.weight = layer.weight
    assert torch.equal(layer(X), plain(X[:, 2:])), "an untrained network does not depend on labels"
    layer.label_weight.normal_()
    expected = plain(X[:, 2:]) + (layer.label_weight[X[:, 0]] + layer.label_weight[4 + X[:, 1]]).unsqueeze(1)
    torch.testing.assert_close(layer(X), expected)
    mask = torch.tensor([[0.0, 1, 1, 0]]).expand(6, 4)
    expected = plain(X[:, 2:]) * mask.unsqueeze(2) + (expected - plain(X[:, 2:]))
    torch.testing.assert_close(layer.with_dropped(X, mask), expected)


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (torch.tensor([[0, 0, VOCAB]]), IndexError, "rows 0 to 8, got index 9"),
        (torch.tensor([[4, 0, 1]]), IndexError, "labels 0 to 3 in column 0, got label 4"),
        (torch.tensor([[0, -1, 1]]), IndexError, "labels 0 to 2 in column 1, got label -1"),
        (torch.tensor([[0, 0]]), ValueError, r"\(B, 2 \+ T\), got \(1, 2\)"),
        (torch.tensor([0, 0, 1]), ValueError, r"got \(3,\)"),
        (torch.tensor([[0.0, 0, 1]]), TypeError, "needs int64 indices"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(X: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        LabelledEmbedding(VOCAB, 5, SIZES)(X)


@pytest.mark.parametrize("bad", [[0, 0, VOCAB], [4, 0, 1], [0, -1, 1], [0, 3, 1]])
@pytest.mark.parametrize("make_engine", [BackpropEngine, WindowsEngine, AutogradEngine])
def test_engines_refuse_labels_and_symbols_outside_their_tables(make_engine, bad: list[int]) -> None:
    engine = make_engine(labelled_network("hierarchical"))
    X, Y = contexts(30, 8)
    engine.gradients(X, Y)
    X[3, :3] = torch.tensor(bad)
    with pytest.raises(IndexError, match=r"has rows 0 to 8, got|has labels 0 to"):
        engine.gradients(X, Y)


@pytest.mark.parametrize("dropping", [False, True])
@pytest.mark.parametrize(
    "name", ["mlp", "hierarchical-bug", "wavenet", "gated", "layernorm", "wavenet-paper"]
)
def test_hand_derived_gradients_are_those_of_autograd(name: str, dropping: bool) -> None:
    a = labelled_network(name)
    b, length = copy.deepcopy(a), a.block_size
    plain, engine = AutogradEngine(a), BackpropEngine(b)
    for step in range(3):
        X, Y = contexts(40, length, step)
        mask = (torch.rand(40, length) < 0.8).double() if dropping else None
        torch.testing.assert_close(
            plain.gradients(X, Y, mask), engine.gradients(X, Y, mask), rtol=0, atol=1e-12
        )
        for (key, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=0, atol=1e-11, msg=key)
        assert a.layers[0].label_weight.grad.abs().sum() > 0
        lrs = [0.1, 0.05]
        losses = [e.sgd_steps(X.expand(2, -1, -1), Y.expand(2, -1), lrs) for e in (plain, engine)]
        torch.testing.assert_close(*losses, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dropping", [False, True])
@pytest.mark.parametrize(
    ("name", "sizes"), [("wavenet", {}), ("wavenet-paper", {"stacks": 2, "block_size": 7})]
)
def test_windows_are_equal_only_with_equal_labels(
    name: str, sizes: dict, dropping: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("makemore.backprop.windows.MIN_WORK", 0)
    monkeypatch.setattr("makemore.backprop.windows.MIN_SAVING", 0)
    a = labelled_network(name, **sizes)
    b, length = copy.deepcopy(a), a.block_size
    plain, engine = AutogradEngine(a), WindowsEngine(b)
    computed = []
    find = WindowsStep.find_windows
    monkeypatch.setattr(
        WindowsStep, "find_windows", lambda step, X: computed.append(find(step, X)) or computed[-1]
    )
    for step in range(3):
        X, Y = contexts(50, length, step)
        X[:, 2:-2] = X[0, 2:-2]  # so that windows repeat
        mask = (torch.rand(50, length) < 0.8).double() if dropping else None
        torch.testing.assert_close(
            plain.gradients(X, Y, mask), engine.gradients(X, Y, mask), rtol=0, atol=1e-12
        )
        for (key, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=0, atol=1e-11, msg=key)
        losses = [e.sgd_steps(X.unsqueeze(0), Y.unsqueeze(0), [0.1]) for e in (plain, engine)]
        torch.testing.assert_close(*losses, rtol=0, atol=1e-11)
    assert computed == [True] * 6


def test_a_network_without_labels_has_the_same_values_with_them() -> None:
    for name in NETWORKS:
        plan = network_plan(name)
        plain = plan.build(VOCAB, Generator().manual_seed(3))
        labelled = plan.build(VOCAB, Generator().manual_seed(3), SIZES)
        own = labelled.state_dict()
        assert own.keys() - plain.state_dict().keys() == {"0.label_weight"}
        assert all(torch.equal(t, own[key]) for key, t in plain.state_dict().items())


def trained_like(name: str, words: WordList) -> Layer:
    """A labelled network for the words' vocabulary and labels, in evaluation."""
    generator = Generator().manual_seed(2)
    network = network_plan(name).build(len(words.vocabulary), generator, words.labels.sizes).to(torch.float64)
    network.layers[0].label_weight.detach().copy_(
        torch.randn(network.layers[0].label_weight.shape, generator=generator)
    )
    network.characters, network.labels = words.vocabulary.characters, words.labels.columns
    return network.eval()


@pytest.mark.parametrize("name", ["mlp", "wavenet", "gated", "wavenet-paper", "hierarchical-bug"])
def test_losses_and_scores_are_those_of_the_layers(name: str) -> None:
    words = words_with_labels()
    network = trained_like(name, words)
    examples = words.data(network.block_size).train
    assert loss(network, examples) == pytest.approx(split_loss(network, examples), abs=1e-12)
    row = 2
    scores = log_likelihoods(network, words.vocabulary, words.words, words.labels, row)
    labels = dict(zip((c.name for c in words.labels.columns), words.labels.names(row), strict=True))
    plain = conditioned(network, labels)
    assert not any(isinstance(layer, LabelledEmbedding) for layer in plain.modules())
    expected = log_likelihoods(plain, words.vocabulary, words.words)
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["wavenet", "wavenet-paper"])
def test_both_decoders_and_conv1d_give_the_networks_logits(name: str) -> None:
    words = words_with_labels()
    network = trained_like(name, words)
    convolution = Convolution.from_network(network)
    labels = words.labels.rows[torch.tensor([0, 3, 1, 3])]
    symbols = torch.randint(1, len(words.vocabulary), (4, 6), generator=Generator().manual_seed(4))
    decoders = CachedDecoder(convolution), FullContextDecoder(network)
    context = torch.zeros(4, network.block_size, dtype=torch.int64)
    for decoder in decoders:
        decoder.start(4, labels)
    each = convolution.logits(torch.cat([symbols, symbols[:, :1]], 1), labels)
    before = torch.zeros(4, dtype=torch.int64)
    for position in range(6):
        with network.evaluating():
            expected = network(torch.cat([labels, context], dim=1))
        torch.testing.assert_close(each[:, position], expected, rtol=0, atol=1e-10)
        for decoder in decoders:
            logits, ids = decoder.append(before)
            torch.testing.assert_close(logits[ids], expected, rtol=0, atol=1e-10)
        before = symbols[:, position]
        context = torch.cat([context[:, 1:], before.unsqueeze(1)], dim=1)
    for decoder in decoders:
        decoder.select(torch.tensor([2, 0]))
        logits, ids = decoder.append(before[[2, 0]])
        with network.evaluating():
            expected = network(torch.cat([labels, context], dim=1))[[2, 0]]
        torch.testing.assert_close(logits[ids], expected, rtol=0, atol=1e-10)


def test_a_blend_is_the_mean_of_the_rows_and_other_columns_stay() -> None:
    words = words_with_labels()
    network = trained_like("wavenet", words)
    blend = conditioned(network, {"country": {"FR": 3, "US": 1}})
    assert [column.name for column in blend.labels] == ["gender"]
    table = network.layers[0].label_weight
    mean = 0.75 * table[2] + 0.25 * table[3]
    torch.testing.assert_close(blend.layers[0].weight, network.layers[0].weight + mean)
    both = conditioned(blend, {"gender": "F"})
    X, _ = contexts(5, 8)
    X[:, 1] = 1
    with network.evaluating(), both.evaluating():
        one = conditioned(network, {"country": "DE", "gender": "F"})(X[:, 2:])
        X[:, 0] = 1
        torch.testing.assert_close(one, network(X))
        assert both(X[:, 2:]).shape == one.shape


def test_an_ensemble_takes_labels_as_its_members_do() -> None:
    words = words_with_labels()
    members = [trained_like("wavenet", words) for _ in range(2)]
    members[1].layers[0].label_weight.detach().mul_(-1)
    ensemble = Ensemble(members)
    data = words.data(8)
    assert ensemble.labels == words.labels.columns
    assert isinstance(as_predictor(ensemble), EnsemblePredictor)
    assert loss(ensemble, data.val) == pytest.approx(split_loss(ensemble, data.val), abs=1e-9)
    plain = conditioned(ensemble, {"country": "DE", "gender": "M"})
    assert isinstance(plain, Ensemble)
    assert log_likelihoods(plain, words.vocabulary, ["abc"]).isfinite().all()
    engines = [
        EnsembleEngine(copy.deepcopy(ensemble.train()), make) for make in (AutogradEngine, WindowsEngine)
    ]
    X, Y = data.train[:64]
    losses = [engine.gradients(X, Y) for engine in engines]
    torch.testing.assert_close(*losses, rtol=0, atol=1e-10)


def test_soft_targets_are_the_distributions_of_equal_contexts_with_equal_labels() -> None:
    words = words_with_labels(200)
    examples = words.data(3).train
    rows = SoftTargets(examples, len(words.vocabulary), examples_per_row=10**6)
    X, Y = examples[:]
    soft_X, soft_Y = rows[torch.arange(len(rows))]
    assert len(soft_X) == len(torch.unique(X, dim=0))
    for x, y in zip(soft_X, soft_Y, strict=True):
        follow = Y[(x == X).all(1)]
        expected = F.one_hot(follow, len(words.vocabulary)).float().mean(0)
        torch.testing.assert_close(y / y.sum(), expected)


def test_the_distribution_of_the_columns_that_are_not_chosen() -> None:
    rows = torch.tensor([[0, 1], [1, 1], [1, 2], [2, 2]])
    labels = Labels(COLUMNS, rows, torch.tensor([1, 2, 3, 4]))
    everything = LabelDistribution.of(labels)
    assert torch.equal(everything.rows, rows)
    torch.testing.assert_close(everything.probs, torch.tensor([0.1, 0.2, 0.3, 0.4]).double())
    german = LabelDistribution.of(labels, {"country": "DE"})
    assert german.rows.tolist() == [[1], [2]]
    torch.testing.assert_close(german.probs, torch.tensor([0.4, 0.6]).double())
    blend = LabelDistribution.of(labels, {"country": {"DE": 1, "FR": 1}})
    torch.testing.assert_close(blend.probs, torch.tensor([2 / 9, 7 / 9]).double())
    rare = LabelDistribution.of(labels, {"country": "US"})
    torch.testing.assert_close(rare.probs, torch.tensor([0.3, 0.7]).double())
    u = torch.tensor([0.0, 0.399, 0.4, 0.999], dtype=torch.float64)
    assert german.draw(u).tolist() == [0, 0, 1, 1]
    assert german.names == [("F",), ("M",)]
    nothing_left = LabelDistribution.of(labels, {"country": "DE", "gender": "F"})
    assert nothing_left.rows.shape == (1, 0)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"countri": "DE"}, "no label column 'countri' (did you mean 'country'?)"),
        ({"country": "Francia"}, "no label 'Francia' in its column 'country'; it has DE, FR, US"),
        ({"country": {"DE": -1}}, "share of 'DE' must be 0 or more"),
        ({"country": {"DE": 0}}, "must have a sum above 0"),
    ],
)
def test_labels_that_the_network_does_not_have_are_refused(labels: dict, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        conditioned(trained_like("mlp", words_with_labels()), labels)
    assert message in str(caught.value)


def test_case_does_not_matter_for_a_label_that_is_clear() -> None:
    network = trained_like("mlp", words_with_labels())
    one, other = (conditioned(network, {"country": name, "gender": "f"}) for name in ("de", "DE"))
    assert torch.equal(one.layers[0].weight, other.layers[0].weight)


def test_data_of_other_labels_are_refused_by_name() -> None:
    words = words_with_labels()
    network = trained_like("wavenet", words)
    unlabelled = WordList.of(words.words)
    other = WordList.of(words.words, labels={"country": ["XX"] * 60, "gender": ["F"] * 60})
    for examples, message in (
        (unlabelled.data(8).val, r"the network needs labels \(country, gender\), and none are given"),
        (other.data(8).val, "label column 1 'country' has other labels than the network's"),
    ):
        for evaluate in (loss, split_loss):
            with pytest.raises(DataError, match=message):
                evaluate(network, examples)
    plain = network_plan("wavenet").build(len(words.vocabulary))
    with pytest.raises(DataError, match=r"have labels \(country, gender\), but the network was made without"):
        loss(plain, words.data(8).val)
    with pytest.raises(DataError, match="needs labels"):
        sample_word(network, words.vocabulary, Generator())
    with pytest.raises(UsageError, match=r"contexts of 2 labels and 8 symbols, got 8 columns"):
        AutogradEngine(network).gradients(torch.zeros(4, 8, dtype=torch.int64), torch.zeros(4).long())
    assert isinstance(as_predictor(network), ConvolutionPredictor)


def test_networks_of_the_catalogue_with_labels_in_an_ensemble() -> None:
    network = build_network(network_plan("mlp"), 2, VOCAB, Generator().manual_seed(1), SIZES)
    assert network(contexts(5, 3)[0]).shape == (5, VOCAB)
    assert isinstance(network.members[0].layers[-1], Linear)


@pytest.mark.full
@pytest.mark.full
@pytest.mark.parametrize("name", ["wavenet", "wavenet-paper"])
def test_a_network_with_labels_is_exported(name: str, tmp_path: Path) -> None:
    """By torch.export and to ONNX, for batches of any size."""
    network = labelled_network(name).to(torch.float32).eval()
    module = to_module(network)
    X, _ = contexts(5, network.block_size)
    with torch.no_grad():
        expected = network(X)
    assert torch.equal(module(X), expected)
    program = torch.export.export(module, (X[:2],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.testing.assert_close(program.module()(X), expected, rtol=1e-5, atol=1e-5)
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    onnxruntime = pytest.importorskip("onnxruntime")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (X[:2],), tmp_path / "network.onnx", dynamic_shapes=({0: "batch"},), verbose=False
        )
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx")
    (logits,) = session.run(None, {session.get_inputs()[0].name: X.numpy()})
    torch.testing.assert_close(torch.tensor(logits), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["wavenet", "hierarchical-bug"])
def test_words_with_drawn_labels_do_not_depend_on_batches_or_parts(name: str) -> None:
    """And a word is the one that the network conditioned on its labels gives for the same random numbers."""
    words = words_with_labels()
    network = trained_like(name, words)
    labels = LabelDistribution.of(words.labels)
    filters = Filters(max_length=5)

    def sampled(**more) -> list[Sample]:
        generator = Generator().manual_seed(5)
        samples = generate_scored(network, words.vocabulary, generator, 2500, filters, labels=labels, **more)
        return list(samples)

    whole = sampled()
    assert sampled(batch=1024) == whole
    assert sampled(part=range(1500, 2000)) == whole[1500:2000]
    assert {sample.labels for sample in whole} <= set(labels.names)
    shares = Counter(sample.labels for sample in whole)
    for row, prob in zip(labels.names, labels.probs.tolist(), strict=True):
        assert shares[row] / 2500 == pytest.approx(prob, abs=0.15)
    for sample in whole[:20]:
        row = labels.names.index(sample.labels)
        expected = log_likelihoods(network, words.vocabulary, [sample.word], words.labels, row)
        assert sample.log_likelihood == pytest.approx(expected.item(), abs=1e-9)


def test_sampling_with_all_labels_chosen_is_sampling_without_labels() -> None:
    words = words_with_labels()
    network = trained_like("wavenet", words)
    chosen = {"country": "FR", "gender": "M"}
    plain = conditioned(network, chosen)
    samples = list(generate(plain, words.vocabulary, Generator().manual_seed(1), 50))
    assert len(samples) == 50
    with pytest.raises(DataError, match="needs labels"):
        next(generate(network, words.vocabulary, Generator()))
    with pytest.raises(DataError, match="have labels"):
        next(generate(plain, words.vocabulary, Generator(), labels=LabelDistribution.of(words.labels)))
