"""Steps on distinct windows against autograd, over random networks and batches; and when steps are plain.

Reference: ``AutogradEngine`` in float64, to 1e-10. The limits from which distinct windows are used are set to
0, so that small networks use them.
"""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from random_graphs import Twice, random_graph
from test_engine import assert_same, batches, random_layers, twins
from torch import Generator, Tensor

from makemore.backprop import windows
from makemore.backprop.engine import BackpropEngine
from makemore.backprop.windows import WindowsEngine, WindowsStep
from makemore.core.layer import Layer
from makemore.core.unique_rows import unique_rows
from makemore.data.encoding import encode_words
from makemore.lecture.layers import BatchNorm1d, Embedding, FlattenConsecutive, Linear, Sequential, Tanh
from makemore.lecture.words import Examples, Vocabulary
from makemore.run.catalog import NETWORKS, network_plan
from makemore.training.engine import AutogradEngine


@pytest.fixture(autouse=True)
def no_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "MIN_WORK", 0)
    monkeypatch.setattr(windows, "MIN_SAVING", 0)


@pytest.fixture
def steps_on_windows(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each step that looked for distinct windows, whether it was computed on them."""
    taken: list[bool] = []
    find_windows = WindowsStep.find_windows

    def noted(step: WindowsStep, X: Tensor) -> bool:
        taken.append(find_windows(step, X))
        return taken[-1]

    monkeypatch.setattr(WindowsStep, "find_windows", noted)
    return taken


def targets(shape: tuple[int, ...], V: int, seed: int) -> Tensor:
    """Distributions over V symbols whose sums differ from 1, as in the modern recipe."""
    generator = Generator().manual_seed(seed)
    return torch.rand(*shape, V, dtype=torch.float64, generator=generator) / V


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dropping", [False, True])
@pytest.mark.parametrize("seed", range(25))
def test_gradients_of_random_networks_equal_autograds(
    seed: int, dropping: bool, soft: bool, steps_on_windows: list[bool]
) -> None:
    torch.manual_seed(seed)
    rng = random.Random(seed)
    layers, T, V = random_layers(rng)
    a, b = twins(layers)
    X, Y = batches(3, rng.choice([3, 5, 32, 200]), T, V, seed)
    keep = (torch.rand(X.shape, generator=Generator().manual_seed(seed)) < 0.7).double()
    plain, engine = AutogradEngine(a), WindowsEngine(b)
    for i, x in enumerate(X):
        y = targets(Y[i].shape, V, seed + i) if soft else Y[i]
        kept = keep[i] if dropping else None
        losses = plain.gradients(x, y, kept), engine.gradients(x, y, kept)
        torch.testing.assert_close(*losses, rtol=0, atol=1e-10)
        scale = max(1.0, *(p.grad.abs().max().item() for p in a.parameters() if p.grad is not None))
        assert_same(a, b, 1e-10 * scale, gradients=True)
    losses = plain.sgd_steps(X, Y, [0.1, 0.05, 0.01]), engine.sgd_steps(X, Y, [0.1, 0.05, 0.01])
    torch.testing.assert_close(*losses, rtol=1e-8, atol=1e-8)
    assert_same(a, b, 1e-8)
    by_position = any(layer.running_mean.ndim > 1 for layer in b.modules() if isinstance(layer, BatchNorm1d))
    assert len(steps_on_windows) in (0, 6)
    assert all(steps_on_windows)
    assert not (by_position and steps_on_windows)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(40))
def test_gradients_of_random_blocks_and_skips_equal_autograds(
    seed: int, steps_on_windows: list[bool]
) -> None:
    torch.manual_seed(seed)
    rng = random.Random(seed)
    layers, T, V = random_graph(rng)
    a, b = twins(layers)
    X, Y = batches(2, rng.choice([3, 5, 32, 100]), T, V, seed)
    keep = (torch.rand(X.shape, generator=Generator().manual_seed(seed)) < 0.7).double()
    plain, engine = AutogradEngine(a), WindowsEngine(b)
    for i, x in enumerate(X):
        y = targets(Y[i].shape, V, seed + i) if seed % 3 else Y[i]
        kept = keep[i] if seed % 2 else None
        losses = plain.gradients(x, y, kept), engine.gradients(x, y, kept)
        torch.testing.assert_close(*losses, rtol=1e-10, atol=1e-10)
        scale = max(1.0, *(p.grad.abs().max().item() for p in a.parameters() if p.grad is not None))
        assert_same(a, b, 1e-10 * scale, gradients=True)
    losses = plain.sgd_steps(X[:1], Y[:1], [0.1]), engine.sgd_steps(X[:1], Y[:1], [0.1])
    torch.testing.assert_close(*losses, rtol=1e-10, atol=1e-10)
    assert_same(a, b, 1e-10 * scale)
    assert steps_on_windows == [True] * 3


@pytest.mark.parametrize(("stacks", "depth"), [(1, 1), (1, 4), (2, 2), (3, 2), (2, 3)])
def test_the_papers_network(stacks: int, depth: int, steps_on_windows: list[bool]) -> None:
    plan = network_plan("wavenet-paper", 1 + stacks * (2**depth - 1), 5, 6, stacks)
    a, b = (plan.build(9, Generator().manual_seed(depth)).to(dtype=torch.float64) for _ in range(2))
    X, Y = Examples(encode_words(Vocabulary("abcdefgh"), ["abacad", "hab", "gagagage" * 3]), plan.block_size)[
        :
    ]
    engines = AutogradEngine(a), WindowsEngine(b)
    torch.testing.assert_close(*(e.gradients(X, Y) for e in engines), rtol=0, atol=1e-10)
    assert_same(a, b, 1e-10, gradients=True)
    assert steps_on_windows == [True]


@pytest.mark.full
@pytest.mark.parametrize("V", [2, 27, 200, 20_000])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_trees_of_any_depth_and_vocabulary(depth: int, V: int, steps_on_windows: list[bool]) -> None:
    plan = network_plan("wavenet", block_size=2**depth, n_embd=5, n_hidden=8)
    a, b = (plan.build(V, Generator().manual_seed(depth)).to(dtype=torch.float64) for _ in range(2))
    X, Y = batches(2, 100, 2**depth, min(V, 3000), seed=V)
    keep = (torch.rand(X.shape, generator=Generator().manual_seed(V)) < 0.8).double()
    for x, y, kept in zip(X, Y, keep, strict=True):
        losses = AutogradEngine(a).gradients(x, y, kept), WindowsEngine(b).gradients(x, y, kept)
        torch.testing.assert_close(*losses, rtol=0, atol=1e-10)
        assert_same(a, b, 1e-10, gradients=True)
    assert steps_on_windows == [True, True]


@pytest.mark.parametrize("fused", [[2, 2, 2, 2], [4, 4], [16], [3, 2, 3], [2] * 6])
@pytest.mark.parametrize("V", [3, 30])
def test_contexts_that_slide_along_words(fused: list[int], V: int, steps_on_windows: list[bool]) -> None:
    """Long contexts of consecutive examples: of whole words, of parts of words, some of them twice."""
    torch.manual_seed(V)
    channels, layers = 4, [Embedding(V, 4)]
    for n in fused:
        layers += [FlattenConsecutive(n), Linear(channels * n, 6, bias=False), BatchNorm1d(6), Tanh()]
        channels = 6
    a, b = twins([*layers, Linear(6, V)])
    T = math.prod(fused)
    rng = random.Random(V)
    words = [
        "".join(rng.choices("abcdefghijklmnopqrstuvwxyzäöü"[: V - 1], k=rng.randrange(3, 70)))
        for _ in range(9)
    ]
    vocabulary = Vocabulary("abcdefghijklmnopqrstuvwxyzäöü"[: V - 1])
    X, Y = Examples(encode_words(vocabulary, words), T)[:]
    for rows in (slice(None), slice(5, 60), torch.tensor([*range(40), *range(20, 50), 7, 3])):
        engines = AutogradEngine(a), WindowsEngine(b)
        torch.testing.assert_close(*(e.gradients(X[rows], Y[rows]) for e in engines), rtol=0, atol=1e-10)
        assert_same(a, b, 1e-10, gradients=True)
    assert steps_on_windows == [True] * 3


def test_nested_networks_and_other_orders_of_layers(steps_on_windows: list[bool]) -> None:
    layers: list[Layer] = [
        *[
            Embedding(9, 4),
            BatchNorm1d(4),
            Sequential([FlattenConsecutive(2), BatchNorm1d(8), Tanh(), Tanh()]),
        ],
        *[Linear(8, 6), Linear(6, 5), FlattenConsecutive(1), FlattenConsecutive(3), Tanh(), Linear(15, 9)],
    ]
    torch.manual_seed(0)
    a, b = twins(layers)
    X, Y = batches(3, 50, 6, 9)
    for x, y in zip(X, Y, strict=True):
        AutogradEngine(a).gradients(x, y)
        WindowsEngine(b).gradients(x, y)
        assert_same(a, b, 1e-10, gradients=True)
    assert steps_on_windows == [True] * 3


def test_concatenations_may_be_read_twice(steps_on_windows: list[bool]) -> None:
    """And be added to the outputs of a narrow Linear, which are stored column by column."""
    torch.manual_seed(0)
    layers = [Embedding(9, 4), FlattenConsecutive(2), Twice(Linear(8, 8)), Linear(8, 6)]
    a, b = twins([*layers, FlattenConsecutive(2), Linear(12, 9)])
    X, Y = (batch[0] for batch in batches(1, 50, 4, 9))
    AutogradEngine(a).gradients(X, Y)
    WindowsEngine(b).gradients(X, Y)
    assert_same(a, b, 1e-10, gradients=True)
    assert steps_on_windows == [True]


def modern_batch(seed: int, B: int = 1024) -> tuple[Tensor, Tensor, Tensor]:
    generator = Generator().manual_seed(seed)
    X = (torch.rand((B, 8), generator=generator) ** 3 * 27).long()
    Y = torch.rand((B, 27), generator=generator)
    return X, Y / Y.sum(1, keepdim=True), (torch.rand((B, 8), generator=generator) < 0.8).float()


def test_float32_is_as_exact_as_in_the_plain_step(
    monkeypatch: pytest.MonkeyPatch, steps_on_windows: list[bool]
) -> None:
    monkeypatch.undo()
    networks = [NETWORKS["wavenet"].build(27, Generator().manual_seed(1)) for _ in range(3)]
    X, Y, keep = modern_batch(0)
    networks[2].to(dtype=torch.float64)
    AutogradEngine(networks[2]).gradients(X, Y.double(), keep.double())
    errors = []
    for engine in (BackpropEngine(networks[0]), WindowsEngine(networks[1])):
        engine.gradients(X, Y, keep)
        pairs = zip(engine.network.parameters(), networks[2].parameters(), strict=True)
        errors.append(max((p.grad.double() - exact.grad).abs().max().item() for p, exact in pairs))  # type: ignore[union-attr]
    assert errors[1] < max(2 * errors[0], 1e-5)


def test_runs_repeat_to_the_bit_and_gradients_stay_the_same_tensors() -> None:
    networks = [NETWORKS["wavenet"].build(27, Generator().manual_seed(1)) for _ in range(2)]
    engines = [WindowsEngine(network) for network in networks]
    places = None
    for seed in range(3):
        batch = modern_batch(seed)
        losses = [engine.gradients(*batch) for engine in engines]
        assert torch.equal(*losses)
        for p, q in zip(*(network.parameters() for network in networks), strict=True):
            assert torch.equal(p.grad, q.grad)  # type: ignore[arg-type]
        now = [p.grad.data_ptr() for p in networks[0].parameters()]  # type: ignore[union-attr]
        assert places in (None, now)
        places = now


def test_the_step_is_plain_if_nothing_is_gained(
    monkeypatch: pytest.MonkeyPatch, steps_on_windows: list[bool]
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(WindowsStep, "find_windows", lambda *args: pytest.fail("looks for windows"))
    network = NETWORKS["wavenet"].build(27, Generator().manual_seed(1))
    twin = NETWORKS["wavenet"].build(27, Generator().manual_seed(1))
    X, Y = batches(4, 32, 8)
    losses = [E(n).sgd_steps(X, Y, [0.1] * 4) for E, n in ((WindowsEngine, network), (BackpropEngine, twin))]
    assert torch.equal(*losses)
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), twin.parameters(), strict=True))


def test_the_step_is_plain_for_values_of_keep_mask_between_0_and_1(steps_on_windows: list[bool]) -> None:
    torch.manual_seed(0)
    a, b = twins([Embedding(9, 4), FlattenConsecutive(4), Linear(16, 5), Tanh(), Linear(5, 9)])
    X, Y = (batch[0] for batch in batches(1, 40, 4, 9))
    keep = torch.rand(40, 4, dtype=torch.float64)
    AutogradEngine(a).gradients(X, Y, keep)
    WindowsEngine(b).gradients(X, Y, keep)
    assert_same(a, b, 1e-10, gradients=True)
    assert steps_on_windows == [False]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda X, Y, keep: (X.clone().index_fill_(1, torch.tensor([0]), 27), Y, keep), IndexError),
        (lambda X, Y, keep: (X - 1, Y, keep), IndexError),
        (lambda X, Y, keep: (X, torch.full((1024,), 27), keep), IndexError),
        (lambda X, Y, keep: (X, Y, keep[:, :4]), ValueError),
        (lambda X, Y, keep: (X[:, :6], Y, keep[:, :6]), ValueError),
        (lambda X, Y, keep: (X.float(), Y, keep), TypeError),
    ],
)
def test_errors_are_those_of_the_plain_engine(change: Any, error: type[Exception]) -> None:
    messages = []
    for make in (BackpropEngine, WindowsEngine):
        network = NETWORKS["wavenet"].build(27, Generator().manual_seed(1))
        engine = make(network)
        engine.gradients(*modern_batch(0))
        before = [p.clone() for p in network.parameters()]
        with pytest.raises(error) as caught:
            engine.gradients(*change(*modern_batch(1)))
        messages.append(str(caught.value))
        assert all(torch.equal(p, q) for p, q in zip(before, network.parameters(), strict=True))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("sizes", [[3, 4], [50, 60, 70], [2**31, 2**31, 5], [5]])
def test_unique_rows_equals_torchs_unique(sizes: list[int]) -> None:
    """By counting in a table, by sorting, and with codes that do not fit into int64 at once."""
    generator = Generator().manual_seed(0)
    columns = [
        torch.randint(min(size, 4), (300,), generator=generator) * (size // min(size, 4)) for size in sizes
    ]
    table = torch.stack(columns, 1)
    index, inverse, counts = unique_rows(columns, sizes)
    rows, expected_inverse, expected_counts = torch.unique(
        table, dim=0, return_inverse=True, return_counts=True
    )
    assert torch.equal(inverse, expected_inverse)
    assert torch.equal(counts, expected_counts)
    assert torch.equal(table[index], rows)
