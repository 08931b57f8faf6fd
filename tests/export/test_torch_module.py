"""Modules of layers: the same bits there and back, and files that other programs run.

Reference: the layers themselves. Behaviour: any layer is converted, what torch does with modules works, what
cannot be converted is refused.
"""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from makemore import Layer, Sequential, from_module, generate, loss, network_plan, to_module
from makemore.data.encoding import encode_words
from makemore.export.torch_module import TorchModule
from makemore.lecture.layers import (
    BatchNorm1d,
    Embedding,
    FlattenConsecutive,
    HistoricBatchNorm1d,
    Linear,
    Tanh,
)
from makemore.lecture.words import Examples, Vocabulary
from makemore.run.catalog import NETWORKS, build_network

TWO = "two of "
NAMES = [*NETWORKS, f"{TWO}gated"]
SIZES = {"wavenet-paper": {"stacks": 2}}
V = 9


def moved(network: Layer, dtype: torch.dtype = torch.float32) -> Any:
    """The network in evaluation, after every value has moved away from where it began."""
    generator = Generator().manual_seed(2)
    with torch.no_grad():
        for key, tensor in network.to(dtype=dtype).state_dict().items():
            noise = 0.3 * torch.randn(tensor.shape, generator=generator, dtype=dtype)
            tensor.add_(noise.abs() if key.endswith("running_var") else noise)
    return network.eval()


