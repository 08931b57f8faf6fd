"""The modern recipe's trainer: both engines, dropping, epochs, the best network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from makemore import training as training_module
from makemore.backprop import BackpropEngine
from makemore.backprop.windows import WindowsEngine
from makemore.errors import UsageError
from makemore.evaluation import split_loss
from makemore.layers import Sequential
from makemore.modern import trainer as trainer_module
from makemore.modern.soft_targets import SoftTargets
from makemore.modern.trainer import ModernTrainer
from makemore.networks import network_plan
from makemore.parallel.engine import ParallelEngine
from makemore.parallel.processes import Processes
from makemore.pictures.recorder import Recorder
from makemore.recipes import ModernRecipe
from makemore.training import AutogradEngine, Engine, Run
from makemore.words import Data, Examples, bundled_path, read_words


@pytest.fixture(scope="module")
def data() -> Data:
    return read_words(bundled_path()).data(8)


def modern(
    data: Data, engine: Callable[[Sequential], Engine] = BackpropEngine, **recipe: object
) -> ModernTrainer:
    generator = torch.Generator().manual_seed(7)
    network = network_plan("hierarchical", 8, 6, 16).build(len(data.vocabulary), generator)
    fields = ModernRecipe.for_examples(len(data.train), **recipe)
    return ModernTrainer(network, data, fields, generator, engine)


@pytest.mark.parametrize("targets", ["soft", "hard"])
def test_modern_recipe_is_the_same_by_both_engines(data: Data, targets: str) -> None:
    runs = [modern(data, engine, steps=30, targets=targets) for engine in (BackpropEngine, AutogradEngine)]
    losses = [torch.cat(list(run.run(30))) for run in runs]
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=2e-3)
    assert losses[0][-1] < losses[0][0]


def test_what_is_recorded_does_not_change_who_trains_the_teachers(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process a teacher of its own, all alike: the others wait for the first one, which records."""
    asked: list[Any] = []
    monkeypatch.setattr(trainer_module, "trained_teachers", lambda *args: asked.append(args))
    monkeypatch.setattr(ModernTrainer, "learn_from", lambda self, teachers: None)
    engine = partial(ParallelEngine, make_engine=BackpropEngine, processes=Processes(2))
    run = modern(data, engine, teachers=1)
    run.engine = Recorder(run.engine, run.network, 1)
    run.prepare(Run(tmp_path, network_plan("hierarchical"), "", 1))
    *_, make_trainer, processes = asked[0]
    assert processes.number == 2
    assert type(make_trainer(run.network, run.recipe, run.generator).engine) is BackpropEngine


def test_old_characters_are_dropped_and_new_ones_never(data: Data) -> None:
    run = modern(data, drop=0.6)
    assert run._drop.tolist() == pytest.approx([0.6, 0.6, 0.6, 0.6, 0.4, 0.2, 0, 0])


