"""BatchNorm over several processes, and the twin of a network that has it, with every engine."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from thread_processes import ThreadProcesses, in_threads
from torch import Generator, Tensor

from makemore.backprop import windows
from makemore.backprop.engine import BackpropEngine
from makemore.backprop.windows import WindowsEngine, WindowsStep
from makemore.core.errors import UsageError
from makemore.core.layer import Layer
from makemore.data.word_list import Data, bundled_path, read_words
from makemore.lecture.layers import (
    BatchNorm1d,
    Embedding,
    FlattenConsecutive,
    HistoricBatchNorm1d,
    Linear,
    Sequential,
    Tanh,
)
from makemore.modern.optimizers import AdamW
from makemore.modern.recipe import ModernRecipe
from makemore.modern.trainer import ModernTrainer
from makemore.paper.layers import Dropout, ResidualBlock
from makemore.parallel.batchnorm import (
    ParallelBatchNorm1d,
    ParallelHistoricBatchNorm1d,
    with_total_statistics,
)
from makemore.parallel.engine import ParallelEngine
from makemore.run.catalog import network_plan
from makemore.training.engine import AutogradEngine, MakeEngine
from makemore.training.ensemble import Ensemble, EnsembleEngine
from makemore.training.processes import ONE_PROCESS
from makemore.training.recipe import LectureRecipe
from makemore.training.trainer import Trainer

ENGINES: list[MakeEngine] = [AutogradEngine, BackpropEngine, WindowsEngine]


@pytest.fixture
def on_windows(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each step that looked for distinct windows, whether it was computed on them. Without limits."""
    monkeypatch.setattr(windows, "MIN_WORK", 0)
    monkeypatch.setattr(windows, "MIN_SAVING", 0)
    taken: list[bool] = []
    find_windows = WindowsStep.find_windows

    def noted(step: WindowsStep, X: Tensor) -> bool:
        taken.append(find_windows(step, X))
        return taken[-1]

    monkeypatch.setattr(WindowsStep, "find_windows", noted)
    return taken


def catalog(name: str) -> Sequential:
    network = network_plan(name, n_embd=5, n_hidden=8).build(9, Generator().manual_seed(1))
    for p in network.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=Generator().manual_seed(p.numel()))
    return network.to(dtype=torch.float64)


def nested() -> Sequential:
    """BatchNorm within blocks of other layers, and on the embeddings."""
    with_batchnorm = [Linear(8, 6), BatchNorm1d(6), Tanh()]
    block = ResidualBlock(FlattenConsecutive(2), with_batchnorm, Sequential([Linear(6, 4), BatchNorm1d(4)]))
    layers = [Embedding(9, 4), BatchNorm1d(4), block, Sequential([FlattenConsecutive(4), Linear(16, 9)])]
    network = Sequential(layers).to(dtype=torch.float64)
    for p in network.parameters():
        p.requires_grad = True
    return network


def ensemble() -> Ensemble:
    return Ensemble([catalog("wavenet"), catalog("hierarchical-bug")])


NETWORKS = {
    "wavenet": partial(catalog, "wavenet"),
    "hierarchical-bug": partial(catalog, "hierarchical-bug"),
    "nested": nested,
    "no batchnorm": partial(catalog, "wavenet-paper"),
}


def batch(seed: int, B: int = 32) -> tuple[Tensor, Tensor, Tensor]:
    """Contexts, targets and keep_mask."""
    generator = Generator().manual_seed(seed)
    X = torch.randint(0, 9, (B, 8), generator=generator)
    keep_mask = (torch.rand((B, 8), generator=generator) < 0.8).double()
    return X, torch.randint(0, 9, (B,), generator=generator), keep_mask


def copies(network: Layer, number: int) -> list[Layer]:
    """The network and copies of it. Threads must not build networks: they would share torch's generator."""
    return [network, *(copy.deepcopy(network) for _ in range(number - 1))]


