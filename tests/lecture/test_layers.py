"""Each layer against its torch twin in float64, and what the layers refuse."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from makemore.core.layer import Layer, Window, declared
from makemore.core.random import default_generator
from makemore.lecture.layers import (
    BatchNorm1d,
    Embedding,
    FlattenConsecutive,
    HistoricBatchNorm1d,
    Linear,
    Sequential,
    Tanh,
)
from makemore.paper.layers import (
    FlattenDilated,
    GatedActivation,
    ReLU,
    ResidualBlock,
    RMSNorm,
    SkipConnections,
    TakeLast,
)
from makemore.parallel.batchnorm import combine_statistics
from makemore.run.catalog import NETWORKS, network_plan

EXACT = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture(autouse=True)
def float64() -> object:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def gradients(out: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    """Gradients of a fixed random weighting of the output."""
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad((out * weights).sum(), leaves)


def assert_all_close(ours: object, theirs: object) -> None:
    torch.testing.assert_close(ours, theirs, **EXACT)


@pytest.mark.parametrize("shape", [(5,), (4, 5), (4, 3, 5), (2, 3, 4, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_equals_torch(shape: tuple[int, ...], bias: bool) -> None:
    ours, theirs = Linear(5, 7, bias=bias), nn.Linear(5, 7, bias=bias)
    if ours.bias is not None:
        ours.bias = torch.randn(7)
        theirs.bias.data = ours.bias.clone()
    theirs.weight.data = ours.weight.T.clone()
    for p in ours.parameters():
        p.requires_grad = True
    x = torch.randn(shape, requires_grad=True)
    out, reference = ours(x), theirs(x)
    assert ours.out is out
    assert_all_close(out, reference)
    gx, gw, *gb = gradients(out, x, *ours.parameters())
    rx, rw, *rb = gradients(reference, x, *theirs.parameters())
    assert_all_close((gx, gw, *gb), (rx, rw.T, *rb))


def test_linear_initial_values() -> None:
    with default_generator(torch.Generator().manual_seed(3)):
        weight = Linear(400, 300).weight
    same = torch.randn((400, 300), generator=torch.Generator().manual_seed(3)) / 20
    assert torch.equal(weight, same)
    assert torch.equal(Linear(4, 3).bias, torch.zeros(3))


@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 5), (2, 5), (1, 2, 5)])
def test_batchnorm_equals_torch(shape: tuple[int, ...]) -> None:
    """The twin takes (B, C, L) and normalises by the biased variance: its eps and gamma are adapted."""
    rows = torch.Size(shape[:-1]).numel()
    unbiased = (rows - 1) / rows
    ours, theirs = BatchNorm1d(5), nn.BatchNorm1d(5, eps=1e-5 * unbiased)
    ours.gamma = torch.randn(5, requires_grad=True)
    ours.beta = torch.randn(5, requires_grad=True)
    theirs.weight.data = ours.gamma.detach() * unbiased**0.5
    theirs.bias.data = ours.beta.detach().clone()

    def twin(x: Tensor) -> Tensor:
        return theirs(x.movedim(-1, 1)).movedim(1, -1)

    for _ in range(3):
        x = torch.randn(shape, requires_grad=True)
        out, reference = ours(x), twin(x)
        assert_all_close(out, reference)
        gx, ggamma, gbeta = gradients(out, x, ours.gamma, ours.beta)
        rx, rgamma, rbeta = gradients(reference, x, theirs.weight, theirs.bias)
        assert_all_close((gx, ggamma, gbeta), (rx, rgamma * unbiased**0.5, rbeta))
        assert_all_close(ours.running_mean, theirs.running_mean)
        assert_all_close(ours.running_var, theirs.running_var)
        assert ours.running_mean.shape == ours.running_var.shape == (5,)

    ours.training = False
    theirs.eval()
    theirs.eps = 1e-5
    theirs.weight.data = ours.gamma.detach().clone()
    x = torch.randn(shape, requires_grad=True)
    assert_all_close(ours(x), twin(x))
    assert_all_close(gradients(ours(x), x), gradients(twin(x), x))


def test_batchnorm_over_batch_and_positions_by_hand() -> None:
    x = torch.randn(4, 3, 2)
    layer = BatchNorm1d(2)
    rows = x.reshape(12, 2)
    mean = rows.sum(0) / 12
    var = ((rows - mean) ** 2).sum(0) / 11
    assert_all_close(layer(x), (x - mean) / (var + 1e-5).sqrt())
    assert_all_close(layer.running_mean, 0.1 * mean)
    assert_all_close(layer.running_var, 0.9 + 0.1 * var)


def test_historic_batchnorm_normalises_each_position_apart() -> None:
    x = torch.randn(6, 3, 2)
    historic, fixed = HistoricBatchNorm1d(2, positions=3), BatchNorm1d(2)
    apart = torch.stack([BatchNorm1d(2)(x[:, t]) for t in range(3)], dim=1)
    assert_all_close(historic(x), apart)
    assert historic.running_mean.shape == (3, 2)
    assert not torch.allclose(apart, fixed(x))
    historic.training = False
    assert historic(x[:1]).shape == (1, 3, 2)
    assert_all_close(HistoricBatchNorm1d(2)(x[:, 0]), BatchNorm1d(2)(x[:, 0]))


def test_statistics_of_several_processes() -> None:
    """As those of one, in float32, also of parts that lie far from each other and from 0."""
    x = 300 + torch.randn((9, 4), dtype=torch.float64) * torch.tensor([1e-2, 1, 30, 1e3])
    x[5:] += 100
    parts = x.float().split([1, 4, 4])
    own = [(len(part), part.mean(0), ((part - part.mean(0)) ** 2).sum(0)) for part in parts]
    all_of_them = torch.stack([torch.stack([torch.full_like(m, n), m, squares]) for n, m, squares in own])
    N, mean, var = combine_statistics(*own[0], lambda _: all_of_them)
    assert (N == 9).all()
    torch.testing.assert_close(mean.double(), x.mean(0), rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(var.double(), x.var(0), rtol=1e-5, atol=0)


def test_tanh_equals_torch() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    layer = Tanh()
    assert_all_close(layer(x), nn.Tanh()(x))
    assert_all_close(gradients(layer.out, x), gradients(nn.Tanh()(x), x))


def test_relu_equals_torch() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    layer = ReLU()
    assert_all_close(layer(x), nn.ReLU()(x))
    assert_all_close(gradients(layer.out, x), gradients(nn.ReLU()(x), x))


@pytest.mark.parametrize("shape", [(10,), (4, 6), (4, 3, 2)])
def test_gated_activation_is_torchs_glu_behind_tanh(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, requires_grad=True)
    f, g = x.chunk(2, dim=-1)
    layer, twin = GatedActivation(), F.glu(torch.cat([f.tanh(), g], dim=-1), dim=-1)
    assert_all_close(layer(x), twin)
    assert_all_close(gradients(layer.out, x), gradients(twin, x))


def test_a_linear_and_a_gate_are_the_papers_equation_2() -> None:
    """tanh(W_f * x) * sigmoid(W_g * x), with convolutions of kernel 2 and dilation 4, by torch's conv1d."""
    x, linear = torch.randn(3, 9, 5), Linear(10, 14, bias=False)
    W_f, W_g = (W.view(2, 5, 7).permute(2, 1, 0) for W in linear.weight.chunk(2, dim=1))  # (7, 5, 2)
    convolved = [F.conv1d(x.mT, W, dilation=4).mT for W in (W_f, W_g)]  # conv1d takes (B, C, L)
    z = GatedActivation()(linear(FlattenDilated(2, 4)(x)))
    assert_all_close(z, convolved[0].tanh() * convolved[1].sigmoid())


