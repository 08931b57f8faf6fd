"""The training loop against the lecture's loop, and the lecture's printed losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Generator

from makemore.backprop.engine import BackpropEngine
from makemore.backprop.windows import WindowsEngine
from makemore.core.layer import stochastic_layers
from makemore.data.word_list import Data, WordList, bundled_path, load_words, read_words
from makemore.lecture.evaluation import split_loss
from makemore.lecture.layers import Embedding, FlattenConsecutive, Linear, Sequential, Tanh
from makemore.modern.recipe import ModernRecipe
from makemore.modern.trainer import ModernTrainer
from makemore.run.catalog import NETWORKS, RECIPES, Plan, network_plan
from makemore.training.engine import AutogradEngine, Engine
from makemore.training.recipe import LectureRecipe
from makemore.training.trainer import Trainer

EngineMaker = Callable[[Sequential], Engine]
ENGINES: list[EngineMaker] = [BackpropEngine, AutogradEngine]

LECTURE_LOSSES = {0: 3.3167, 1: 3.2927, 2: 3.2276, 3: 3.1838, 4: 3.1727}
"""Seed 42; step 0 is printed in the lecture, the next four come from its program."""


@pytest.fixture(scope="module")
def data() -> Data:
    return read_words(bundled_path()).data(8)


def trainer(
    data: Data,
    recipe: LectureRecipe,
    plan: Plan = NETWORKS["hierarchical"],
    engine: EngineMaker = AutogradEngine,
) -> Trainer:
    generator = torch.Generator().manual_seed(42)
    return Trainer(plan.build(len(data.vocabulary), generator), data, recipe, generator, engine)


def lecture_losses(network: Sequential, data: Data, recipe: LectureRecipe) -> list[float]:
    """Lecture cell 10 with torch's own generator and with all contexts in memory."""
    Xtr, Ytr = data.train[:]
    losses = []
    for i in range(recipe.steps):
        ix = torch.randint(0, Xtr.shape[0], (recipe.batch_size,))
        Xb, Yb = Xtr[ix], Ytr[ix]
        logits = network(Xb)
        loss = F.cross_entropy(logits, Yb)
        for p in network.parameters():
            p.grad = None
        loss.backward()
        lr = recipe.lr if i < recipe.lr_drop else recipe.lr_final
        for p in network.parameters():
            p.data += -lr * p.grad
        losses.append(loss.item())
    return losses


@pytest.mark.full
@pytest.mark.parametrize("name", NETWORKS)
def test_losses_equal_the_lectures_loop_to_the_bit(name: str) -> None:
    """A layer that draws random numbers draws them from its own generator, the same in both."""
    data = read_words(bundled_path()).data(NETWORKS[name].block_size)
    recipe = LectureRecipe(steps=40, lr_drop=30)
    ours = trainer(data, recipe, NETWORKS[name])
    torch.manual_seed(42)
    reference = NETWORKS[name].build(len(data.vocabulary))
    for path, layer in stochastic_layers(ours.network).items():
        assert layer.generator is not None
        stochastic_layers(reference)[path].generator = layer.generator.clone_state()
    expected = lecture_losses(reference, data, recipe)
    for _ in ours.run(7):
        pass
    assert ours.losses.tolist() == expected
    for key, tensor in ours.network.state_dict().items():
        assert torch.equal(tensor, reference.state_dict()[key]), key


def test_a_layer_that_is_used_twice_is_updated_once() -> None:
    linear = Linear(4, 4, bias=False)
    layers = [Embedding(5, 2), FlattenConsecutive(2), linear, Tanh(), linear, Linear(4, 5, bias=False)]
    network = Sequential(layers).to(dtype=torch.float64)
    for p in network.parameters():
        p.requires_grad = True
    assert [name for name, _ in network.named_parameters()] == ["0.weight", "2.weight", "5.weight"]
    assert [*network.state_dict()] == ["0.weight", "2.weight", "4.weight", "5.weight"]
    before = [p.detach().clone() for p in network.parameters()]
    X, Y = torch.randint(0, 5, (1, 9, 2)), torch.randint(0, 5, (1, 9))
    AutogradEngine(network).sgd_steps(X, Y, [0.1])
    for p, value in zip(network.parameters(), before, strict=True):
        assert p.grad is not None
        torch.testing.assert_close(p.detach(), value - 0.1 * p.grad)


def test_results_do_not_depend_on_where_a_run_yields(data: Data) -> None:
    whole, parts = (trainer(data, LectureRecipe(steps=60)) for _ in range(2))
    (losses,) = whole.run(60)
    pieces = [len(piece) for piece in parts.run(25)]
    assert pieces == [25, 25, 10]
    assert torch.equal(losses, parts.losses)
    assert torch.equal(whole.generator.get_state(), parts.generator.get_state())