def assert_equal(a: Layer, b: Layer, tolerance: float, gradients: bool = True) -> None:
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}")
    for (name, x), y in zip(a.named_parameters(), b.parameters(), strict=True):
        if gradients:
            torch.testing.assert_close(
                x.grad, y.grad, rtol=0, atol=tolerance, msg=lambda m, name=name: f"{name}.grad: {m}"
            )


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("make_engine", ENGINES)
def test_three_threads_give_the_steps_of_one(
    make_engine: MakeEngine, name: str, on_windows: list[bool]
) -> None:
    """In shares of 10, 11 and 11 examples: gradients, running statistics and SGD steps."""
    one, *networks = copies(NETWORKS[name](), 4)
    plain = AutogradEngine(one)
    expected = [plain.gradients(*batch(0)), plain.gradients(*batch(1)[:2])]
    gradients_of_one = copy.deepcopy([p.grad for p in one.parameters()])
    X, Y, _ = zip(*(batch(seed) for seed in range(2, 6)), strict=True)
    expected += plain.sgd_steps(torch.stack(X), torch.stack(Y), [0.1, 0.1, 0.1, 0.01])

    def run(processes: ThreadProcesses) -> tuple[Layer, list[Tensor], list[Tensor | None]]:
        network = networks[processes.rank]
        engine = ParallelEngine(network, make_engine, processes)
        losses = [engine.gradients(*batch(0)), engine.gradients(*batch(1)[:2])]
        grads = copy.deepcopy([p.grad for p in network.parameters()])
        losses += engine.sgd_steps(torch.stack(X), torch.stack(Y), [0.1, 0.1, 0.1, 0.01])
        return network, losses, grads

    results = in_threads(3, run)
    for network, losses, grads in results:
        torch.testing.assert_close(torch.stack(losses), torch.stack(expected), rtol=0, atol=1e-10)
        torch.testing.assert_close(grads, gradients_of_one, rtol=0, atol=1e-10)
        assert_equal(network, one, 1e-10, gradients=False)
        assert_equal(network, results[0][0], 0)
    if make_engine is WindowsEngine:
        assert on_windows == ([] if name == "hierarchical-bug" else [True] * 3 * 6)


@pytest.mark.parametrize("make_engine", ENGINES)
def test_two_threads_with_one_example_each(make_engine: MakeEngine) -> None:
    """A process may have one row only: there is a variance over all of them."""
    one, *networks = copies(NETWORKS["wavenet"](), 3)
    X, Y, _ = batch(0, B=2)
    AutogradEngine(one).gradients(X, Y)

    def run(processes: ThreadProcesses) -> Layer:
        network = networks[processes.rank]
        ParallelEngine(network, make_engine, processes).gradients(X, Y)
        return network

    for network in in_threads(2, run):
        for p, q in zip(network.parameters(), one.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-6, atol=1e-8)


def twin_networks(engine: Any) -> list[Layer]:
    """The networks on which the engines within an engine work."""
    inner = engine.engine
    return [each.network for each in inner.engines] if isinstance(inner, EnsembleEngine) else [inner.network]


def assert_shared(network: Layer, engine: ParallelEngine) -> None:
    """The tensors of network and twin are the same objects, and the twin has all of them."""
    twins = twin_networks(engine)
    own = [tensor for twin in twins for tensor in (*twin.named_parameters(), *twin.named_buffers())]
    ids = {id(tensor) for _, tensor in own}
    assert ids == {id(tensor) for _, tensor in (*network.named_parameters(), *network.named_buffers())}
    batchnorms = [layer for twin in twins for layer in twin.modules() if isinstance(layer, BatchNorm1d)]
    assert all(isinstance(layer, ParallelBatchNorm1d) for layer in batchnorms)
    assert len(batchnorms) == sum(isinstance(layer, BatchNorm1d) for layer in network.modules())


