"""A network and data that do not belong together are refused by name, or give the right value."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from makemore.backprop.engine import BackpropEngine
from makemore.backprop.windows import WindowsEngine
from makemore.core.errors import DataError, UsageError
from makemore.core.fit import symbol_count
from makemore.core.graph import context_length
from makemore.core.layer import Layer
from makemore.data.word_list import WordList, load_words
from makemore.export.torch_module import from_module, to_module
from makemore.inference.convolution import Convolution
from makemore.inference.generation import generate, generate_scored
from makemore.inference.predictor import as_predictor
from makemore.inference.scoring import log_likelihoods, loss
from makemore.lecture.evaluation import split_loss
from makemore.lecture.layers import Embedding, FlattenConsecutive, Linear, Sequential
from makemore.lecture.sampling import sample_word
from makemore.lecture.training import train
from makemore.lecture.words import Examples, Vocabulary
from makemore.modern.recipe import ModernRecipe
from makemore.modern.trainer import ModernTrainer
from makemore.page.building import page_html
from makemore.parallel.engine import ParallelEngine
from makemore.pictures.activations import draw_activations
from makemore.pictures.batchnorm import draw_batchnorm
from makemore.pictures.embedding import draw_embedding
from makemore.pictures.gradients import draw_gradients
from makemore.pictures.nodes import draw_nodes
from makemore.pictures.probabilities import draw_probabilities
from makemore.pictures.summary import summary
from makemore.pictures.tree import draw_tree
from makemore.run.catalog import network_plan
from makemore.run.model_file import Model, load_model, save_model
from makemore.training.engine import AutogradEngine, MakeEngine
from makemore.training.ensemble import Ensemble, EnsembleEngine
from makemore.training.processes import ONE_PROCESS
from makemore.training.recipe import LectureRecipe
from makemore.training.trainer import Trainer

LOSSES: list[Callable[[Any, Examples], float]] = [loss, split_loss]


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model()


@pytest.fixture(scope="module")
def without_c() -> WordList:
    """The list of the report: without the letter c, so that all symbols from there on are shifted."""
    return WordList.of([word for word in load_words().words[:3000] if "c" not in word])


NAMED = "the vocabulary is not the network's: 'c' is missing from it"


@pytest.mark.parametrize("evaluate", LOSSES)
def test_the_loss_on_a_list_with_another_alphabet(
    model: Model, without_c: WordList, evaluate: Callable[[Layer, Examples], float]
) -> None:
    """It was 4.028 without a word. By the model's own vocabulary it is 2.177."""
    with pytest.raises(DataError, match=NAMED):
        evaluate(model.network, without_c.data(8).val)
    right = without_c.data(8, model.vocabulary)
    assert evaluate(model.network, right.val) == pytest.approx(2.178, abs=1e-3)
    assert evaluate(model.network, without_c.encoded_by(model.vocabulary).data(8).val) == pytest.approx(
        2.178, abs=1e-3
    )
    assert right.vocabulary is model.vocabulary
    # The number of symbols alone gives it away if the characters are not known.
    unknown = copy.copy(model.network)
    unknown.characters = None
    with pytest.raises(DataError, match="it has 26 symbols, the network 27"):
        evaluate(unknown, without_c.data(8).val)


def test_a_list_encoded_by_another_vocabulary(without_c: WordList) -> None:
    vocabulary = Vocabulary([*without_c.vocabulary.characters, "c", "é", "".join(map(chr, range(400, 700)))])
    encoded = without_c.encoded_by(vocabulary)
    assert encoded.words == without_c.words
    assert encoded.split() == without_c.split()
    assert encoded.symbols.dtype == torch.int16
    own, other = without_c.data(3), without_c.data(3, vocabulary)
    assert [len(split) for split in own[1:6]] == [len(split) for split in other[1:6]]
    assert encoded.number_in_training(["anna", "emma"]) == without_c.number_in_training(["anna", "emma"])
    assert without_c.encoded_by(Vocabulary(without_c.vocabulary.characters)) is without_c
    with pytest.raises(DataError, match=r"missing from the vocabulary 'abdef.*': 'c', 'é'$"):
        WordList.of(["céline", "ann", "bob", "kim", "lee", "ada"]).data(8, without_c.vocabulary)


def other_alphabet(model: Model) -> Vocabulary:
    """As many characters as the model's, one of them another."""
    return Vocabulary(model.vocabulary.characters.replace("c", "ç"))


