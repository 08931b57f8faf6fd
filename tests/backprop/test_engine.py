"""Plain hand-derived steps against autograd: gradients, running statistics, losses, trained values.

Comparisons are in float64 unless they say otherwise. The lecture's word list is not part of the project. The
test that needs it is skipped where it is not found.
"""

from __future__ import annotations

import copy
import gc
import random
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from random_graphs import random_graph
from torch import Generator, Tensor

from makemore.backprop.derivatives import ONEHOT_SYMBOLS, EmbeddingDerivative, TanhDerivative
from makemore.backprop.engine import CACHED_SHAPES, BackpropEngine
from makemore.backprop.windows import WindowsEngine
from makemore.core import device, system
from makemore.core.errors import UsageError
from makemore.core.layer import Layer, stochastic_layers
from makemore.data.word_list import WordList
from makemore.lecture.layers import (
    BatchNorm1d,
    Embedding,
    FlattenConsecutive,
    HistoricBatchNorm1d,
    Linear,
    Sequential,
    Tanh,
)
from makemore.run.catalog import NETWORKS, network_plan
from makemore.run.training_run import engine_maker
from makemore.training.engine import AutogradEngine
from makemore.training.recipe import LectureRecipe
from makemore.training.trainer import Trainer


def trained(layers: Sequence[Layer], seed: int = 1) -> Sequential:
    """The network in float64, with noise added to the initial values of its parameters."""
    network = Sequential(layers).to(dtype=torch.float64)
    generator = Generator().manual_seed(seed)
    for p in network.parameters():
        p += 0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
        p.requires_grad = True
    return network


def twins(layers: Sequence[Layer]) -> tuple[Sequential, Sequential]:
    network = trained(layers)
    return network, copy.deepcopy(network)


def batches(steps: int, B: int, T: int, V: int = 27, seed: int = 2) -> tuple[Tensor, Tensor]:
    generator = Generator().manual_seed(seed)
    X = torch.randint(0, V, (steps, B, T), generator=generator)
    X[:, -1] = X[:, 0]  # a duplicate in each batch
    return X, torch.randint(0, V, (steps, B), generator=generator)


def assert_same(a: Sequential, b: Sequential, tolerance: float, gradients: bool = False) -> None:
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}")
    for (name, x), (_, y) in zip(a.named_parameters(), b.named_parameters(), strict=True):
        if gradients:
            assert x.grad is not None
            torch.testing.assert_close(
                x.grad, y.grad, rtol=0, atol=tolerance, msg=lambda m, name=name: f"{name}.grad: {m}"
            )


def random_layers(random: random.Random) -> tuple[list[Layer], int, int]:
    """Random layers for contexts of T symbols out of V, and T and V."""
    V, C, fused = (
        random.choice([random.randint(2, 30), ONEHOT_SYMBOLS + 1]),
        random.randint(1, 6),
        random.choice([[8], [2, 2, 2], [3, 2], [1, 4], [4]]),
    )
    layers: list[Layer] = [Embedding(V, C)]
    T = positions = torch.tensor(fused).prod().item()
    for n in fused:
        if random.random() < 0.2:
            layers.append(random.choice([Tanh(), BatchNorm1d(C)]))
        layers.append(FlattenConsecutive(n))
        positions //= n
        C *= n
        for _ in range(random.choice([0, 1, 1, 1, 2])):
            H = random.randint(2, 9)
            layers.append(Linear(C, H, bias=random.random() < 0.5))
            C = H
            batchnorm = HistoricBatchNorm1d(C, positions, momentum=0.3), BatchNorm1d(C, eps=1e-3)
            layers += random.choice([[], [batchnorm[0]], [batchnorm[1]], [batchnorm[1]]])
            layers += [Tanh() for _ in range(random.choice([0, 1, 1, 2]))]
    return [*layers, Linear(C, V)], T, V


