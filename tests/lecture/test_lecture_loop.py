"""The lecture's loop as it is read, against the loop that can be resumed."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import TensorDataset

from makemore import AutogradEngine, BackpropEngine, WindowsEngine, split_loss, train
from makemore.data.word_list import WordList, load_words
from makemore.lecture import networks
from makemore.lecture.words import Vocabulary, build_dataset, split_words
from makemore.run.catalog import network_plan
from makemore.training.recipe import LectureRecipe
from makemore.training.trainer import Trainer

ROWS = {
    "mlp": networks.mlp,
    "mlp-8": networks.mlp_8,
    "hierarchical-bug": networks.hierarchical_bug,
    "hierarchical": networks.hierarchical,
    "wavenet": networks.wavenet,
}


@pytest.mark.parametrize("name", ROWS)
def test_the_resumable_trainer_has_its_losses_to_the_bit(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    block_size = network_plan(name).block_size
    data = load_words().data(block_size)
    torch.manual_seed(42)
    network = ROWS[name](len(data.vocabulary))
    losses = train(network, data.train, max_steps=40)
    generator = torch.Generator().manual_seed(42)
    twin = network_plan(name).build(len(data.vocabulary), generator)
    trainer = Trainer(twin, data, LectureRecipe(steps=40, lr_drop=30), generator, AutogradEngine)
    for _ in trainer.run(7):
        pass
    assert torch.equal(losses, trainer.losses)
    for tensor, other in zip(network.state_dict().values(), twin.state_dict().values(), strict=True):
        assert torch.equal(tensor, other)
    assert capsys.readouterr().out == f"      0/     40: {losses[0]:.4f}\n"


def test_the_same_losses_from_stored_contexts() -> None:
    words = split_words(load_words().words[:2000])[0]
    vocabulary = Vocabulary(words)
    X, Y = build_dataset(words, vocabulary)
    examples = WordList.of(load_words().words[:2000]).data(8).train
    both = []
    for dataset in (TensorDataset(X, Y), examples):
        torch.manual_seed(42)
        network = networks.wavenet(len(vocabulary))
        both.append(train(network, dataset, max_steps=5))
    assert torch.equal(*both)


def test_a_training_run_learns_and_draws_from_the_generator_given() -> None:
    data = WordList.of(load_words().words[:300]).data(8)
    torch.manual_seed(1)
    network = networks.hierarchical(len(data.vocabulary))
    before = split_loss(network, data.train)
    state = torch.get_rng_state()
    losses = train(network, data.train, max_steps=200, generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), state)
    assert split_loss(network, data.train) < before - 0.5
    assert losses.shape == (200,)
    assert not losses.requires_grad


@pytest.mark.parametrize("engine", [AutogradEngine, BackpropEngine, WindowsEngine])
def test_every_engine_begins_as_the_loop_does(engine: type[AutogradEngine], lecture_words: WordList) -> None:
    """On the lecture's list: its 3.3167 at step 0."""
    data = lecture_words.data(8)
    torch.manual_seed(42)
    losses = train(networks.wavenet(27), data.train, max_steps=30)
    generator = torch.Generator().manual_seed(42)
    network = network_plan("wavenet").build(27, generator)
    trainer = Trainer(network, data, LectureRecipe(steps=30, lr_drop=22), generator, engine)
    for _ in trainer.run(30):
        pass
    torch.testing.assert_close(trainer.losses, losses, rtol=2e-5, atol=2e-5)
    assert f"{losses[0]:.4f}" == "3.3167"
