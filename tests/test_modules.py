"""Twins of layers: the same values there and back, and files that other programs run."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from makemore import from_module, generate, loss, to_module
from makemore.ensemble import build
from makemore.layers import BatchNorm1d, Embedding, HistoricBatchNorm1d, Layer, Linear, RMSNorm, Sequential
from makemore.modules import TWINS, Twin
from makemore.networks import NETWORKS, network_plan
from makemore.words import Examples, Vocabulary

TWO = "two of "
NAMES = [*NETWORKS, f"{TWO}gated"]
SIZES = {"wavenet-paper": {"stacks": 2}}


def built(name: str, dtype: torch.dtype = torch.float32) -> Sequential:
    """A small network, or an ensemble of two, whose every value has moved away from where it began."""
    plan = network_plan(name.removeprefix(TWO), n_embd=6, n_hidden=10, **SIZES.get(name, {}))
    members = 2 if name.startswith(TWO) else None
    network = build(plan, members, 9, Generator().manual_seed(1)).to(dtype=dtype)
    generator = Generator().manual_seed(2)
    for key, tensor in network.state_dict().items():
        noise = 0.3 * torch.randn(tensor.shape, generator=generator, dtype=dtype)
        tensor.add_(noise.abs() if key.endswith("running_var") else noise)
    return network.eval()


def contexts(name: str, rows: int = 50) -> Tensor:
    plan = network_plan(name.removeprefix(TWO), **SIZES.get(name, {}))
    return torch.randint(0, 9, (rows, plan.block_size), generator=Generator().manual_seed(3))


def test_every_kind_of_layer_has_a_twin() -> None:
    kinds = {kind for name in NAMES for kind in map(type, built(name).modules())} | {RMSNorm}
    assert set(TWINS) == kinds
    twins = set(TWINS.values())
    assert len({twin.module for twin in twins}) == len(twins)


@pytest.mark.parametrize("name", NAMES)
def test_the_module_has_the_networks_values_and_torchs_layers(name: str) -> None:
    network, X = built(name), contexts(name)
    state = torch.random.get_rng_state()
    module = to_module(network)
    assert torch.equal(torch.random.get_rng_state(), state), "no random number is drawn"
    torch.testing.assert_close(module(X), network(X), rtol=1e-5, atol=1e-5)
    assert not module.training
    assert all(p.requires_grad for p in module.parameters())
    doubled = to_module(network.to(dtype=torch.float64))
    torch.testing.assert_close(doubled(X), network(X), rtol=1e-13, atol=1e-13)
    assert torch.equal(module(X[:0]), network(X[:0])), "a batch of none"
    assert sum(p.numel() for p in module.parameters()) == sum(p.numel() for p in network.parameters())
    for linear in (m for m in module.modules() if isinstance(m, nn.Linear)):
        assert linear.weight.is_contiguous()


@pytest.mark.parametrize("name", NAMES)
def test_back_come_the_same_bits(name: str) -> None:
    network, X = built(name), contexts(name)
    back = from_module(to_module(network))
    assert isinstance(back, Sequential)
    assert repr(back) == repr(network)
    assert not back.training
    assert back.state_dict().keys() == network.state_dict().keys()
    for key, tensor in network.state_dict().items():
        assert torch.equal(back.state_dict()[key], tensor), key
        assert back.state_dict()[key].data_ptr() != tensor.data_ptr()
    assert torch.equal(back(X), network(X))
    assert all(p.requires_grad for p in back.parameters())
    for layer, other in zip(network.modules(), back.modules(), strict=True):
        own = {key: value for key, value in vars(layer).items() if isinstance(value, int | float)}
        assert own == {key: getattr(other, key) for key in own}


def test_a_module_may_be_trained_by_torch_and_comes_back_for_the_commands() -> None:
    network = built("wavenet").train()
    module = to_module(network)
    assert module.training
    assert module[3].training
    words = ["abba", "abc", "cab", "bacca"] * 8
    vocabulary = Vocabulary("abcdefgh")
    examples = Examples(vocabulary.encode_all(words), 8)
    X, Y = examples[:]
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    first = loss(network, examples)
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(X), Y).backward()
        optimizer.step()
    trained = from_module(module.eval())
    assert isinstance(trained, Sequential)
    assert loss(trained, examples) < first - 0.5
    assert list(generate(trained, vocabulary, Generator().manual_seed(1), 2))


def test_what_is_no_twin_is_refused() -> None:
    class Own(Linear):
        pass

    with pytest.raises(ValueError, match="Own has no module as its twin"):
        to_module(Own(2, 3))
    with pytest.raises(ValueError, match="BatchNorm1d is the twin of no layer"):
        from_module(nn.Sequential(nn.BatchNorm1d(3)))
    with pytest.raises(ValueError, match="no max_norm"):
        from_module(nn.Embedding(3, 2, max_norm=1.0))
    with pytest.raises(ValueError, match="an eps, one dimension and gamma"):
        from_module(nn.RMSNorm(3))


class Gelu(Layer):
    """A layer of one's own."""

    def __call__(self, x: Tensor) -> Tensor:
        self.out = nn.functional.gelu(x)
        return self.out