@pytest.mark.parametrize("seed", range(60))
def test_gradients_of_random_networks_equal_autograds(seed: int):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    layers, T, V = random_layers(rng)
    a, b = twins(layers)
    # Two equal examples would have no variance, and their derivative would be made of rounding errors.
    X, Y = batches(3, rng.choice([2, 3, 5, 32, 64]), T, V, seed)
    if X.shape[1] == 2:
        X[:, 1] = (X[:, 0] + 1) % V
    plain, engine = AutogradEngine(a), BackpropEngine(b)
    for x, y in zip(X, Y, strict=True):
        torch.testing.assert_close(plain.gradients(x, y), engine.gradients(x, y), rtol=0, atol=1e-10)
        scale = max(1.0, *(p.grad.abs().max().item() for p in a.parameters()))
        assert_same(a, b, 1e-10 * scale, gradients=True)
    lrs = [0.1, 0.05, 0.01]
    if X.shape[1] > 2:
        torch.testing.assert_close(
            plain.sgd_steps(X, Y, lrs).double(), engine.sgd_steps(X, Y, lrs), rtol=1e-6, atol=1e-6
        )
        assert_same(a, b, 1e-8)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(50))
def test_gradients_of_random_blocks_and_skips_equal_autograds(seed: int):
    """In networks where several layers read a value, and outputs are added."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    layers, T, V = random_graph(rng)
    a, b = twins(layers)
    X, Y = batches(3, rng.choice([3, 5, 32, 64]), T, V, seed)
    keep = (torch.rand(X.shape, generator=Generator().manual_seed(seed)) < 0.7).double()
    plain, engine = AutogradEngine(a), BackpropEngine(b)
    for i, (x, y) in enumerate(zip(X, Y, strict=True)):
        kept = keep[i] if seed % 2 else None
        losses = plain.gradients(x, y, kept), engine.gradients(x, y, kept)
        torch.testing.assert_close(*losses, rtol=1e-10, atol=1e-10)
        scale = max(1.0, *(p.grad.abs().max().item() for p in a.parameters()))
        assert_same(a, b, 1e-10 * scale, gradients=True)
    losses = plain.sgd_steps(X[:1], Y[:1], [0.1]), engine.sgd_steps(X[:1], Y[:1], [0.1])
    torch.testing.assert_close(*losses, rtol=1e-10, atol=1e-10)
    assert_same(a, b, 1e-10 * scale)


@pytest.mark.parametrize(("V", "C"), [(27, 3), (27, 14), (ONEHOT_SYMBOLS + 1, 3)])
def test_distributions_as_targets_and_dropped_embeddings(V: int, C: int):
    layers = [Embedding(V, C), FlattenConsecutive(2), Linear(2 * C, 5), Tanh(), Linear(5, V)]
    a, b = twins(layers)
    generator = Generator().manual_seed(3)
    X, _ = batches(4, 16, 2, V)
    Y = torch.rand(4, 16, V, dtype=torch.float64, generator=generator)
    Y /= Y.sum(2, keepdim=True)
    keep = (torch.rand(4, 16, 2, generator=generator) < 0.7).double()
    plain, engine = AutogradEngine(a), BackpropEngine(b)
    for i, dropped in enumerate([keep[0], keep[1], None, keep[3]]):
        losses = plain.gradients(X[i], Y[i], dropped), engine.gradients(X[i], Y[i], dropped)
        torch.testing.assert_close(*losses, rtol=0, atol=1e-10)
        assert_same(a, b, 1e-10, gradients=True)
    torch.testing.assert_close(plain.sgd_steps(X, Y, [0.1] * 4).double(), engine.sgd_steps(X, Y, [0.1] * 4))
    assert_same(a, b, 1e-8)


def test_the_derivative_of_an_embedding_on_cuda():
    """There it is a product with one-hot rows for large vocabularies too."""
    V = ONEHOT_SYMBOLS + 1
    layer, x, dy = Embedding(V, 3), torch.tensor([6, 0, V - 1, 6]), torch.randn(4, 3)
    added, product = torch.zeros(2, V, 3).unbind()
    EmbeddingDerivative(layer, x, lambda _: added, inplace_ok=False).backward(dy)
    on_cuda = EmbeddingDerivative(layer, x, lambda _: product, inplace_ok=False)
    on_cuda.onehot = torch.full((4, V), torch.nan)
    on_cuda.backward(dy)
    torch.testing.assert_close(added, product)


def named(name: str, dtype: torch.dtype = torch.float64) -> Sequential:
    """A network of the catalog. Its random layers draw from generators with the same state in each call."""
    network = NETWORKS[name].build(27, Generator().manual_seed(42)).to(dtype=dtype)
    for i, layer in enumerate(stochastic_layers(network).values()):
        layer.generator = Generator().manual_seed(i)
    return network


@pytest.mark.parametrize("B", [2, 32, 70])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_and_steps_of_the_catalogs_networks_equal_autograds(name: str, B: int):
    a, b = named(name), named(name)
    X, Y = batches(4, B, NETWORKS[name].block_size)
    X[:, -1] = (X[:, 0] + 1) % 27
    plain, engine = AutogradEngine(a), BackpropEngine(b)
    torch.testing.assert_close(plain.gradients(X[0], Y[0]), engine.gradients(X[0], Y[0]), rtol=0, atol=1e-10)
    assert_same(a, b, 1e-10, gradients=True)
    losses = plain.sgd_steps(X, Y, [0.1, 0.1, 0.01, 0.01]), engine.sgd_steps(X, Y, [0.1, 0.1, 0.01, 0.01])
    torch.testing.assert_close(losses[0].double(), losses[1], rtol=0, atol=1e-6)
    assert_same(a, b, 1e-8)


@pytest.mark.parametrize("intel", [True, False])
@pytest.mark.parametrize("mkl", [True, False])
def test_tanh_on_either_kind_of_processor(intel: bool, mkl: bool, monkeypatch: pytest.MonkeyPatch):
    """By torch's tanh to the bit where that is fast, elsewhere to 2e-7 in float32, to rounding in float64."""
    monkeypatch.setattr(device, "is_intel", lambda: intel)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    assert device.has_fast_tanh(torch.device("cpu")) == (intel and mkl)
    assert device.has_fast_tanh(torch.device("cuda"))
    for dtype, tolerance in ((torch.float32, 2e-7), (torch.float64, 1e-15)):
        x = torch.linspace(-30, 30, 5001, dtype=dtype).view(-1, 3)
        expected = torch.tanh(x)
        for inplace_ok in (False, True):
            derivative = TanhDerivative(Tanh(), x.clone(), lambda p: p, inplace_ok)
            for run in derivative.forward:
                run()
            off = (derivative.y - expected).abs().max()
            assert off <= (0 if intel and mkl else tolerance)
    autograd, ours = twins([Embedding(9, 4), FlattenConsecutive(2), Linear(8, 5), Tanh(), Linear(5, 9)])
    X, Y = batches(1, 6, 2, V=9)
    AutogradEngine(autograd).gradients(X[0], Y[0])
    BackpropEngine(ours).gradients(X[0], Y[0])
    for p, q in zip(ours.parameters(), autograd.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_the_vendor_of_the_processor_is_read_or_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text, intel in (
        ("vendor_id\t: GenuineIntel\n", True),
        ("vendor_id\t: AuthenticAMD\n", False),
        ("", False),
    ):
        cpuinfo = tmp_path / "cpuinfo"
        cpuinfo.write_text(text)
        monkeypatch.setattr(system, "CPUINFO", cpuinfo)
        assert system.is_intel.__wrapped__() == intel
    monkeypatch.setattr(system, "CPUINFO", tmp_path / "missing")
    for processor, intel in (("Intel64 Family 6 Model 165 Stepping 5, GenuineIntel", True), ("arm", False)):
        monkeypatch.setattr(system.platform, "processor", lambda name=processor: name)
        assert system.is_intel.__wrapped__() == intel


@pytest.mark.parametrize("B", [2, 7, 32, 100])
def test_results_do_not_depend_on_how_steps_are_grouped_to_the_bit(B: int):
    a, b = named("wavenet", torch.float32), named("wavenet", torch.float32)
    X, Y = batches(9, B, 8)
    lrs = [0.1] * 9
    whole = BackpropEngine(a).sgd_steps(X, Y, lrs)
    engine = BackpropEngine(b)
    parts = [engine.sgd_steps(X[:2], Y[:2], lrs[:2]), engine.sgd_steps(X[2:5], Y[2:5], lrs[2:5])]
    engine = BackpropEngine(b)  # as after a resume
    parts += [engine.sgd_steps(X[i : i + 1], Y[i : i + 1], lrs[:1]) for i in range(5, 9)]
    assert torch.equal(whole, torch.cat(parts))
    assert_same(a, b, 0)


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    ],
)
def test_gradients_work_with_any_optimizer(make: Callable[[list[Tensor]], torch.optim.Optimizer]):
    a, b = named("hierarchical"), named("hierarchical")
    X, Y = batches(5, 16, 8)
    for network, engine in ((a, AutogradEngine(a)), (b, BackpropEngine(b))):
        optimizer = make(network.parameters())
        for x, y in zip(X, Y, strict=True):
            optimizer.zero_grad()
            engine.gradients(x, y)
            optimizer.step()
    assert_same(a, b, 1e-8)


