"""The modern recipe's trainer: engines, context dropout, epochs, the best network, teachers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from makemore.backprop.engine import BackpropEngine
from makemore.backprop.windows import WindowsEngine
from makemore.core.errors import UsageError
from makemore.core.layer import Layer
from makemore.data.encoding import encode_words
from makemore.data.word_list import Data, bundled_path, read_words
from makemore.lecture.evaluation import split_loss
from makemore.lecture.layers import Linear, Sequential
from makemore.lecture.words import Examples
from makemore.modern import trainer as trainer_module
from makemore.modern.recipe import ModernRecipe
from makemore.modern.soft_targets import SoftTargets
from makemore.modern.trainer import ModernTrainer
from makemore.parallel.engine import ParallelEngine
from makemore.pictures.recorder import Recorder
from makemore.run.catalog import network_plan
from makemore.training import trainer as training_loop
from makemore.training.engine import AutogradEngine, MakeEngine
from makemore.training.ensemble import Ensemble, EnsembleEngine
from makemore.training.processes import ONE_PROCESS, Processes
from makemore.training.trainer import NetworkFiles, RunContext

PLAN = network_plan("hierarchical", 8, 6, 16)


class NoFiles(NetworkFiles):
    """The files of a run without teachers."""


@pytest.fixture(scope="module")
def data() -> Data:
    return read_words(bundled_path()).data(8)


def modern(data: Data, engine: MakeEngine = BackpropEngine, **settings: Any) -> ModernTrainer:
    generator = Generator().manual_seed(7)
    network = PLAN.build(len(data.vocabulary), generator)
    recipe = ModernRecipe.for_examples(len(data.train), **settings)
    return ModernTrainer(network, data, recipe, generator, engine)


@pytest.mark.parametrize("targets", ["soft", "hard"])
def test_both_engines_give_the_same_losses(data: Data, targets: str) -> None:
    runs = [modern(data, engine, steps=30, targets=targets) for engine in (BackpropEngine, AutogradEngine)]
    losses = [torch.cat(list(run.run(30))) for run in runs]
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=2e-3)
    assert losses[0][-1] < losses[0][0]


class OwnEmbedding(Layer):
    """A user's own first layer: (B, T) -> (B, C)."""

    PARAMETERS = ("table",)

    def __init__(self, rows: int, dim: int) -> None:
        self.table = torch.randn(rows, dim) / 3

    def __call__(self, x: Tensor) -> Tensor:
        return self.table[x].mean(1)


@pytest.mark.parametrize("members", [1, 2])
def test_context_dropout_needs_an_embedding_and_says_so_at_once(data: Data, members: int) -> None:
    V = len(data.vocabulary)
    networks = [Sequential([OwnEmbedding(V, 9), Linear(9, V)]) for _ in range(members)]
    for each in networks:
        each.block_size = 8
    network = networks[0] if members == 1 else Ensemble(networks)
    kind = AutogradEngine if members == 1 else partial(EnsembleEngine, make_engine=AutogradEngine)
    with pytest.raises(
        UsageError,
        match=r"symbols are read by one Embedding, not by OwnEmbedding\(\): train with context_dropout=0"
        r" \(--context-dropout 0\)$",
    ):
        ModernTrainer(network, data, ModernRecipe(steps=20), Generator(), kind)
    with pytest.raises(UsageError, match="one Embedding"):
        AutogradEngine(networks[0]).gradients(*data.train[:3], torch.ones(3, 8))
    run = ModernTrainer(network, data, ModernRecipe(steps=20, context_dropout=0), Generator(), kind)
    (losses,) = run.run(20)
    assert losses[-1] < losses[0]