def test_a_layer_of_ones_own_can_be_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TWINS, Gelu, Twin(nn.GELU, lambda _: nn.GELU(), lambda _: Gelu()))
    network = Sequential([Embedding(5, 3), Linear(3, 4), Gelu(), BatchNorm1d(4), HistoricBatchNorm1d(4)])
    X = torch.randint(0, 5, (7,), generator=Generator().manual_seed(1))
    module = to_module(network.eval())
    torch.testing.assert_close(module(X), network(X))
    assert repr(from_module(module)) == repr(network)


@pytest.mark.parametrize(
    "name",
    [
        "wavenet",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("hierarchical-bug", "wavenet-paper")),
    ],
)
@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch 2.9, reading its own file
def test_torch_export_of_any_batch(name: str) -> None:
    network, X = built(name), contexts(name)
    program = torch.export.export(
        to_module(network), (X[:2],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    )
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for rows in (1, 3, 50):
        torch.testing.assert_close(loaded(X[:rows]), network(X[:rows]), rtol=1e-5, atol=1e-5)


def onnx_file(name: str, path: Path) -> Any:
    """A network's ONNX file, written once, and the program that runs such files."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(
            package, reason=f"{package} is not installed: pip install 'makemore-wavenet[test]'"
        )
    import onnxruntime

    torch.onnx.export(
        to_module(built(name)), (contexts(name, 2),), path, dynamic_shapes=({0: "batch"},), verbose=False
    )
    return onnxruntime


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["wavenet", pytest.param("wavenet-paper", marks=pytest.mark.slow)])
def test_onnx_runs_elsewhere(name: str, tmp_path: Path) -> None:
    onnxruntime = onnx_file(name, tmp_path / "network.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx")
    network, X = built(name), contexts(name)
    for rows in (1, 3, 50):
        (logits,) = session.run(None, {session.get_inputs()[0].name: X[:rows].numpy()})
        torch.testing.assert_close(torch.tensor(logits), network(X[:rows]), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_quantised_by_onnxruntime(tmp_path: Path) -> None:
    """Weights as 8-bit integers, unsigned: sums of signed ones overflow where a processor has no VNNI."""
    onnxruntime = onnx_file("wavenet", tmp_path / "network.onnx")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(tmp_path / "network.onnx", tmp_path / "small.onnx", weight_type=QuantType.QUInt8)
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx")
    network, X = built("wavenet"), contexts("wavenet")
    (logits,) = session.run(None, {session.get_inputs()[0].name: X.numpy()})
    expected = network(X)
    assert (torch.tensor(logits) - expected).abs().max() < 0.1 * expected.abs().max()