def test_gradients_stay_the_same_tensors_and_do_not_accumulate():
    network = named("wavenet")
    engine = BackpropEngine(network)
    X, Y = batches(1, 8, 8)
    engine.gradients(X[0], Y[0])
    grads = [p.grad for p in network.parameters()]
    values = [grad.clone() for grad in grads]
    engine.gradients(X[0], Y[0])
    for p, grad, value in zip(network.parameters(), grads, values, strict=True):
        assert p.grad is grad
        torch.testing.assert_close(grad, value, rtol=0, atol=1e-14)


def test_batch_shape_dtype_and_mode_may_change_between_steps():
    a, b = named("wavenet"), named("wavenet")
    plain, engine = AutogradEngine(a), BackpropEngine(b)
    for i, B in enumerate([32, 5, 32, *range(40, 40 + CACHED_SHAPES), 5]):
        X, Y = batches(2, B, 8, seed=i)
        plain.sgd_steps(X, Y, [0.1, 0.1])
        engine.sgd_steps(X, Y, [0.1, 0.1])
    assert_same(a, b, 1e-8)
    for network in (a, b):
        network.to(dtype=torch.float32).eval()
    X, Y = batches(2, 5, 8)
    torch.testing.assert_close(plain.sgd_steps(X, Y, [0.1] * 2), engine.sgd_steps(X, Y, [0.1] * 2))
    assert_same(a, b, 1e-4)
    assert b.training