def built(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """A small network, or an ensemble of two."""
    plan = network_plan(name.removeprefix(TWO), n_embd=6, n_hidden=10, **SIZES.get(name, {}))
    members = 2 if name.startswith(TWO) else None
    return moved(build_network(plan, members, V, Generator().manual_seed(1)), dtype)


def contexts(network: Layer, rows: int = 50) -> Tensor:
    assert network.block_size is not None
    return torch.randint(0, V, (rows, network.block_size), generator=Generator().manual_seed(3))


def require_same_tensors(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for key, tensor in a.items():
        assert torch.equal(tensor, b[key]), key


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_evaluation_is_the_same_bits(name: str, dtype: torch.dtype) -> None:
    network = built(name, dtype)
    X = contexts(network)
    state = torch.random.get_rng_state()
    module = to_module(network)
    assert torch.equal(torch.random.get_rng_state(), state), "no random number is drawn"
    assert not any(m.training for m in module.modules() if isinstance(m, TorchModule))
    assert all(p.requires_grad for p in module.parameters())
    assert torch.equal(module(X), network(X))
    assert torch.equal(module(X[:0]), network(X[:0])), "a batch of none"
    assert sum(p.numel() for p in module.parameters()) == sum(p.numel() for p in network.parameters())
    require_same_tensors(dict(module.state_dict()), network.state_dict())
    parameters = {key for key, _ in network.named_parameters()}
    assert {key for key, _ in module.named_parameters()} == parameters
    assert {key for key, _ in module.named_buffers()} == network.state_dict().keys() - parameters
    own = {tensor.data_ptr() for tensor in network.state_dict().values()}
    assert own.isdisjoint(tensor.data_ptr() for tensor in module.state_dict().values())


@pytest.mark.parametrize("name", NAMES)
def test_training_is_the_same_bits(name: str) -> None:
    """Outputs and gradients, by the lecture's unbiased variance; running statistics; the masks of Dropout."""
    network = built(name).train()
    module = to_module(network)
    assert all(m.training for m in module.modules() if isinstance(m, TorchModule))
    for step in range(3):
        X = contexts(network).roll(step, 0)
        outputs = []
        for either in (network, module):
            torch.manual_seed(step)
            outputs.append(either(X))
            outputs[-1].square().sum().backward()
        assert torch.equal(*outputs)
        require_same_tensors(dict(module.state_dict()), network.state_dict())
        gradients = {key: p.grad for key, p in module.named_parameters()}
        require_same_tensors(gradients, {key: p.grad for key, p in network.named_parameters()})
        with torch.no_grad():
            for p in (*module.parameters(), *network.parameters()):
                p -= 0.1 * p.grad
                p.grad = None
    assert torch.equal(module.eval()(X), network.eval()(X))


@pytest.mark.parametrize("name", NAMES)
def test_back_come_the_same_bits(name: str) -> None:
    network = built(name)
    X = contexts(network)
    back = from_module(to_module(network))
    assert type(back) is type(network)
    assert repr(back) == repr(network)
    assert back.block_size == network.block_size
    assert not any(layer.training for layer in back.modules())
    require_same_tensors(back.state_dict(), network.state_dict())
    for key, tensor in network.state_dict().items():
        assert back.state_dict()[key].data_ptr() != tensor.data_ptr()
    assert torch.equal(back(X), network(X))
    assert all(p.requires_grad and p.is_leaf for p in back.parameters())
    for layer, other in zip(network.modules(), back.modules(), strict=True):
        own = {key: value for key, value in vars(layer).items() if isinstance(value, int | float)}
        assert own == {key: getattr(other, key) for key in own}


def test_each_layer_keeps_its_mode() -> None:
    network = built("wavenet")
    network.layers[3].train()
    module = to_module(network)
    trained = [name for name, m in module.named_modules() if isinstance(m, TorchModule) and m.training]
    assert trained == ["3"]
    assert [layer.training for layer in from_module(module).modules()].count(True) == 1


def test_a_module_is_trained_by_torch_and_comes_back_for_the_commands() -> None:
    module = to_module(built("wavenet").train())
    vocabulary = Vocabulary("abcdefgh")
    examples = Examples(encode_words(vocabulary, ["abba", "abc", "cab", "bacca"] * 8), 8)
    X, Y = examples[:]
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    first = loss(built("wavenet"), examples)
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(module(X), Y).backward()
        optimizer.step()
    trained = from_module(module.eval())
    assert isinstance(trained, Sequential)
    assert loss(trained, examples) < first - 0.5
    assert torch.equal(trained(X), module(X))
    assert list(generate(trained, vocabulary, Generator().manual_seed(1), 2))


@pytest.mark.parametrize("name", NAMES)
def test_copies_pickles_and_other_types(name: str) -> None:
    network = built(name)
    X = contexts(network)
    module = to_module(network)
    module(X).sum().backward()
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(X), module(X))
        with torch.no_grad():
            next(other.parameters()).add_(1)
        assert not torch.equal(other(X), module(X))
    double = network.to(dtype=torch.float64)
    X = contexts(network)
    torch.testing.assert_close(module.to(torch.float64)(X), double(X), rtol=1e-13, atol=1e-13)
    require_same_tensors(dict(module.state_dict()), double.state_dict())
    fresh = to_module(built(name))
    fresh.load_state_dict({key: 2 * value for key, value in built(name).state_dict().items()})
    for key, value in from_module(fresh).state_dict().items():
        assert torch.equal(value, 2 * built(name).state_dict()[key])


def test_a_module_is_small_and_holds_nothing_of_the_network() -> None:
    network = network_plan("wavenet").build(27)
    module = to_module(network)
    size = sum(4 * tensor.numel() for tensor in network.state_dict().values())
    assert len(pickle.dumps(module)) < size + 20_000, "each tensor once"
    X = contexts(network)
    before = module.eval()(X)
    network.to(dtype=torch.float64)
    network.layers.clear()
    assert torch.equal(module(X), before)


def test_calls_leave_nothing_behind() -> None:
    network = built("wavenet-paper")
    module = to_module(network)
    X = contexts(network)
    before = [set(vars(m)) for m in module.modules()]
    module(X)
    assert [set(vars(m)) for m in module.modules()] == before
    assert not any(isinstance(value, Tensor) for m in module.modules() for value in vars(m).values())


def test_submodules_are_called_and_work_alone() -> None:
    network = built("wavenet-paper")
    X = contexts(network)
    module = to_module(network)
    called: dict[str, Tensor] = {}
    for name, child in module.named_modules():
        if isinstance(child, TorchModule):
            child.register_forward_hook(lambda _, args, out, name=name: called.update({name: out}))
    logits = module(X)
    assert torch.equal(logits, network(X))
    assert torch.equal(called[""], logits)
    assert torch.equal(called["1.blocks.0.body"], network.layers[1].blocks[0].z)
    assert len(called) == sum(isinstance(m, TorchModule) for m in module.modules())
    embedded = network.layers[0](X)
    block = network.layers[1].blocks[0]
    assert torch.equal(module.get_submodule("1.blocks.0")(embedded), block(embedded))
    assert repr(from_module(module.get_submodule("1.blocks.0"))) == repr(block)


def test_a_replaced_submodule_is_called() -> None:
    """As tools do that put another module in the place of one."""
    network = built("wavenet")
    module = to_module(network)
    last = network.layers[-1]
    other = nn.Linear(*last.weight.shape)
    with torch.no_grad():
        other.weight.copy_(last.weight.T)
        other.bias.copy_(last.bias)
    module.add_module(str(len(network.layers) - 1), other)
    X = contexts(network)
    torch.testing.assert_close(module(X), network(X), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="from_module needs a module made by to_module, got Linear"):
        from_module(module)


@pytest.mark.full
def test_torch_compile_traces_a_whole_network() -> None:
    network = built("wavenet-paper")
    X = contexts(network)
    compiled = torch.compile(to_module(network), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(X), network(X))


class Gelu(Layer):
    """A layer without tensors."""

    def __call__(self, x: Tensor) -> Tensor:
        self.out = F.gelu(x)
        return self.out


class Scaled(Layer):
    """With a tensor, a buffer that it replaces in training, as the lecture does, and a constant."""

    PARAMETERS = ("scale", "shift")
    BUFFERS = ("mean", "unused")

    def __init__(self, dim: int) -> None:
        self.scale, self.shift = torch.full((dim,), 2.0), None
        self.mean, self.unused = torch.zeros(dim), None
        self.signs = torch.tensor([1.0, -1.0]).repeat(dim // 2)

    def __call__(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.mean = 0.9 * self.mean + 0.1 * x.flatten(0, -2).mean(0)
        self.out = self.scale * self.signs * (x - self.mean)
        return self.out


class Plus(Layer):
    """A composite layer: x + inner(x)."""

    composite = True

    def __init__(self, inner: Layer) -> None:
        self.inner = inner

    def __call__(self, x: Tensor) -> Tensor:
        self.out = x + self.inner(x)
        return self.out

    def named_children(self) -> Iterator[tuple[str, Layer]]:
        yield "inner", self.inner


class Attention(Layer):
    """Two heads of causal self-attention, undeclared. Its layers are in a list, a tuple and a dict."""

    PARAMETERS = ("temperature",)

    def __init__(self, dim: int) -> None:
        self.temperature = torch.tensor(1.5)
        self.queries = [Linear(dim, dim // 2) for _ in range(2)]
        self.keys = tuple(Linear(dim, dim // 2) for _ in range(2))
        self.others = {"value": Linear(dim, dim), "last": Linear(dim, dim)}

    def __call__(self, x: Tensor) -> Tensor:
        T, dim = x.shape[1:]
        future = torch.ones(T, T, dtype=torch.bool).triu(1)
        heads = []
        for query, key, value in zip(
            self.queries, self.keys, self.others["value"](x).chunk(2, dim=2), strict=True
        ):
            scores = query(x) @ key(x).transpose(1, 2) / (self.temperature * math.sqrt(dim))
            heads.append(scores.masked_fill(future, -math.inf).softmax(2) @ value)
        self.out = self.others["last"](torch.cat(heads, dim=2))
        return self.out

    def named_children(self) -> Iterator[tuple[str, Layer]]:
        for i in range(2):
            yield f"queries.{i}", self.queries[i]
            yield f"keys.{i}", self.keys[i]
        yield from self.others.items()


class Cell(Layer):
    """A gated recurrent unit that calls its layers once for each position, and reads what they hold."""

    def __init__(self, dim: int) -> None:
        self.gates, self.candidate = Linear(2 * dim, 2 * dim), Linear(2 * dim, dim)

    def __call__(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], self.candidate.weight.shape[1])
        for x_t in x.unbind(1):
            reset, update = self.gates(torch.cat([x_t, h], dim=1)).sigmoid().chunk(2, dim=1)
            h = update * h + (1 - update) * self.candidate(torch.cat([x_t, reset * h], dim=1)).tanh()
        self.out = h + self.candidate.out  # an output that a child has stored
        return self.out

    def named_children(self) -> Iterator[tuple[str, Layer]]:
        yield from (("gates", self.gates), ("candidate", self.candidate))


class TiedOutput(Layer):
    """Logits by the table of an embedding: one tensor and one layer in two places."""

    def __init__(self, embedding: Embedding) -> None:
        self.embedding = embedding

    def __call__(self, x: Tensor) -> Tensor:
        self.out = x @ self.embedding.weight.T
        return self.out

    def named_children(self) -> Iterator[tuple[str, Layer]]:
        yield "embedding", self.embedding


def own_network() -> Any:
    torch.manual_seed(1)
    embedding = Embedding(V, 6)
    network = Sequential(
        [
            *[embedding, Gelu(), Scaled(6), Plus(Attention(6)), Plus(Sequential([Linear(6, 6), Tanh()]))],
            *[FlattenConsecutive(2), BatchNorm1d(12), Linear(12, 6), Cell(6), TiedOutput(embedding)],
        ]
    )
    network.block_size = 8
    for p in network.parameters():
        p.requires_grad = True
    return moved(network)


def test_own_layers_are_converted_without_registration() -> None:
    network, module = own_network(), to_module(own_network())
    X = contexts(network)
    assert torch.equal(module(X), network(X))
    require_same_tensors(dict(module.state_dict()), network.state_dict())
    assert len(list(module.parameters())) == len(network.parameters()), "a shared tensor is one parameter"
    network.train()
    module.train()
    for _ in range(2):
        outputs = network(X), module(X)
        assert torch.equal(*outputs)
        for out in outputs:
            out.sum().backward()
    require_same_tensors(dict(module.state_dict()), network.state_dict())
    assert network.layers[2].mean.abs().sum() > 0
    assert torch.equal(module.get_parameter("0.weight").grad, network.layers[0].weight.grad)
    network.eval()
    module.eval()
    assert torch.equal(copy.deepcopy(module)(X), network(X))
    back: Any = from_module(module)
    assert torch.equal(back(X), network(X))
    assert back.layers[-1].embedding is back.layers[0]
    assert type(back.layers[3].inner.keys) is tuple
    assert back.layers[2].shift is None
    program = torch.export.export(module, (X[:2],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    for rows in (1, 3, 50):
        torch.testing.assert_close(program.module()(X[:rows]), network(X[:rows]))


def test_own_layers_are_trained_by_torch() -> None:
    module = to_module(own_network().train())
    X = contexts(own_network())
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        value = F.cross_entropy(module(X), X[:, -1])
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < losses[0] / 2
    assert torch.equal(from_module(module.eval())(X), module(X))


class Hidden(Layer):
    """A layer whose child is where nobody looks."""

    def __init__(self) -> None:
        self.inner = {Linear(2, 2)}

    def named_children(self) -> Iterator[tuple[str, Layer]]:
        yield "inner", next(iter(self.inner))


def test_what_cannot_be_converted_is_refused_in_one_line() -> None:
    for module, name in [
        (nn.Sequential(nn.BatchNorm1d(3)), "Sequential"),
        (nn.Linear(2, 3), "Linear"),
        (nn.DataParallel(to_module(Linear(2, 3))), "DataParallel"),
    ]:
        with pytest.raises(ValueError, match=rf"^from_module needs a module made by to_module, got {name}$"):
            from_module(module)
    with pytest.raises(
        ValueError, match=r"^Hidden cannot be converted: keep inner in an attribute, or in a list"
    ):
        to_module(Hidden())


@pytest.mark.parametrize(
    "layer", [Linear(3, 4), Embedding(5, 3), BatchNorm1d(4), HistoricBatchNorm1d(4, 2), Tanh(), Gelu()]
)
def test_a_single_layer_is_a_module(layer: Layer) -> None:
    module = to_module(layer)
    assert str(layer) in str(module)
    assert repr(from_module(module)) == repr(layer)


@pytest.mark.parametrize(
    "name",
    [
        "wavenet",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("hierarchical-bug", "wavenet-paper", f"{TWO}gated")
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch 2.9, reading its own file
def test_torch_export_of_any_batch(name: str) -> None:
    network = built(name)
    X = contexts(network)
    program = torch.export.export(
        to_module(network), (X[:2],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    )
    assert set(program.state_dict) == set(network.state_dict())
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for rows in (1, 3, 50):
        torch.testing.assert_close(loaded(X[:rows]), network(X[:rows]), rtol=1e-5, atol=1e-5)


def onnx_file(name: str, path: Path) -> Any:
    """Write a network's ONNX file, and return the program that runs such files."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install {package}")
    import onnxruntime

    network = built(name)
    torch.onnx.export(
        to_module(network), (contexts(network, 2),), path, dynamic_shapes=({0: "batch"},), verbose=False
    )
    return onnxruntime


@pytest.mark.full
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "name",
    [
        "wavenet",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("hierarchical-bug", "wavenet-paper")),
    ],
)
def test_onnx_runs_elsewhere(name: str, tmp_path: Path) -> None:
    onnxruntime = onnx_file(name, tmp_path / "network.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx")
    network = built(name)
    X = contexts(network)
    for rows in (1, 3, 50):
        (logits,) = session.run(None, {session.get_inputs()[0].name: X[:rows].numpy()})
        torch.testing.assert_close(torch.tensor(logits), network(X[:rows]), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_quantized_by_onnxruntime(tmp_path: Path) -> None:
    """Weights as 8-bit integers, unsigned: sums of signed ones overflow where a processor has no VNNI."""
    onnxruntime = onnx_file("wavenet", tmp_path / "network.onnx")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(tmp_path / "network.onnx", tmp_path / "small.onnx", weight_type=QuantType.QUInt8)
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx")
    network = built("wavenet")
    X = contexts(network)
    (logits,) = session.run(None, {session.get_inputs()[0].name: X.numpy()})
    expected = network(X)
    assert (torch.tensor(logits) - expected).abs().max() < 0.1 * expected.abs().max()


def test_frozen_parameters_stay_frozen_there_and_back() -> None:
    network = network_plan("hierarchical", 8, 4, 6).build(27, Generator().manual_seed(1))
    network.layers[0].weight.requires_grad = False  # type: ignore[attr-defined]
    module = to_module(network)
    assert [name for name, p in module.named_parameters() if not p.requires_grad] == ["0.weight"]
    back = from_module(module)
    assert [name for name, p in back.named_parameters() if not p.requires_grad] == ["0.weight"]
    for p in network.parameters():
        p.requires_grad = False
    assert all(p.requires_grad for p in to_module(network).parameters())