USES: dict[str, Callable[[Model, Vocabulary], object]] = {
    "sample_word": lambda m, v: sample_word(m.network, v, Generator()),
    "generate": lambda m, v: list(generate(m.network, v, Generator(), 2)),
    "generate_scored": lambda m, v: list(generate_scored(m.network, v, Generator(), 2)),
    "a convolution": lambda m, v: list(generate(Convolution.from_network(m.network), v, Generator(), 2)),
    "a predictor": lambda m, v: log_likelihoods(as_predictor(m.network), v, ["emma"]),
    "log_likelihoods": lambda m, v: log_likelihoods(m.network, v, ["emma"]),
    "an ensemble": lambda m, v: log_likelihoods(Ensemble([m.network] * 2), v, ["emma"]),
    "an ensemble's loss": lambda m, v: split_loss(Ensemble([m.network] * 2), some_examples(v)),
    "a copy": lambda m, v: loss(copy.deepcopy(m.network), some_examples(v)),
    "from_module": lambda m, v: loss(from_module(to_module(m.network)), some_examples(v)),
    "draw_tree": lambda m, v: draw_tree(m.network, v, "emma"),
    "draw_probabilities": lambda m, v: draw_probabilities(m.network, v, "emma"),
    "draw_embedding": lambda m, v: draw_embedding(m.network, v),
    "page_html": lambda m, v: page_html(Model(m.network, v, m.plan)),
    "save_model": lambda m, v: save_model(Model(m.network, v, m.plan), Path("not-written.safetensors")),
    "Trainer": lambda m, v: trainer(Trainer, LectureRecipe(), m.network, v),
    "ModernTrainer": lambda m, v: trainer(ModernTrainer, ModernRecipe(), m.network, v),
    "train": lambda m, v: train(m.network, some_examples(v), max_steps=1),  # type: ignore[arg-type]
}


def some_examples(vocabulary: Vocabulary, block_size: int = 8) -> Examples:
    return Examples(torch.tensor([5, 13, 13, 1, 0]), block_size, vocabulary.characters)


def trainer(
    kind: Any, recipe: Any, network: Layer, vocabulary: Vocabulary, block_size: int = 8, **more: Any
) -> Trainer:
    words = ["emma", "ann", "bob", "kim", "lee", "ada"]
    data = WordList.of(words).data(block_size, vocabulary)
    made: Trainer = kind(network, data, recipe, Generator(), **more)
    return made


@pytest.mark.parametrize("use", USES)
def test_another_vocabulary_is_refused(model: Model, use: str) -> None:
    before = copy.deepcopy(model.network.state_dict())
    with pytest.raises(DataError, match=NAMED) as caught:
        USES[use](model, other_alphabet(model))
    assert "\n" not in str(caught.value)
    smaller = Vocabulary(model.vocabulary.characters.replace("z", ""))
    with pytest.raises(DataError, match="'z' is missing from it"):
        USES[use](model, smaller)
    larger = Vocabulary(model.vocabulary.characters + "ß")
    with pytest.raises(DataError, match="the network does not know its 'ß'"):
        USES[use](model, larger)
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not Path("not-written.safetensors").exists()


def test_who_notes_the_characters(model: Model, tmp_path: Path) -> None:
    vocabulary = model.vocabulary
    plan = network_plan("mlp", 8, 3, 4)
    networks = [plan.build(27, Generator().manual_seed(i)) for i in range(4)]
    assert networks[0].characters is None
    train(networks[0], some_examples(vocabulary), max_steps=1)
    trainer(Trainer, LectureRecipe(), networks[1], vocabulary)
    ensemble = Ensemble(networks[2:])
    make_engine = partial(EnsembleEngine, make_engine=BackpropEngine)
    trainer(ModernTrainer, ModernRecipe(), ensemble, vocabulary, make_engine=make_engine)
    for network in (*networks, ensemble, model.network):
        assert network.characters == vocabulary.characters
    save_model(Model(ensemble, vocabulary, plan), tmp_path / "ensemble.safetensors")
    read = load_model(tmp_path / "ensemble.safetensors").network
    assert isinstance(read, Ensemble)
    assert [member.characters for member in read.members] == [vocabulary.characters] * 2
    other = plan.build(27)
    other.characters = other_alphabet(model).characters
    with pytest.raises(DataError, match="the vocabulary is not the network's"):
        Ensemble([networks[0], other])
    with pytest.raises(ValueError, match=r"one number of symbols, got \[26, 27\]"):
        Ensemble([networks[0], plan.build(26)])