def test_a_step_changes_nothing_else():
    network = named("mlp")
    engine = BackpropEngine(network)
    X, Y = batches(3, 4, 3)
    before = copy.deepcopy(network)
    assert engine.sgd_steps(X[:0], Y[:0], []).shape == (0,)
    assert_same(network, before, 0)
    X_before, Y_before = X.clone(), Y.clone()
    losses = engine.sgd_steps(X, Y, [0.1] * 3)
    assert losses.shape == (3,)
    assert not losses.requires_grad
    assert not losses.is_inference()
    engine.gradients(X[0], Y[0])
    AutogradEngine(network).gradients(X[0], Y[0])  # autograd still works with the tensors
    engine.sgd_steps(X, Y, [0.1] * 3)
    assert torch.equal(X, X_before)
    assert torch.equal(Y, Y_before)
    assert engine.note is None
    losses = engine.sgd_steps(X, Y, [float("inf")] * 3)
    assert not losses.isfinite().all()  # the losses show a divergence


def test_nested_networks_and_a_bigram_model():
    inner = [Linear(4, 6), BatchNorm1d(6), Tanh()]
    for layers, T in (
        (
            [
                Embedding(5, 3),
                Sequential([FlattenConsecutive(2), Linear(6, 4)]),
                Sequential(inner),
                Linear(6, 5),
            ],
            2,
        ),
        ([Embedding(5, 5), FlattenConsecutive(1)], 1),
    ):
        a, b = twins(layers)
        X, Y = batches(3, 6, T, V=5)
        AutogradEngine(a).sgd_steps(X, Y, [0.1] * 3)
        BackpropEngine(b).sgd_steps(X, Y, [0.1] * 3)
        assert_same(a, b, 1e-10)


def test_tensors_may_be_replaced_between_steps():
    layers = [Embedding(5, 4), FlattenConsecutive(1), Linear(4, 4), Tanh(), Linear(4, 5)]
    a, b = twins(layers)
    X, Y = batches(3, 6, 1, V=5)
    plain, engine = AutogradEngine(a), BackpropEngine(b)
    for _ in range(2):
        plain.sgd_steps(X, Y, [0.1] * 3)
        engine.sgd_steps(X, Y, [0.1] * 3)
        assert_same(a, b, 1e-10)
        for network in (a, b):  # the same memory with other strides
            network.layers[2].weight = network.layers[2].weight.detach().t().requires_grad_()


def test_a_logit_may_be_minus_infinity():
    a, b = twins([Embedding(5, 4), FlattenConsecutive(1), Linear(4, 5)])
    for network in (a, b):
        network.layers[-1].bias.data[0] = -torch.inf
    X, Y = batches(3, 6, 1, V=5)
    Y.clamp_(min=1)
    losses = AutogradEngine(a).sgd_steps(X, Y, [0.1] * 3).double()
    torch.testing.assert_close(losses, BackpropEngine(b).sgd_steps(X, Y, [0.1] * 3), rtol=0, atol=1e-6)
    assert_same(a, b, 1e-10)