@pytest.mark.full
@pytest.mark.parametrize("name", [*NETWORKS, "ensemble"])
@pytest.mark.parametrize("make_engine", ENGINES)
def test_network_and_twin_have_the_same_tensors(
    make_engine: MakeEngine, name: str, on_windows: list[bool]
) -> None:
    """After everything that may be done to the network between steps."""
    build, make = NETWORKS.get(name, ensemble), make_engine
    if name == "ensemble":
        make = partial(EnsembleEngine, make_engine=make_engine)
    network, start = build(), build().state_dict()
    engine = ParallelEngine(network, make, ONE_PROCESS)

    def check(seed: int) -> None:
        """The next step is that of autograd on a copy of the network, and trains the network itself."""
        reference = copy.deepcopy(network)
        plain: Any = AutogradEngine(reference)
        if name == "ensemble":
            plain = EnsembleEngine(reference, AutogradEngine)
        X, Y, keep_mask = batch(seed)
        keep_mask = keep_mask.to(network.parameters()[0].dtype)
        losses = plain.gradients(X, Y, keep_mask), engine.gradients(X, Y, keep_mask)
        exact = 1e-10 if network.parameters()[0].dtype == torch.float64 else 1e-4
        torch.testing.assert_close(*losses, rtol=0, atol=exact)
        assert_equal(network, reference, exact)
        assert_shared(network, engine)

    check(0)
    with torch.no_grad():
        for p in network.parameters():
            p.sub_(p.grad, alpha=0.1)
    check(1)
    parameters = dict(network.named_parameters())
    AdamW(parameters, {}).step(0.01, 1)
    check(2)
    best = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    network.load_state_dict(start)
    check(3)
    network.to(dtype=torch.float32)
    check(4)
    network.to(dtype=torch.float64).load_state_dict(best)
    check(5)
    with network.evaluating():
        network(batch(6)[0])
    check(6)
    network.eval()
    check(7)
    assert network.training
    for layer in network.modules():  # replaced tensors
        for key in layer.PARAMETERS:
            if getattr(layer, key) is not None:
                setattr(layer, key, getattr(layer, key).detach().clone().requires_grad_())
        for key in layer.BUFFERS:
            setattr(layer, key, getattr(layer, key).clone())
    check(8)
    if isinstance(network, Sequential):  # a replaced layer
        network.layers[0] = copy.deepcopy(network.layers[0])
        check(9)


def test_the_network_itself_stays_as_it_is() -> None:
    """Its layers are the lecture's, and copies of it know nothing of processes."""
    network = NETWORKS["nested"]()
    before = [type(layer) for layer in network.modules()]
    attributes = [{*vars(layer)} - {"out", "z"} for layer in network.modules()]
    engine = ParallelEngine(network, AutogradEngine, ONE_PROCESS)
    engine.gradients(*batch(0))
    assert [type(layer) for layer in network.modules()] == before
    assert [{*vars(layer)} - {"out", "z", "training"} for layer in network.modules()] == attributes
    assert str(copy.deepcopy(network)) == str(NETWORKS["nested"]())
    network = catalog("wavenet-paper")
    assert with_total_statistics(network, ONE_PROCESS.all_gather) is network


class OwnBatchNorm(BatchNorm1d):
    """A subclass may compute something else."""


class InADict(Layer):
    """A layer that holds others otherwise than as attributes, or in a list or tuple."""

    def __init__(self, *layers: Layer) -> None:
        self.layers = dict(enumerate(layers))

    def __call__(self, x: Tensor) -> Tensor:
        for layer in self.layers.values():
            x = layer(x)
        self.out = x
        return self.out

    def named_children(self) -> Iterator[tuple[str, Layer]]:
        for i, layer in self.layers.items():
            yield str(i), layer


class InATuple(Layer):
    """A layer that holds others in a tuple."""

    def __init__(self, *layers: Layer) -> None:
        self.layers = layers

    def __call__(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def test_a_batchnorm_in_a_tuple_is_replaced() -> None:
    network = InATuple(Linear(2, 3), BatchNorm1d(3))
    twin = with_total_statistics(network, ONE_PROCESS.all_gather)
    assert [type(layer) for layer in twin.layers] == [Linear, ParallelBatchNorm1d]
    assert twin.layers[1].gamma is network.layers[1].gamma
    assert [type(layer) for layer in network.layers] == [Linear, BatchNorm1d]
    x = torch.randn(5, 2)
    torch.testing.assert_close(twin(x), network(x))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (OwnBatchNorm(6), r"OwnBatchNorm\(6\) cannot take its statistics over several processes"),
        (InADict(BatchNorm1d(6)), r"BatchNorm1d\(6\) cannot take its statistics over several processes"),
        (Dropout(0.1), r"Dropout\(0.1\) draws random numbers"),
    ],
)
def test_layers_that_several_processes_cannot_share_are_refused(layer: Layer, message: str) -> None:
    network = Sequential([Embedding(9, 3), FlattenConsecutive(2), Linear(6, 6), layer, Linear(6, 9)])
    with pytest.raises(UsageError, match=f"^{message}: train this network with one process$"):
        ParallelEngine(network, AutogradEngine, ONE_PROCESS)