@pytest.mark.parametrize("engine", [*ENGINES, WindowsEngine])
def test_a_run_with_random_layers_is_resumed_to_the_bit(data: Data, engine: EngineMaker) -> None:
    """However many batches were drawn in one call before."""
    plan, recipe = network_plan("dropout", 8, 6, 16), LectureRecipe(steps=60)
    whole, first, second = (trainer(data, recipe, plan, engine) for _ in range(3))
    (losses,) = whole.run(60)
    runs = first.run(25)
    assert len(next(runs)) == 25
    assert torch.equal(losses[:25], first.losses)
    second.network.load_state_dict(first.network.state_dict())
    second.generator.set_state(first.generator.get_state())
    second.restore(first.step, first.losses, first.evaluations, first.state())
    for _ in second.run(7):
        second.evaluate("val")  # draws nothing
    assert torch.equal(losses, second.losses)
    for key, tensor in second.network.state_dict().items():
        assert torch.equal(tensor, whole.network.state_dict()[key]), key


@pytest.mark.parametrize(
    ("kind", "recipe", "message"),
    [
        (Trainer, ModernRecipe(), "^Trainer cannot train by a ModernRecipe: use ModernTrainer$"),
        (
            ModernTrainer,
            LectureRecipe(),
            r"^ModernTrainer needs a ModernRecipe, such as .*, got LectureRecipe",
        ),
        (Trainer, "lecture", r"^Trainer needs a recipe, such as LectureRecipe\(\), got 'lecture'$"),
        (Trainer, LectureRecipe, r"^Trainer needs a recipe, such as LectureRecipe\(\), got <class"),
        (
            ModernTrainer,
            ModernRecipe,
            r"^ModernTrainer needs a ModernRecipe, such as ModernRecipe\(\), got <class",
        ),
    ],
)
def test_a_trainer_refuses_a_recipe_that_it_does_not_train_by(
    kind: Any, recipe: Any, message: str, data: Data
) -> None:
    network = network_plan("mlp", 8, 2, 2).build(len(data.vocabulary))
    with pytest.raises(TypeError, match=message):
        kind(network, data, recipe, Generator())


def test_a_trainer_refuses_a_list_of_words_in_place_of_its_data() -> None:
    words = load_words()
    network = network_plan("mlp", 8, 2, 2).build(len(words.vocabulary))
    with pytest.raises(
        TypeError, match=r"^Trainer needs Data, such as words\.data\(block_size\), got a WordList$"
    ):
        Trainer(network, words, LectureRecipe(), Generator())


def test_every_recipe_names_its_trainer() -> None:
    for recipe, trainer_path in RECIPES.values():
        assert trainer_path.endswith(f":{recipe.trainer}")


def test_few_large_batches_are_drawn_in_one_call(data: Data) -> None:
    run = trainer(data, LectureRecipe(steps=5, batch_size=30_000), network_plan("mlp", 8, 2, 2))
    assert [len(piece) for piece in run.run(1000)] == [2, 2, 1]


def test_the_learning_rate_drops_at_lr_drop() -> None:
    recipe = LectureRecipe()
    assert [recipe.lr_at(i) for i in (0, 149_999, 150_000, 199_999)] == [0.1, 0.1, 0.01, 0.01]


def test_evaluations_are_kept(data: Data) -> None:
    run = trainer(data, LectureRecipe(steps=10))
    for _ in run.run(10):
        pass
    evaluation = run.evaluate("val")
    assert (evaluation.step, evaluation.train) == (10, None)
    assert evaluation.val == pytest.approx(split_loss(run.network, data.val), abs=1e-6)
    assert run.evaluations == [evaluation]


def test_training_lowers_the_loss(data: Data) -> None:
    run = trainer(data, LectureRecipe(steps=500, lr_drop=400))
    for _ in run.run(500):
        pass
    assert run.losses[:10].mean() > 3.0
    assert run.losses[-100:].mean() < 2.7


@pytest.mark.parametrize("engine", ENGINES)
def test_a_lecture_run_begins_with_the_lectures_losses(lecture_words: WordList, engine: EngineMaker) -> None:
    """Lecture cell 10: 3.3167 at step 0 with seed 42."""
    run = trainer(lecture_words.data(8), LectureRecipe(steps=100), NETWORKS["wavenet"], engine)
    for _ in run.run(100):
        pass
    for step, loss in LECTURE_LOSSES.items():
        assert run.losses[step].item() == pytest.approx(loss, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_whole_lecture_run_has_the_lectures_losses(lecture_words: WordList, engine: EngineMaker) -> None:
    """Lecture cells 10-13: log lines at 0, 10,000 and 20,000; train 1.769, val 1.993 (1.9937 measured)."""
    run = trainer(lecture_words.data(8), LectureRecipe(), NETWORKS["wavenet"], engine)
    for _ in run.run(10_000):
        pass
    logged = {0: 3.3167, 10_000: 2.0576, 20_000: 2.0723}
    assert {step: run.losses[step].item() for step in logged} == pytest.approx(logged, abs=5e-4)
    final = run.evaluate("train", "val", "test")
    assert final.train == pytest.approx(1.7690, abs=5e-4)
    assert final.val == pytest.approx(1.9937, abs=5e-4)