@pytest.mark.parametrize("shape", [(6,), (4, 6), (4, 3, 6)])
def test_rms_norm_equals_torch(shape: tuple[int, ...]) -> None:
    ours, theirs = RMSNorm(6), nn.RMSNorm(6, eps=1e-5)
    assert torch.equal(ours.gamma, theirs.weight)
    ours.gamma = torch.randn(6, requires_grad=True)
    theirs.weight.data = ours.gamma.detach().clone()
    x = torch.randn(shape, requires_grad=True)
    assert_all_close(ours(x), theirs(x))
    assert_all_close(gradients(ours.out, x, ours.gamma), gradients(theirs(x), x, theirs.weight))


@pytest.mark.parametrize(("n", "dilation", "T"), [(2, 1, 8), (2, 4, 8), (3, 2, 5), (1, 3, 4)])
def test_flatten_dilated_is_torchs_unfold(n: int, dilation: int, T: int) -> None:
    x = torch.randn(3, T, 5, requires_grad=True)
    out = FlattenDilated(n, dilation)(x)
    windows = F.unfold(x.mT.unsqueeze(-1), (n, 1), dilation=(dilation, 1))  # (B, C*n, T'), channels first
    twin = windows.view(3, 5, n, -1).permute(0, 3, 2, 1).flatten(2).squeeze(1)  # (B, T', n*C)
    assert torch.equal(out, twin)
    assert_all_close(gradients(out, x), gradients(twin, x))