def test_recording_does_not_change_how_teachers_are_trained(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process trains a teacher of its own with the engine of one process, whether it records or not."""
    asked: list[Any] = []

    def no_teachers(*args: Any) -> list[Layer]:
        asked.append(args)
        return []

    monkeypatch.setattr(trainer_module, "trained_teachers", no_teachers)
    monkeypatch.setattr(ModernTrainer, "distil_from", lambda self, teachers: None)
    processes = Processes(2)
    make_engine = partial(ParallelEngine, make_engine=BackpropEngine, processes=processes)
    generator = Generator().manual_seed(7)
    network = PLAN.build(len(data.vocabulary), generator)
    recipe = ModernRecipe(teachers=1)
    run = ModernTrainer(network, data, recipe, generator, make_engine, processes=processes)
    run.engine = Recorder(run.engine, run.network, 1)
    run.prepare(RunContext(1, partial(PLAN.build, len(data.vocabulary)), BackpropEngine, NoFiles()))
    *_, make_trainer, others = asked[0]
    assert others is processes
    teacher = make_trainer(run.network, run.recipe, run.generator)
    assert type(teacher.engine) is BackpropEngine
    assert teacher.processes is ONE_PROCESS


def test_old_characters_are_dropped_and_the_last_two_never(data: Data) -> None:
    run = modern(data, context_dropout=0.6)
    assert run._drop_probs.tolist() == pytest.approx([0.6, 0.6, 0.6, 0.6, 0.4, 0.2, 0, 0])


def test_an_epoch_has_every_row_at_most_once(data: Data) -> None:
    run = modern(data, batch_size=1000)
    batches = [run._next_rows(1)[0] for _ in range(len(run.rows) // 1000)]
    assert len(torch.cat(batches).unique()) == 1000 * len(batches)
    assert sorted(run._next_rows(1)[0].tolist()) != sorted(batches[0].tolist())


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_batches_gathered_together_are_those_gathered_one_by_one(
    data: Data, dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the end of an epoch, with the same numbers from the generator."""

    def run(values_at_once: int) -> ModernTrainer:
        monkeypatch.setattr(trainer_module, "VALUES_AT_ONCE", values_at_once)
        run = modern(data, WindowsEngine, batch_size=4096, steps=35, context_dropout=dropout)
        for _ in run.run(35):
            pass
        return run

    together, alone = run(10**6), run(1)
    assert len(together.rows) < 35 * 4096
    assert torch.equal(together.losses, alone.losses)
    assert torch.equal(together.generator.get_state(), alone.generator.get_state())


def test_batches_of_consecutive_examples(data: Data) -> None:
    run = modern(data, batch_size=1000, consecutive=64)
    assert (run.recipe.targets, run.recipe.context_dropout) == ("hard", 0)
    seen = []
    for _ in range(len(run.rows) // 960):
        chunks = run._next_rows(1).view(15, 64)
        assert torch.equal(chunks, chunks[:, :1] + torch.arange(64))
        seen.append(chunks)
    rows = torch.cat(seen).flatten()
    assert len(rows.unique()) >= len(rows) - 64  # the last chunk has rows of the one before
    assert rows.max() < len(run.rows)
    needs = "--consecutive above 1 needs --targets hard and --context-dropout 0"
    with pytest.raises(UsageError, match=needs):
        modern(data, consecutive=64, context_dropout=0.1)


def test_consecutive_examples_of_long_contexts_with_both_engines_and_resumed(data: Data) -> None:
    """Steps on distinct windows against autograd's, and a run that stops in the middle of an epoch."""
    words = read_words(bundled_path()).words
    train = Examples(encode_words(data.vocabulary, words[:120]), 32)
    data = data._replace(train=train)

    def run(engine: MakeEngine) -> ModernTrainer:
        generator = Generator().manual_seed(7)
        network = network_plan("hierarchical", 32, 6, 16).build(len(data.vocabulary), generator)
        recipe = ModernRecipe.for_examples(len(train), steps=24, batch_size=128, consecutive=32)
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


@pytest.mark.full
def test_the_best_network_is_kept_and_training_stops_early(data: Data) -> None:
    """The learning rate is so high that the val loss rises."""
    run = modern(data, steps=100_000, patience=2, lr=0.5, lr_adamw=0.5)
    for _ in run.run(5):
        run.evaluate("val")
    assert run.step < 100_000
    vals = [e.val for e in run.evaluations]
    assert vals[-2:] == [v for v in vals[-2:] if v >= min(vals)]
    run.finish()
    assert split_loss(run.network, data.val) == pytest.approx(min(vals), abs=1e-6)


def test_the_last_network_is_kept_if_few_words_would_choose(data: Data) -> None:
    run = modern(data, steps=20, lr=0.5, lr_adamw=0.5, patience=1000, keep="last")
    for _ in run.run(5):
        run.evaluate("val")
    last = {name: tensor.clone() for name, tensor in run.network.state_dict().items()}
    run.best_val = 0.0
    assert run.finish() == ""
    assert all(torch.equal(tensor, last[name]) for name, tensor in run.network.state_dict().items())


def test_each_epoch_takes_the_next_shard_of_a_large_list(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the soft targets of that shard. After the last shard comes the first."""
    monkeypatch.setattr(trainer_module, "SHARD_EXAMPLES", len(data.train) // 3)
    run = modern(data, batch_size=4096)
    assert len(run.shards) == 3
    assert torch.equal(torch.cat([shard.symbols for shard in run.shards]), data.train.symbols)
    assert all(shard.symbols[-1] == 0 for shard in run.shards)
    seen = []
    for _ in range(5):
        index = run._next_rows(1)[0]
        rows = SoftTargets(run.shards[run._shard % 3], len(data.vocabulary), run.recipe.examples_per_row)
        for ours, expected in zip(run.rows[index], rows[index], strict=True):
            assert torch.equal(ours, expected)
        seen.append(run._shard)
        run._batches_done = 10**6
    assert seen == [0, 1, 2, 3, 4]


def test_a_run_with_shards_is_restored_to_the_bit(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "SHARD_EXAMPLES", len(data.train) // 6)
    monkeypatch.setattr(training_loop, "MAX_VAL_EXAMPLES", 2000)
    whole, first, second = (modern(data, batch_size=4096, steps=40) for _ in range(3))
    for run, steps in ((whole, 40), (first, 25)):
        run.recipe = replace(run.recipe, steps=40)
        for _ in run.run(5):
            run.evaluate("val")
            if run.step == steps:
                break
    assert first._shard > 0
    assert len(first.val_subset) < 2000 < len(data.val)
    second.network.load_state_dict(first.network.state_dict())
    second.generator.set_state(first.generator.get_state())
    second.restore(first.step, first.losses, first.evaluations, first.state())
    for _ in second.run(5):
        second.evaluate("val")
    assert torch.equal(whole.losses, second.losses)
    assert [e.val for e in whole.evaluations] == [e.val for e in second.evaluations]
    assert whole._shard == second._shard


def test_teachers_are_mixed_into_the_targets_of_every_shard(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module, "SHARD_EXAMPLES", len(data.train) // 3)
    run, teacher = modern(data, batch_size=4096), modern(data).network
    plain = modern(data, batch_size=4096)
    run.distil_from([teacher])
    for shard in (0, 1):
        for trainer in (run, plain):
            trainer._go_to_shard(shard)
        index = torch.arange(len(run.rows))[-1000:]  # of rare contexts
        assert torch.equal(run.rows[index][0], plain.rows[index][0])
        assert not torch.allclose(run.rows[index][1], plain.rows[index][1], atol=1e-3)


def trained_partly(data: Data, engine: MakeEngine, **settings: Any) -> ModernTrainer:
    """A run whose embedding, first hidden weight and last bias are frozen, with a BatchNorm in evaluation."""
    run = modern(data, engine, **settings)
    parameters = dict(run.network.named_parameters())
    for name in FROZEN:
        parameters[name].requires_grad = False
    layers: Any = run.network
    layers.layers[3].eval()
    return run


FROZEN = ("0.weight", "2.weight", "13.bias")


@pytest.mark.full
@pytest.mark.parametrize("engine", [AutogradEngine, BackpropEngine, WindowsEngine])
def test_frozen_parameters_stay_and_the_run_is_resumed_to_the_bit(data: Data, engine: MakeEngine) -> None:
    whole, first, second = (trained_partly(data, engine, steps=30) for _ in range(3))
    before = {name: tensor.clone() for name, tensor in whole.network.state_dict().items()}
    whole.engine = Recorder(whole.engine, whole.network, 10)
    for _ in whole.run(10):
        whole.evaluate("val")
    whole.finish()
    same = {name for name, tensor in whole.network.state_dict().items() if torch.equal(tensor, before[name])}
    assert same == {*FROZEN, "3.running_mean", "3.running_var"}
    recorded = {record.parameter for record in whole.engine.records()}
    assert recorded == {name for name, _ in whole.network.named_parameters()} - {*FROZEN}
    assert all(record.gradient > 0 for record in whole.engine.records())

    runs = first.run(10)
    for _ in range(2):
        next(runs)
        first.evaluate("val")
    second.network.load_state_dict(first.network.state_dict())
    second.generator.set_state(first.generator.get_state())
    second.restore(first.step, first.losses, first.evaluations, first.state())
    for _ in second.run(10):
        second.evaluate("val")
    second.finish()
    assert torch.equal(whole.losses, second.losses)
    for name, tensor in second.network.state_dict().items():
        assert torch.equal(tensor, whole.network.state_dict()[name]), name


def test_engines_train_the_same_parameters_alike(data: Data) -> None:
    runs = [trained_partly(data, engine, steps=20) for engine in (BackpropEngine, AutogradEngine)]
    losses = [torch.cat(list(run.run(20))) for run in runs]
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=2e-3)