def test_an_epoch_has_every_row_at_most_once(data: Data) -> None:
    run = modern(data, batch_size=1000)
    batches = []
    for _ in range(len(run.rows) // 1000):
        batches.append(run._next_batch())
        run._batches_done += 1
    assert len(torch.cat(batches).unique()) == 1000 * len(batches)
    assert sorted(run._next_batch().tolist()) != sorted(batches[0].tolist())


def test_batches_of_consecutive_examples(data: Data) -> None:
    run = modern(data, batch_size=1000, chunk=64)
    assert (run.recipe.targets, run.recipe.drop) == ("hard", 0)
    seen = []
    for _ in range(len(run.rows) // 960):
        chunks = run._next_batch().view(15, 64)
        assert torch.equal(chunks, chunks[:, :1] + torch.arange(64))
        seen.append(chunks)
        run._batches_done += 1
    rows = torch.cat(seen).flatten()
    assert len(rows.unique()) >= len(rows) - 64  # the last chunk has rows of the one before
    assert rows.max() < len(run.rows)
    with pytest.raises(UsageError, match="consecutive examples need --targets hard --drop 0"):
        modern(data, chunk=64, drop=0.1)


def test_consecutive_examples_of_long_contexts_by_both_engines_and_resumed(data: Data) -> None:
    """The step on distinct windows against the lecture's, and a run that stops in the middle of an epoch."""
    words = read_words(bundled_path()).words
    train = Examples(data.vocabulary.encode_all(words[:120]), 32)
    data = data._replace(train=train)

    def run(engine: Callable[[Sequential], Engine]) -> ModernTrainer:
        generator = torch.Generator().manual_seed(7)
        network = network_plan("hierarchical", 32, 6, 16).build(len(data.vocabulary), generator)
        recipe = ModernRecipe.for_examples(len(train), steps=24, batch_size=128, chunk=32)
        return ModernTrainer(network.to(dtype=torch.float64), data, recipe, generator, engine)

    runs = [run(WindowsEngine), run(AutogradEngine)]
    losses = [torch.cat(list(r.run(24))) for r in runs]
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-5)
    stopped = run(WindowsEngine)
    next(stopped.run(10))
    resumed = run(WindowsEngine)
    resumed.network.load_state_dict(stopped.network.state_dict())
    state = {name: tensor.clone() for name, tensor in stopped.state().items()}
    resumed.restore(stopped.step, stopped.losses, stopped.evaluations, state)
    resumed.generator.set_state(stopped.generator.get_state())
    assert torch.equal(torch.cat([stopped.losses, *resumed.run(24)]), losses[0])


def test_the_best_network_is_kept_and_training_stops_early(data: Data) -> None:
    """With so high a learning rate at the end of a cycle cut short, val rises."""
    run = modern(data, steps=100_000, patience=2, lr=0.5, lr_other=0.5)
    for _ in run.run(5):
        run.evaluate("val")
    assert run.step < 100_000
    vals = [e.val for e in run.evaluations]
    assert vals[-2:] == [v for v in vals[-2:] if v >= min(vals)]
    run.finish()
    assert split_loss(run.network, data.val) == pytest.approx(min(vals), abs=1e-6)


def test_a_large_list_is_gone_through_part_by_part(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each epoch is of the next part, with soft targets of its own; then it begins anew."""
    monkeypatch.setattr(trainer_module, "PART", len(data.train) // 3)
    run = modern(data, batch_size=4096)
    assert len(run.parts) == 3
    assert torch.equal(torch.cat([part.symbols for part in run.parts]), data.train.symbols)
    assert all(part.symbols[-1] == 0 for part in run.parts)
    seen = []
    for _ in range(5):
        index = run._next_batch()
        rows = SoftTargets(run.parts[run._part % 3], len(data.vocabulary), run.recipe.examples_per_row)
        for ours, expected in zip(run.rows[index], rows[index], strict=True):
            assert torch.equal(ours, expected)
        seen.append(run._part)
        run._batches_done = 10**6
    assert seen == [0, 1, 2, 3, 4]


def test_a_run_in_parts_is_restored_to_the_bit(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "PART", len(data.train) // 6)
    monkeypatch.setattr(training_module, "WATCHED", 2000)
    whole, first, second = (modern(data, batch_size=4096, steps=40) for _ in range(3))
    for run, steps in ((whole, 40), (first, 25)):
        run.recipe = replace(run.recipe, steps=40)
        for _ in run.run(5):
            run.evaluate("val")
            if run.step == steps:
                break
    assert first._part > 0
    assert len(first.watched) < 2000 < len(data.val)
    second.network.load_state_dict(first.network.state_dict())
    second.generator.set_state(first.generator.get_state())
    second.restore(first.step, first.losses, first.evaluations, first.state())
    for _ in second.run(5):
        second.evaluate("val")
    assert torch.equal(whole.losses, second.losses)
    assert [e.val for e in whole.evaluations] == [e.val for e in second.evaluations]
    assert whole._part == second._part


def test_teachers_are_asked_about_every_part(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "PART", len(data.train) // 3)
    run, teacher = modern(data, batch_size=4096), modern(data).network
    plain = modern(data, batch_size=4096)
    run.learn_from([teacher])
    for part in (0, 1):
        for trainer in (run, plain):
            trainer._go_to_part(part)
        index = torch.arange(len(run.rows))[-1000:]  # of rare contexts
        assert torch.equal(run.rows[index][0], plain.rows[index][0])
        assert not torch.allclose(run.rows[index][1], plain.rows[index][1], atol=1e-3)