def test_newest_is_what_the_fusing_layers_have_last() -> None:
    x = torch.randn(3, 12, 5)
    for n in (1, 2, 4, 12):
        fused = FlattenConsecutive(n)(x)
        assert torch.equal(TakeLast(n)(x), fused[..., -5:])
        assert TakeLast(n)(x).data_ptr() == x[:, n - 1].data_ptr(), "a view, not a copy"
    assert torch.equal(TakeLast(1, skip=8)(x), FlattenDilated(3, 4)(x)[..., -5:])


def small_block(projection: bool = True) -> ResidualBlock:
    gates = [Linear(10, 8), BatchNorm1d(8), GatedActivation()]
    return ResidualBlock(FlattenConsecutive(2), gates, Linear(4, 5) if projection else None)


def test_residual_block_by_hand() -> None:
    x, block = torch.randn(3, 6, 5), small_block().eval()
    _, linear, _, _ = block.body.layers
    pairs = torch.cat([x[:, 0::2], x[:, 1::2]], dim=2)  # (3, 3, 10)
    f, g = ((pairs @ linear.weight + linear.bias) / (1 + 1e-5) ** 0.5).chunk(2, dim=2)
    z = f.tanh() * g.sigmoid()
    assert_all_close(block(x), x[:, 1::2] + z @ block.projection.weight + block.projection.bias)
    assert_all_close(block.z, z)
    last = small_block(projection=False).eval()
    assert torch.equal(last(x), last.z)
    assert [name for name, _ in last.named_parameters()] == [
        *("body.1.weight", "body.1.bias", "body.2.gamma", "body.2.beta"),
    ]