def test_steps_within_inference_mode_and_after_it():
    a, b = twins([Embedding(5, 4), FlattenConsecutive(1), Linear(4, 5)])
    X, Y = batches(2, 6, 1, V=5)
    engine = BackpropEngine(b)
    with torch.inference_mode():
        engine.gradients(X[0], Y[0])
        engine.sgd_steps(X, Y, [0.1] * 2)
    engine.gradients(X[0], Y[0])
    plain = AutogradEngine(a)
    plain.sgd_steps(X, Y, [0.1] * 2)
    plain.gradients(X[0], Y[0])
    assert_same(a, b, 1e-10, gradients=True)


class Tanh2(Tanh):
    """A subclass may compute something else."""


def test_networks_without_derivatives_or_with_shared_parameters_are_refused():
    """When the engine is made: a command then ends before its first step, with one line."""
    linear = Linear(4, 4)
    shared = [Embedding(27, 2), FlattenConsecutive(2), linear, Tanh(), linear, Linear(4, 27)]
    tied = Sequential([Embedding(27, 4), FlattenConsecutive(1), Linear(4, 27, bias=False)])
    tied.layers[2].weight = tied.layers[0].weight.t()
    for network, message in (
        (Sequential([Embedding(27, 2), Tanh2(), Linear(2, 27)]), r"no hand-derived gradient for Tanh2\(\)"),
        (Sequential(shared), r"no parameter is used twice, and Linear\(4, 4\) has one that is"),
        (tied, r"no parameter is used twice, and Linear\(4, 27, bias=False\) has one that is"),
        (Sequential([Linear(2, 2)]), "one Embedding, as its first layer"),
        (Sequential([Embedding(27, 2), Embedding(2, 2)]), "one Embedding, as its first layer"),
        (Sequential([]), "one Embedding, as its first layer"),
    ):
        for kind in (BackpropEngine, WindowsEngine):
            with pytest.raises(ValueError, match=f"{message}.*: train with the autograd engine"):
                kind(network)
        with pytest.raises(UsageError, match=r"^--engine windows: .*: train with the autograd engine"):
            engine_maker("windows")(network)
    engine = BackpropEngine(Sequential([Embedding(27, 2), FlattenConsecutive(2), Linear(4, 27)]))
    X, Y = batches(1, 4, 2)
    engine.gradients(X[0], Y[0])
    engine.network.layers.append(Tanh2())
    with pytest.raises(ValueError, match="no hand-derived gradient"):
        engine.gradients(X[0], Y[0])


def test_batches_that_do_not_fit_raise_the_errors_of_the_layers():
    network = named("wavenet")
    before = copy.deepcopy(network)
    X, Y = batches(1, 32, 8)
    for x, y, error in (
        (X[:, :1], Y[:, :1], ValueError),  # one value per channel
        (X[..., :6], Y, ValueError),
        (X, Y[:, :5], ValueError),
        (X.float(), Y, TypeError),
        (X + 27, Y, IndexError),
        (X - 27, Y, IndexError),
    ):
        messages = []
        for engine in (AutogradEngine(copy.deepcopy(before)), BackpropEngine(network)):
            with pytest.raises(error) as caught:
                engine.gradients(x[0], y[0])
            messages.append(str(caught.value))
        assert messages[0] == messages[1]
    assert_same(network, before, 0)
    engine = BackpropEngine(network)
    with pytest.raises(ValueError, match="2 learning rates"):
        engine.sgd_steps(X, Y, [0.1, 0.1])
    engine.sgd_steps(X, Y, [0.1])
    # The engine has a step for these shapes by now:
    with pytest.raises(IndexError, match="got index 27"):
        engine.sgd_steps(torch.full_like(X, 27), Y, [0.1])
    with pytest.raises(IndexError, match="symbols 0 to 26, got 27"):
        engine.sgd_steps(X, torch.full_like(Y, 27), [0.1])
    with pytest.raises(ValueError, match=r"shape \(8, 32\), the batch \(32, 8\)"):
        engine.gradients(X[0], Y[0], torch.ones(8, 32))


def stand_in(run: Callable[[], object], tensors: Sequence[Tensor]) -> Callable[[], object]:
    """Do on the CPU what capturing a CUDA graph does: warm up, restore the tensors, replay.

    Like a graph it does not keep the function alive that it repeats.
    """
    before = [tensor.clone() for tensor in tensors]
    run()
    for tensor, value in zip(tensors, before, strict=True):
        tensor.copy_(value)
    weak = weakref.ref(run)

    def replay() -> None:
        alive = weak()
        assert alive is not None, "the graph would use memory that has been freed"
        alive()

    return replay