def test_the_number_of_symbols_is_that_of_the_last_layer() -> None:
    embedding = [Embedding(30, 4), FlattenConsecutive(2)]
    assert symbol_count(Sequential([*embedding, Linear(8, 27)])) == 27
    assert symbol_count(Sequential(embedding)) is None
    assert symbol_count(Ensemble([Sequential([*embedding, Linear(8, 27)])])) == 27
    assert symbol_count(Sequential([])) is None


LENGTHS = "the network needs contexts of 8 symbols, got contexts of {}"


@pytest.mark.parametrize("block_size", [3, 4, 16])
@pytest.mark.parametrize("name", ["hierarchical", "mlp-8", "wavenet-paper", "gated"])
def test_contexts_of_another_length_are_refused(name: str, block_size: int) -> None:
    network = network_plan(name, 8, 4, 6).build(27, Generator().manual_seed(1))
    vocabulary = Vocabulary("abcdefghijklmnopqrstuvwxyz")
    expected = LENGTHS.format(block_size)
    before = copy.deepcopy(network.state_dict())
    examples = some_examples(vocabulary, block_size)
    for evaluate in LOSSES:
        with pytest.raises(UsageError, match=expected):
            evaluate(network, examples)
    with pytest.raises(UsageError, match=expected):
        loss(Convolution.from_network(network), examples)
    with pytest.raises(UsageError, match=expected):
        loss(Ensemble([network] * 2), examples)
    with pytest.raises(UsageError, match=expected):
        train(network, examples, max_steps=1)
    for kind, recipe in ((Trainer, LectureRecipe()), (ModernTrainer, ModernRecipe())):
        with pytest.raises(UsageError, match=expected):
            trainer(kind, recipe, network, vocabulary, block_size)
    X, Y = torch.ones((6, block_size), dtype=torch.int64), torch.ones(6, dtype=torch.int64)
    makers: list[MakeEngine] = [AutogradEngine, BackpropEngine, WindowsEngine]
    makers += [partial(EnsembleEngine, make_engine=each) for each in makers]
    makers += [partial(ParallelEngine, make_engine=each, processes=ONE_PROCESS) for each in makers[:3]]
    for make_engine in makers:
        engine = make_engine(network)
        for targets in (Y, torch.full((6, 27), 1 / 27)):
            with pytest.raises(UsageError, match=expected):
                engine.gradients(X, targets)
            with pytest.raises(UsageError, match=expected):
                engine.gradients(X, targets, torch.ones(X.shape))
        with pytest.raises(UsageError, match=expected):
            engine.sgd_steps(X.unsqueeze(0), Y.unsqueeze(0), [0.1])
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[key])


@pytest.mark.parametrize(
    "use",
    [
        lambda m: loss(m, some_examples(m.vocabulary, 8)),
        lambda m: split_loss(m, some_examples(m.vocabulary, 8)),
        lambda m: log_likelihoods(m, m.vocabulary, ["ann"]),
        lambda m: next(generate(m, m.vocabulary, Generator())),
        lambda m: sample_word(m, m.vocabulary, Generator()),
        lambda m: train(m, some_examples(m.vocabulary, 8)),
        lambda m: trainer(Trainer, LectureRecipe(), m, m.vocabulary),
        lambda m: trainer(ModernTrainer, ModernRecipe(), m, m.vocabulary),
        AutogradEngine,
        BackpropEngine,
        WindowsEngine,
        Convolution.from_network,
        context_length,
        to_module,
        summary,
        lambda m: draw_nodes(m, "ann"),
        lambda m: draw_tree(m, m.vocabulary, "ann"),
        lambda m: draw_probabilities(m, m.vocabulary, "ann"),
        lambda m: draw_embedding(m, m.vocabulary),
        lambda m: draw_activations(m, some_examples(m.vocabulary, 8)[:][0]),
        lambda m: draw_batchnorm(m, some_examples(m.vocabulary, 8)[:][0]),
        lambda m: draw_gradients([], m),
        lambda m: Ensemble([m]),
    ],
)
def test_a_model_in_place_of_its_network_is_named(use: Callable[[Any], object], model: Model) -> None:
    with pytest.raises(TypeError, match=r"^a network is needed, .*, not a Model: pass its \.network$"):
        use(model)