def test_skip_connections_add_up_what_each_block_has_at_its_newest_node() -> None:
    blocks, skips = [small_block(), small_block(projection=False)], [Linear(4, 7), Linear(4, 7)]
    layer = SkipConnections(blocks, [Sequential([TakeLast(2), skips[0]]), skips[1]]).eval()
    x = torch.randn(3, 4, 5)
    first, second = blocks[0](x), blocks[1](blocks[0](x))
    expected = skips[0](blocks[0].z[:, -1]) + skips[1](second)
    assert first.shape == (3, 2, 5)
    assert_all_close(layer(x), expected)
    assert len(list(layer.named_parameters())) == 4 + 2 + 2 + 4 + 2
    copied = pickle.loads(pickle.dumps(layer))
    assert_all_close(copied(x), expected)
    with pytest.raises(ValueError, match="a skip for each block, got 2, 1"):
        SkipConnections(blocks, skips[:1])


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_embedding_equals_torch(dtype: torch.dtype) -> None:
    ours, theirs = Embedding(9, 4), nn.Embedding(9, 4)
    theirs.weight.data = ours.weight.clone()
    ours.weight.requires_grad = True
    IX = torch.randint(0, 9, (5, 8), dtype=dtype)
    assert_all_close(ours(IX), theirs(IX))
    assert_all_close(gradients(ours.out, ours.weight), gradients(theirs(IX), theirs.weight))


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_flatten_consecutive_equals_explicit_concatenation(n: int) -> None:
    e = torch.randn(4, 8, 10, requires_grad=True)
    out = FlattenConsecutive(n)(e)
    explicit = torch.cat([e[:, i::n] for i in range(n)], dim=2)
    assert out.data_ptr() == e.data_ptr(), "a view, not a copy"
    assert torch.equal(out, explicit.squeeze(1))
    assert out.shape == ((4, 80) if n == 8 else (4, 8 // n, 10 * n))
    assert_all_close(gradients(out, e), gradients(explicit.squeeze(1), e))


def test_shapes_of_the_study_notes() -> None:
    assert Linear(20, 256)(torch.randn(5, 4, 20)).shape == (5, 4, 256)
    assert Linear(80, 200)(torch.randn(4, 5, 6, 7, 80)).shape == (4, 5, 6, 7, 200)
    x = Embedding(27, 10)(torch.zeros((5, 8), dtype=torch.int64))
    assert x.shape == (5, 8, 10)
    assert FlattenConsecutive(8)(x).shape == (5, 80)
    assert Linear(80, 256)(FlattenConsecutive(8)(x)).shape == (5, 256)
    assert FlattenConsecutive(2)(x).shape == (5, 4, 20)
    assert BatchNorm1d(68)(torch.randn(32, 4, 68)).shape == (32, 4, 68)


def small_network() -> Sequential:
    return Sequential(
        [Embedding(5, 2), FlattenConsecutive(2), Linear(4, 3, bias=False), BatchNorm1d(3), Tanh()]
    )


def test_sequential_is_its_layers_in_a_row() -> None:
    network = small_network()
    IX = torch.randint(0, 5, (6, 2))
    x = IX
    for layer in network.layers:
        x = layer(x)
    assert torch.equal(network(IX), x)
    assert network.out is network.layers[-1].out
    assert len(network.parameters()) == 4
    assert list(network.state_dict()) == [
        "0.weight", "2.weight", "3.gamma", "3.beta", "3.running_mean", "3.running_var",
    ]  # fmt: skip


def test_sequential_refuses_what_is_no_layer() -> None:
    """The lecture's own class, pasted, or torch's: both have but some of what is asked of a layer."""
    with pytest.raises(TypeError, match=r"layers of classes derived from Layer, got Tanh\(\)$"):
        Sequential([Embedding(5, 2), torch.nn.Tanh()])  # type: ignore[list-item]


def test_sequential_switches_and_moves_every_layer() -> None:
    network = Sequential([small_network(), BatchNorm1d(3)])
    assert network.training
    with network.evaluating() as same:
        assert same is network
        assert not network.training
        network(torch.zeros((1, 2), dtype=torch.int64))
    assert network.training
    assert not network.eval().training
    weight = network.parameters()[0]
    network.to(torch.float32)
    assert {t.dtype for t in network.state_dict().values()} == {torch.float32}
    assert network.parameters()[0] is weight


def test_load_copies_by_name_and_refuses_the_rest() -> None:
    network, other = small_network(), small_network()
    other(torch.randint(0, 5, (6, 2)))
    network.load_state_dict(other.state_dict())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
    with pytest.raises(ValueError, match=r"2\.weight"):
        network.load_state_dict({k: v for k, v in other.state_dict().items() if k != "2.weight"})
    with pytest.raises(ValueError, match=r"3\.gamma has shape \(3,\), got \(1,\)"):
        network.load_state_dict(other.state_dict() | {"3.gamma": torch.ones(1)})


@pytest.mark.parametrize(
    ("layer", "x", "error", "message"),
    [
        (Linear(4, 3), torch.randn(2, 5), ValueError, r"needs an input \(\.\.\., 4\), got \(2, 5\)"),
        (Linear(4, 3), torch.tensor(1.0), ValueError, r"got \(\)"),
        (BatchNorm1d(3), torch.randn(1, 3), ValueError, "more than one value per channel"),
        (BatchNorm1d(3), torch.randn(1, 1, 3), ValueError, "more than one value per channel"),
        (BatchNorm1d(3), torch.randn(0, 3), ValueError, "more than one value per channel"),
        (HistoricBatchNorm1d(3, 4), torch.randn(1, 4, 3), ValueError, "more than one value"),
        (HistoricBatchNorm1d(3, 4), torch.randn(5, 2, 3), ValueError, r"needs \(B, 4, 3\)"),
        (BatchNorm1d(3), torch.randn(3), ValueError, r"needs \(B, 3\) or \(B, T, 3\)"),
        (BatchNorm1d(3), torch.randn(2, 2, 2, 3), ValueError, r"got \(2, 2, 2, 3\)"),
        (BatchNorm1d(3), torch.randn(4, 1), ValueError, r"got \(4, 1\)"),
        (FlattenConsecutive(2), torch.randn(4, 7, 3), ValueError, "divisible by 2, got 7"),
        (FlattenConsecutive(2), torch.randn(4, 0, 3), ValueError, "divisible by 2, got 0"),
        (FlattenConsecutive(2), torch.randn(4, 6), ValueError, "only one position is left"),
        (FlattenDilated(2, 4), torch.randn(4, 4, 3), ValueError, "a length of 5 or more, got 4"),
        (FlattenDilated(2, 4), torch.randn(4, 6), ValueError, "only one position is left"),
        (TakeLast(2), torch.randn(4, 7, 3), ValueError, "divisible by 2, got 7"),
        (TakeLast(2, skip=4), torch.randn(4, 4, 3), ValueError, "after the first 4, got 4"),
        (TakeLast(2), torch.randn(4, 6), ValueError, "only one position is left"),
        (GatedActivation(), torch.randn(4, 3), ValueError, r"even number of channels, got \(4, 3\)"),
        (RMSNorm(3), torch.randn(4, 1), ValueError, r"needs \(..., 3\), got \(4, 1\)"),
        (Embedding(5, 2), torch.tensor([4, 5]), IndexError, "rows 0 to 4, got index 5"),
        (Embedding(5, 2), torch.tensor([4, -1]), IndexError, "rows 0 to 4, got index -1"),
        (Embedding(5, 2), torch.tensor([1.0]), TypeError, "int64"),
        (Embedding(5, 2), torch.tensor([True]), TypeError, "int64"),
        (
            Embedding(5, 2),
            [[0] * 8],
            TypeError,
            r"needs a tensor of indices, got a list: pass torch\.tensor\(",
        ),
        (Embedding(5, 2), 3, TypeError, "got a int: pass"),
        (Embedding(5, 2), numpy.zeros((1, 8), dtype=numpy.int64), TypeError, r"got a numpy\.ndarray: pass"),
    ],
)
def test_what_cannot_work_says_so(layer: object, x: Tensor, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        layer(x)


@pytest.mark.parametrize("name", NETWORKS)
def test_one_context_needs_a_batch_dimension(name: str) -> None:
    plan = network_plan(name, n_embd=2, n_hidden=4)
    network = plan.build(5, Generator()).eval()
    context = torch.zeros(plan.block_size, dtype=torch.int64)
    assert network(context.unsqueeze(0)).shape == (1, 5)
    got = rf"got \({plan.block_size}, 2\): the network's input needs a batch dimension, \(B, T\), as x\.unsq"
    with pytest.raises(ValueError, match=got):
        network(context)
    with pytest.raises(TypeError, match="needs a tensor of indices, got a list"):
        network([context.tolist()])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make", [lambda: FlattenConsecutive(0), lambda: FlattenDilated(0, 1), lambda: FlattenDilated(2, 0)]
)
def test_layers_that_fuse_nothing_are_refused(make: Callable[[], Layer]) -> None:
    with pytest.raises(ValueError, match="1 or more, got"):
        make()
    with pytest.raises(ValueError, match="TakeLast needs n of 1 or more, skip of 0 or more, got 1 and -1"):
        TakeLast(1, skip=-1)


def test_copies_and_pickles_at_any_time() -> None:
    """After a forward pass with gradients too: the layers' outputs hang on its graph."""
    network = Sequential([small_network()])
    for p in network.parameters():
        p.requires_grad = True
    IX = torch.randint(0, 5, (6, 2))
    network(IX).sum().backward()
    for other in (copy.deepcopy(network), copy.copy(network), pickle.loads(pickle.dumps(network))):
        assert list(other.state_dict()) == list(network.state_dict())
        assert torch.equal(other.eval()(IX), network.eval()(IX))
        network.train()
    deep = copy.deepcopy(network)
    deep.parameters()[0].data.zero_()
    assert network.parameters()[0].abs().sum() > 0


def test_moving_takes_the_gradients_along() -> None:
    layer = Linear(3, 2)
    layer.weight.requires_grad = True
    layer(torch.ones(4, 3)).sum().backward()
    layer.to(dtype=torch.float64)
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float64
    assert copy.deepcopy(layer).weight.dtype == torch.float64


def test_evaluating_puts_back_the_mode_of_each_layer() -> None:
    network = Sequential([BatchNorm1d(2), Sequential([BatchNorm1d(2)])])
    frozen = network.layers[0].eval()
    with network.evaluating():
        assert not any(layer.training for layer in network.modules())
    assert [layer.training for layer in network.modules()] == [True, False, True, True]
    assert not frozen.training


def test_a_subclass_inherits_no_declaration() -> None:
    class Shifted(Linear):
        def __call__(self, x: Tensor) -> Tensor:
            return super().__call__(x) + 1

    assert declared(Linear(2, 2), "affine") is not None
    assert declared(Shifted(2, 2), "affine") is None
    assert declared(Tanh(), "pointwise")
    assert declared(FlattenConsecutive(3), "concatenates")(FlattenConsecutive(3)) == Window(3, (0, 1, 2))
    assert declared(Sequential([]), "composite")


def test_names_are_those_of_torch() -> None:
    network = Sequential([Sequential([Linear(2, 3)]), BatchNorm1d(3)])
    twin = torch.nn.Sequential(torch.nn.Sequential(torch.nn.Linear(2, 3)), torch.nn.BatchNorm1d(3))
    assert [name for name, _ in network.named_parameters()] == [
        *("0.0.weight", "0.0.bias", "1.gamma", "1.beta"),
    ]
    assert len(network.parameters()) == len(list(twin.parameters()))
    assert len(list(network.modules())) == len(list(twin.modules()))
    assert [name for name, _ in network.named_buffers()] == ["1.running_mean", "1.running_var"]
    assert all(not tensor.requires_grad for tensor in network.state_dict().values())


@pytest.mark.parametrize("index", [-1, 5, 2**40])
def test_indices_outside_are_named(index: int) -> None:
    with pytest.raises(IndexError, match=rf"Embedding\(5, 2\) has rows 0 to 4, got index {index}$"):
        Embedding(5, 2)(torch.tensor([[0, index], [1, 2]]))


@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0")
def test_an_embedding_has_no_graph_break() -> None:
    embedding = Embedding(5, 3)
    IX = torch.randint(0, 5, (4, 2))
    compiled = torch.compile(lambda indices: embedding(indices), fullgraph=True, backend="eager")
    assert torch.equal(compiled(IX), embedding.weight[IX])