def parallel_layer(layer: BatchNorm1d) -> ParallelBatchNorm1d:
    twin = with_total_statistics(layer, ONE_PROCESS.all_gather)
    assert isinstance(twin, ParallelBatchNorm1d)
    return twin


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (BatchNorm1d(6), (4, 5), r"ParallelBatchNorm1d\(6\) needs \(B, 6\) or \(B, T, 6\), got \(4, 5\)"),
        (BatchNorm1d(6), (6,), r"got \(6,\)"),
        (BatchNorm1d(6), (4, 3, 1), r"got \(4, 3, 1\)"),
        (HistoricBatchNorm1d(6, 3), (4, 2, 6), r"needs \(B, 3, 6\), got \(4, 2, 6\)"),
        (HistoricBatchNorm1d(6), (4, 2, 6), r"needs \(B, 6\), got \(4, 2, 6\)"),
    ],
)
@pytest.mark.parametrize("mode", [True, False])
def test_inputs_of_another_shape_are_refused(
    layer: BatchNorm1d, shape: tuple[int, ...], message: str, mode: bool
) -> None:
    with pytest.raises(ValueError, match=message):
        parallel_layer(layer).train(mode)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (BatchNorm1d(6), (9, 6)),
        (BatchNorm1d(6), (9, 3, 6)),
        (HistoricBatchNorm1d(6, 3), (9, 3, 6)),
        (HistoricBatchNorm1d(6), (9, 6)),
    ],
)
def test_evaluation_and_declarations_are_those_of_the_layer(
    layer: BatchNorm1d, shape: tuple[int, ...]
) -> None:
    layer.to(dtype=torch.float64)
    plain = copy.deepcopy(layer)
    parallel = parallel_layer(layer)
    x = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(parallel(x), plain(x), rtol=0, atol=1e-12)  # in training
    assert_equal(layer, plain, 1e-12, gradients=False)
    layer.load_state_dict(plain.state_dict())
    assert torch.equal(parallel.eval()(x), plain.eval()(x))
    if layer.running_mean.ndim == 1:
        for ours, theirs in zip(parallel.affine(), plain.affine(), strict=True):
            assert torch.equal(ours, theirs)
    else:
        assert isinstance(parallel, ParallelHistoricBatchNorm1d)
        with pytest.raises(ValueError, match="different statistics at each of 3 positions"):
            parallel.affine()


@pytest.fixture(scope="module")
def data() -> Data:
    return read_words(bundled_path()).data(8)


@pytest.mark.full
@pytest.mark.parametrize("recipe", [LectureRecipe(steps=24, lr_drop=20), ModernRecipe(steps=24)])
@pytest.mark.parametrize("make_engine", [AutogradEngine, WindowsEngine])
def test_a_run_is_resumed_to_the_bit_and_keeps_its_best_network(
    make_engine: MakeEngine, recipe: LectureRecipe | ModernRecipe, data: Data
) -> None:
    """As a resumed run does: load the network, make the trainer, restore its state."""

    def trainer(state: dict[str, Tensor] | None = None) -> Trainer:
        generator = Generator().manual_seed(3)
        network = network_plan("wavenet", n_embd=4, n_hidden=12).build(len(data.vocabulary), generator)
        if state is not None:
            network.load_state_dict(state)
        make: Any = ModernTrainer if isinstance(recipe, ModernRecipe) else Trainer
        engine = partial(ParallelEngine, make_engine=make_engine, processes=ONE_PROCESS)
        return make(network, data, recipe, generator, engine)

    whole, first = trainer(), trainer()
    for _ in whole.run(6):
        whole.evaluate("val")
    for _ in first.run(6):
        first.evaluate("val")
        if first.step == 12:
            break
    saved = {name: tensor.clone() for name, tensor in first.network.state_dict().items()}
    state = {name: tensor.clone() for name, tensor in first.state().items()}
    resumed = trainer(saved)
    resumed.generator.set_state(first.generator.get_state())
    resumed.restore(first.step, first.losses, first.evaluations, state)
    for _ in resumed.run(6):
        resumed.evaluate("val")
    assert torch.equal(resumed.losses, whole.losses)
    assert resumed.evaluations == whole.evaluations
    assert_equal(resumed.network, whole.network, 0, gradients=False)
    if isinstance(resumed, ModernTrainer):
        resumed.best = {name: tensor + 1 for name, tensor in resumed.best.items()}  # as if better
        resumed.best_val = 0.0
        resumed.finish()
        for name, tensor in resumed.network.state_dict().items():
            assert torch.equal(tensor, resumed.best[name])
        assert_shared(resumed.network, resumed.engine)  # type: ignore[arg-type]