def test_a_network_in_place_of_a_model_is_named(model: Model, tmp_path: Path) -> None:
    for name, use in (
        ("page_html", page_html),
        ("save_model", lambda network: save_model(network, tmp_path / "model")),
    ):
        with pytest.raises(
            TypeError, match=rf"^{name} needs a Model\(network, vocabulary\), got a Sequential$"
        ):
            use(model.network)
    with pytest.raises(TypeError, match=r"not a TorchModule: from_module gives the network"):
        loss(to_module(model.network), some_examples(model.vocabulary, 8))


class Halves(Layer):
    """The sum of the positions of each half of the context: it leaves two. It declares nothing."""

    def __call__(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        self.out = x.view(B, 2, T // 2, C).sum(2)  # (B, T, C) -> (B, 2, C)
        return self.out


def test_a_network_with_positions_left_is_refused_by_one_message() -> None:
    """Where autograd and torch would speak of target sizes, and a sum would be taken over the wrong one."""
    network = Sequential([Embedding(27, 4), Halves(), Linear(4, 27)])
    network.block_size = 8
    vocabulary = load_words().vocabulary
    examples = some_examples(vocabulary, 8)
    X, Y = examples[:]

    def message(batch: int, left: int = 2) -> str:
        return (
            rf"^a network must give logits \(B, vocab_size\), one row for each context, but this one gives"
            rf" \({batch}, {left}, 27\) for contexts \({batch}, 8\); concatenate what is left, as"
            rf" FlattenConsecutive\({left}\) does$"
        )

    for evaluate in LOSSES:
        with pytest.raises(UsageError, match=message(len(X))):
            evaluate(network, examples)
    with pytest.raises(UsageError, match=message(1)):
        sample_word(network, vocabulary, Generator())
    with pytest.raises(UsageError, match=message(256)):
        next(generate(network, vocabulary, Generator()))
    with pytest.raises(UsageError, match=message(len(X))):
        AutogradEngine(network).gradients(X, Y)
    with pytest.raises(UsageError, match=message(1)):
        train(network, examples, max_steps=1)
    with pytest.raises(UsageError, match=message(1)):
        draw_tree(network, vocabulary, "ann")
    for kind, recipe in ((Trainer, LectureRecipe()), (ModernTrainer, ModernRecipe())):
        with pytest.raises(UsageError, match=message(1)):
            trainer(kind, recipe, network, vocabulary, 8)
    network.layers.append(FlattenConsecutive(2))
    network.layers.append(Linear(54, 27))
    assert loss(network, examples) == pytest.approx(split_loss(network, examples))


def test_a_bigram_network_is_told_to_drop_its_only_position() -> None:
    """Its context is one character, and its output (B, 1, V)."""
    layers = [Embedding(27, 27)]
    vocabulary = load_words().vocabulary
    examples = some_examples(vocabulary, 1)
    for use in (
        lambda network: loss(network, examples),
        lambda network: split_loss(network, examples),
        lambda network: BackpropEngine(network).gradients(*examples[:]),
        lambda network: WindowsEngine(network).gradients(*examples[:]),
        lambda network: next(generate(network, vocabulary, Generator())),
    ):
        with pytest.raises(UsageError, match=r"\(\d+, 1, 27\).*as FlattenConsecutive\(1\) does$"):
            use(Sequential(layers))
    network = Sequential([*layers, FlattenConsecutive(1)])
    assert loss(network, examples) == pytest.approx(split_loss(network, examples), abs=1e-6)
    assert BackpropEngine(network).gradients(*examples[:]).item() == pytest.approx(loss(network, examples))


class MeanOverPositions(Layer):
    """Takes contexts of any length, and does not declare what it does with them."""

    def __call__(self, x: Tensor) -> Tensor:
        self.out = x.mean(dim=1)  # (B, T, C) -> (B, C)
        return self.out


def test_a_network_that_declares_no_length_takes_any() -> None:
    network = Sequential([Embedding(27, 4), MeanOverPositions(), Linear(4, 27)])
    vocabulary = Vocabulary("abcdefghijklmnopqrstuvwxyz")
    for block_size in (3, 8):
        examples = some_examples(vocabulary, block_size)
        assert loss(network, examples) == pytest.approx(split_loss(network, examples))
        AutogradEngine(network).gradients(*examples[:])