def test_recorded_steps_equal_plain_ones():
    a, b = named("wavenet"), named("wavenet")
    captured = []

    def capture(run: Callable[[], object], tensors: Sequence[Tensor]) -> Callable[[], object]:
        captured.append(len(tensors))
        return stand_in(run, tensors)

    plain, engine = AutogradEngine(a), BackpropEngine(b, capture)
    X, Y = batches(6, 32, 8)
    lrs = [0.1, 0.1, 0.1, 0.01, 0.01, 0.01]
    for part in (slice(0, 1), slice(1, 6)):
        losses = plain.sgd_steps(X[part], Y[part], lrs[part]).double()
        torch.testing.assert_close(losses, engine.sgd_steps(X[part], Y[part], lrs[part]), rtol=0, atol=1e-6)
        gc.collect()
    assert_same(a, b, 1e-10)
    assert captured == [len(b.state_dict())]  # once per batch shape
    for x, y in zip(X[:2], Y[:2], strict=True):
        torch.testing.assert_close(plain.gradients(x, y), engine.gradients(x, y), rtol=0, atol=1e-10)
        assert_same(a, b, 1e-10, gradients=True)
    assert len(captured) == 2
    assert engine.note is None


def test_if_recording_fails_steps_are_plain_and_a_note_says_so():
    def capture(run: Callable[[], object], tensors: Sequence[Tensor]) -> Callable[[], object]:
        raise RuntimeError("operation not permitted when stream is capturing")

    a, b = named("wavenet"), named("wavenet")
    engine = BackpropEngine(b, capture)
    X, Y = batches(3, 32, 8)
    AutogradEngine(a).sgd_steps(X, Y, [0.1] * 3)
    engine.sgd_steps(X, Y, [0.1] * 3)
    assert_same(a, b, 1e-10)
    assert "not permitted" in str(engine.note)


NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)])
@pytest.mark.parametrize(
    "name",
    ["wavenet", *(pytest.param(name, marks=pytest.mark.full) for name in NETWORKS if name != "wavenet")],
)
def test_recorded_steps_of_many_shapes_equal_autograds(name: str, device: str):
    """On CUDA as CUDA graphs, on the CPU by a stand-in for them. Random layers prevent recording."""
    a, b = named(name).to(device), named(name).to(device)
    plain, engine = AutogradEngine(a), BackpropEngine(b, stand_in if device == "cpu" else None)
    T = NETWORKS[name].block_size
    generator = Generator().manual_seed(5)
    for B in (32, 4, 32, 512, 4):
        X, Y = (t.to(device) for t in batches(5, B, T))
        losses = plain.sgd_steps(X, Y, [0.1] * 5).double()
        torch.testing.assert_close(losses, engine.sgd_steps(X, Y, [0.1] * 5), rtol=0, atol=1e-6)
        assert_same(a, b, 1e-8)
        for x, y in zip(X[:3], Y[:3], strict=True):
            keep = (torch.rand(B, T, generator=generator) < 0.7).double().to(device)
            torch.testing.assert_close(plain.gradients(x, y, keep), engine.gradients(x, y, keep))
            assert_same(a, b, 1e-8, gradients=True)
        if stochastic_layers(b):
            assert engine.note == "no CUDA graph: the steps draw random numbers on the CPU"
        else:
            assert engine.note is None
        gc.collect()
        scratch = [
            torch.full((2**k,), torch.nan, device=device) for k in range(20)
        ]  # overwrites freed memory
        del scratch


def test_the_first_losses_are_the_lectures(lecture_words: WordList):
    """Seed 42, the performance log's last row: 3.3167 at step 0 (lecture cell 10)."""
    losses = []
    for engine in (AutogradEngine, BackpropEngine):
        generator = Generator().manual_seed(42)
        data = lecture_words.data(network_plan().block_size)
        network = network_plan().build(len(data.vocabulary), generator)
        trainer = Trainer(network, data, LectureRecipe(steps=200), generator)
        trainer.engine = engine(network)
        list(trainer.run(1000))
        losses.append(trainer.losses)
    assert f"{losses[1][0].item():.4f}" == "3.3167"
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-4)
