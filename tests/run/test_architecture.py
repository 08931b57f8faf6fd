"""Model files describe the layers of a network: any network comes back, equal to the bit, or is refused."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from forged_files import content_of, forged
from torch import Generator

import makemore
from makemore.core.errors import ModelFileError, UsageError
from makemore.core.graph import context_length
from makemore.core.layer import Layer
from makemore.inference.generation import generate
from makemore.lecture.layers import (
    BatchNorm1d,
    Embedding,
    FlattenConsecutive,
    HistoricBatchNorm1d,
    Linear,
    Sequential,
    Tanh,
)
from makemore.lecture.words import Vocabulary
from makemore.paper.layers import (
    Dropout,
    FlattenDilated,
    GatedActivation,
    LayerNorm,
    ReLU,
    ResidualBlock,
    RMSNorm,
    SkipConnections,
    TakeLast,
)
from makemore.run import architecture
from makemore.run.architecture import PACKAGE, build, describe, register_layer
from makemore.run.catalog import NETWORKS, network_plan
from makemore.run.model_file import Model, load_model, model_bytes, read_model, save_model
from makemore.training.ensemble import Ensemble

V = 5
VOCABULARY = Vocabulary("abcd")


@pytest.fixture(autouse=True)
def only_these_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layers that a test registers are forgotten after it."""
    monkeypatch.setattr(architecture, "_registered", {})


def by_hand() -> Sequential:
    """The network of the README, smaller."""
    network = Sequential([
        Embedding(V, 6),
        FlattenConsecutive(2), Linear(12, 7, bias=False), BatchNorm1d(7), Tanh(),
        FlattenConsecutive(2), Linear(14, 8, bias=False), BatchNorm1d(8, eps=1e-3, momentum=0.2), Tanh(),
        Linear(8, V),
    ])  # fmt: skip
    cast(Linear, network.layers[-1]).weight *= 0.1
    return network


def nested() -> Sequential:
    first, *others = by_hand().layers
    return Sequential(
        [Sequential([first, Sequential([])]), Sequential([Sequential(others[:4]), *others[4:]])]
    )


def residual() -> Sequential:
    """Blocks with and without a projection, one alone and others in skip connections."""
    alone = ResidualBlock(
        FlattenDilated(2, 1), [Linear(12, 10), RMSNorm(10, 0.5), GatedActivation()], Linear(5, 6)
    )
    first = ResidualBlock(FlattenDilated(3, 2), [Linear(18, 8), LayerNorm(8, 0.25), ReLU()], Linear(8, 6))
    second = ResidualBlock(FlattenConsecutive(2), [Sequential([Linear(12, 4), Tanh()])], None)
    skips = [Sequential([TakeLast(1, skip=1), Linear(8, 9)]), Linear(4, 9)]
    return Sequential(
        [Embedding(V, 6), alone, SkipConnections([first, second], skips), Dropout(0.3), Linear(9, V)]
    )


def with_the_bug() -> Sequential:
    layers = [
        Embedding(V, 3),
        FlattenConsecutive(2),
        HistoricBatchNorm1d(6, 2, 1e-4, 0.3),
        FlattenConsecutive(2),
    ]
    return Sequential([*layers, HistoricBatchNorm1d(12), Linear(12, V)])


def changed(change: Callable[[list[Any]], Any]) -> Callable[[], Sequential]:
    """The default network after a change to its layers."""

    def make() -> Sequential:
        network = network_plan(n_embd=4, n_hidden=6).build(V)
        change(network.layers)
        return network

    return make


def replaced(layers: list[Layer], i: int, layer: Layer) -> None:
    layers[i] = layer


def tied() -> Sequential:
    """Two layers share their weight, and a layer is used twice."""
    twice = Linear(6, 6)
    network = Sequential(
        [Embedding(V, 6), FlattenConsecutive(1), Linear(6, 6), twice, Tanh(), twice, Linear(6, V)]
    )
    cast(Linear, network.layers[2]).bias = twice.bias
    return network


NETWORKS_BY_HAND: dict[str, Callable[[], Layer]] = {
    "README": by_hand,
    "nested": nested,
    "residual": residual,
    "the bug": with_the_bug,
    "ensemble": lambda: Ensemble([by_hand(), nested()]),
    "ensemble of ensembles": lambda: Ensemble([Ensemble([by_hand()]), nested()]),
    "tied": tied,
    "ReLU in place of Tanh": changed(lambda layers: replaced(layers, 4, ReLU())),
    "another eps": changed(lambda layers: setattr(layers[3], "eps", 0.1)),
    "another momentum": changed(lambda layers: setattr(layers[3], "momentum", 0.5)),
    "another layer": changed(lambda layers: layers.insert(5, Dropout(0.25))),
}
NETWORKS_BY_HAND["another width"] = changed(
    lambda layers: layers.__setitem__(
        slice(2, 7), [Linear(8, 9), LayerNorm(9), Tanh(), FlattenConsecutive(2), Linear(18, 6, bias=False)]
    )
)


def shaken(network: Layer) -> Layer:
    """The network with values that it does not start with."""
    generator = Generator().manual_seed(3)
    for name, tensor in network.state_dict().items():
        tensor.add_(torch.randn(tensor.shape, generator=generator).abs() if "var" in name else 0.1)
    return network.eval()


def bits_of(network: Layer) -> dict[str, tuple[torch.dtype, torch.Size, bytes]]:
    return {
        name: (t.dtype, t.shape, t.contiguous().view(torch.uint8).numpy().tobytes())
        for name, t in network.state_dict().items()
    }


def saved_and_loaded(network: Layer, path: Path, vocabulary: Vocabulary = VOCABULARY) -> Layer:
    save_model(Model(network, vocabulary), path)
    model = load_model(path)
    assert model.vocabulary.characters == vocabulary.characters
    assert model_bytes(model) == path.read_bytes()
    return model.network


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", NETWORKS_BY_HAND)
def test_any_network_comes_back_to_the_bit(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    network = shaken(NETWORKS_BY_HAND[name]()).to(dtype)
    loaded = saved_and_loaded(network, tmp_path / "model")
    assert bits_of(loaded) == bits_of(network)
    assert describe(loaded) == describe(network)
    assert repr(loaded) == repr(network)
    trained = [p.requires_grad for p in network.parameters()]
    expected = trained if any(trained) else [True] * len(trained)
    assert [p.requires_grad for p in loaded.parameters()] == expected
    assert len(loaded.parameters()) == len(network.parameters())
    X = torch.randint(V, (7, context_length(network)))
    assert torch.equal(loaded(X), network(X))
    if dtype in (torch.float32, torch.float64):  # also in training
        a, b = copy.deepcopy(network).train(), loaded.train()
        torch.manual_seed(1)
        expected = a(X)
        torch.manual_seed(1)
        assert torch.equal(b(X), expected)
        assert bits_of(b) == bits_of(a)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_plan_is_kept_as_long_as_it_is_true(name: str, tmp_path: Path) -> None:
    plan = network_plan(name, n_embd=4, n_hidden=6)
    network = plan.build(V)
    save_model(Model(network, VOCABULARY, plan), tmp_path / "model")
    assert load_model(tmp_path / "model").plan == plan
    network.layers.append(ReLU())
    save_model(Model(network, VOCABULARY, plan), tmp_path / "model")
    model = load_model(tmp_path / "model")
    assert (model.plan, model.name, model.block_size) == (None, "Sequential", plan.block_size)
    assert isinstance([*model.network.modules()][-1], ReLU)


def test_tensors_of_mixed_dtypes_keep_them(tmp_path: Path) -> None:
    network = by_hand()
    layers = cast(list[Any], network.layers)
    layers[0].weight = layers[0].weight.to(torch.bfloat16)
    layers[3].running_var = layers[3].running_var.double()
    assert bits_of(saved_and_loaded(network, tmp_path / "model")) == bits_of(network)


def test_shared_tensors_are_shared_again(tmp_path: Path) -> None:
    loaded = saved_and_loaded(tied(), tmp_path / "model")
    assert isinstance(loaded, Sequential)
    layers = cast(list[Any], loaded.layers)
    assert layers[3].weight is layers[5].weight
    assert layers[2].bias is layers[3].bias
    assert layers[2].weight is not layers[3].weight


def test_a_network_loaded_in_inference_mode_can_be_trained(small_model: Model, tmp_path: Path) -> None:
    save_model(small_model, tmp_path / "model")
    with torch.inference_mode():
        model = load_model(tmp_path / "model")
    network = model.network.train()
    network(torch.zeros((4, 8), dtype=torch.int64)).sum().backward()
    with torch.no_grad():
        for p in network.parameters():
            assert not p.is_inference()
            p -= 0.1 * p.grad


def layer_classes() -> Iterator[type[Layer]]:
    for name in makemore.__all__:
        value = getattr(makemore, name)
        if isinstance(value, type) and issubclass(value, Layer) and value is not Layer:
            yield value


def test_every_layer_of_the_package_is_known() -> None:
    assert {kind.cls for kind in PACKAGE.values()} == set(layer_classes())


class MeanOverPositions(Layer):
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.out = x.mean(dim=1)  # (B, T, C) -> (B, C)
        return self.out


class Shift(Layer):
    PARAMETERS = ("by",)
    BUFFERS = ("mask",)

    def __init__(self, width: int, *, factor: float = 1.0, inner: Layer | None = None) -> None:
        self.by = torch.randn(width)
        self.mask = torch.full((width,), -torch.inf)
        self.factor, self.inner = factor, inner

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.out = (x if self.inner is None else self.inner(x)) + self.factor * self.by
        return self.out

    def named_children(self) -> Iterator[tuple[str, Layer]]:
        if self.inner is not None:
            yield "inner", self.inner


def with_own_layers() -> Sequential:
    network = Sequential(
        [Embedding(V, 6), MeanOverPositions(), Shift(6, factor=2.5, inner=Linear(6, 6)), Linear(6, V)]
    )
    network.block_size = 3
    return network


def shift_arguments(shift: Shift) -> dict[str, Any]:
    return {"width": len(shift.by), "factor": shift.factor, "inner": shift.inner}


def test_layers_of_users_are_registered(tmp_path: Path) -> None:
    network = with_own_layers()
    path = tmp_path / "model"
    with pytest.raises(
        UsageError,
        match=r"cannot be saved: layer 1 is a MeanOverPositions, a class that model files do not know: call"
        r" makemore\.register_layer\(MeanOverPositions",
    ):
        save_model(Model(network, VOCABULARY), path)
    assert not path.exists()
    assert register_layer(MeanOverPositions) is MeanOverPositions
    register_layer(Shift, shift_arguments)
    loaded = saved_and_loaded(network, path)
    assert bits_of(loaded) == bits_of(network)
    assert loaded.block_size == 3
    X = torch.randint(V, (4, 3))
    assert torch.equal(loaded(X), network(X))
    assert len(list(generate(loaded, VOCABULARY, Generator().manual_seed(1), 3))) == 3
    architecture._registered.clear()
    with pytest.raises(
        ModelFileError, match=r"layer 'MeanOverPositions' is not known: .*makemore\.register_layer"
    ):
        load_model(path)


def test_arguments_that_do_not_describe_a_layer_are_refused_when_saving(tmp_path: Path) -> None:
    register_layer(MeanOverPositions)
    network = with_own_layers()

    def refused(arguments: Any, message: str) -> None:
        architecture._registered.pop("Shift", None)
        register_layer(Shift, arguments)
        with pytest.raises(UsageError, match=message):
            save_model(Model(network, VOCABULARY), tmp_path / "model")

    refused([], "Shift: missing a required argument: 'width'")
    refused(["width"], "layer 2 is a Shift, whose arguments cannot be read: .* has no attribute 'width'")
    refused(lambda shift: {"width": 7, "inner": shift.inner}, r"2\.by has shape \(6,\), not \(7,\)")
    refused(lambda shift: {"width": 6}, "missing or unexpected tensors")
    refused(lambda shift: shift_arguments(shift) | {"factor": shift.by}, "argument factor cannot be saved")
    refused(lambda shift: shift_arguments(shift) | {"factor": torch.inf}, "argument factor cannot be saved")
    refused(lambda shift: shift_arguments(shift) | {"factor": "2"}, "Shift cannot have factor = '2'")


def test_a_name_belongs_to_one_class() -> None:
    def make(qualname: str) -> type[Layer]:
        return type("Tanh2", (Layer,), {"__qualname__": qualname})

    register_layer(make("Tanh2"))
    register_layer(make("Tanh2"))  # a cell of a notebook that is run again
    with pytest.raises(ValueError, match="another class is registered as 'Tanh2'"):
        register_layer(make("other.Tanh2"))
    with pytest.raises(ValueError, match="another class is registered as 'Tanh'"):
        register_layer(type("Tanh", (Layer,), {}))


def test_a_subclass_is_not_taken_for_its_base(tmp_path: Path) -> None:
    class Softer(Tanh):
        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return super().__call__(0.5 * x)

    network = by_hand()
    network.layers[4] = Softer()
    with pytest.raises(UsageError, match="layer 4 is a Softer, a class that model files do not know"):
        save_model(Model(network, VOCABULARY), tmp_path / "model")


def block_with_another_residual() -> Sequential:
    network = residual()
    block = network.layers[1]
    assert isinstance(block, ResidualBlock)
    block.take_last = TakeLast(1, 0)
    return network


def endless() -> Sequential:
    network = by_hand()
    network.layers.append(network)
    return network


def without_context() -> Sequential:
    register_layer(MeanOverPositions)
    return Sequential([Embedding(V, 6), MeanOverPositions(), Linear(6, V)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (changed(lambda layers: layers[3].gamma.data.fill_(torch.nan)), "3.gamma has values that are not"),
        (changed(lambda layers: layers[3].running_mean.fill_(torch.inf)), "3.running_mean has values"),
        (changed(lambda layers: layers[3].running_var.fill_(-1)), "3.running_var has negative values"),
        (changed(lambda layers: setattr(layers[3], "eps", torch.ones(1))), "argument eps cannot be saved"),
        (changed(lambda layers: setattr(layers[3], "gamma", torch.ones(6).int())), "torch.int32"),
        (changed(lambda layers: replaced(layers, 0, Embedding(V + 1, 4))), "Embedding.6, 4. for a voc"),
        (changed(lambda layers: layers.append(Linear(5, 6))), "Linear.5, 6. gives the logits of"),
        (changed(lambda layers: layers.extend([Linear(5, 6), Tanh()])), "Linear.5, 6. gives the logits"),
        (block_with_another_residual, "a layer that was changed"),
        (endless, "in more than 100 layers within each other"),
        (without_context, "set network.block_size"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_again_is_refused_when_saving(
    make: Callable[[], Layer], message: str, tmp_path: Path
) -> None:
    network = make()
    with pytest.raises(UsageError, match=f"^the network cannot be saved: .*{message}"):
        save_model(Model(network, VOCABULARY), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Embedding\(5, 6\) for a vocabulary of 4 symbols"):
        save_model(Model(by_hand(), Vocabulary("abc")), tmp_path / "model")


def deep(levels: int) -> dict[str, Any]:
    description: dict[str, Any] = {"layer": "Tanh", "arguments": {}}
    for _ in range(levels):
        description = {"layer": "Sequential", "arguments": {"layers": [description]}}
    return description


def layer(name: Any, **arguments: Any) -> dict[str, Any]:
    return {"layer": name, "arguments": arguments}


FORGED = [
    (None, "a layer needs the fields layer, arguments"),
    ([], "a layer needs the fields"),
    ({}, "a layer needs the fields"),
    (layer("Tanh") | {"more": 1}, "a layer needs the fields"),
    ({"layer": "Tanh", "arguments": []}, "Tanh needs arguments by name"),
    (layer("os.system"), "the layer 'os.system' is not known"),
    (layer(["Tanh"]), "is not known"),
    (layer("__class__"), "is not known"),
    (layer("Tanh", x=1), "Tanh: got an unexpected keyword argument 'x'"),
    (layer("Linear", fan_in=3), "Linear: missing a required argument: 'fan_out'"),
    (layer("Linear", fan_in="3", fan_out=2), "Linear cannot have fan_in = '3'"),
    (layer("Linear", fan_in=True, fan_out=2), "Linear cannot have fan_in = 'True'"),
    (layer("Linear", fan_in=3.0, fan_out=2), "Linear cannot have fan_in"),
    (layer("Linear", fan_in=[3], fan_out=2), "Linear cannot have fan_in"),
    (layer("Linear", fan_in=3, fan_out=2, bias=1), "Linear cannot have bias"),
    (layer("Linear", fan_in=-3, fan_out=2), "Linear cannot be created"),
    (layer("Linear", fan_in=2**31, fan_out=2**20), "has shape|missing"),
    (layer("Linear", fan_in=2**62, fan_out=2**62), "Linear cannot be created"),
    (layer("Linear", fan_in=10**400, fan_out=2), "Linear cannot be created"),
    (layer("BatchNorm1d", dim=3, eps="small"), "BatchNorm1d cannot have eps"),
    (layer("BatchNorm1d", dim=3, eps=None), "BatchNorm1d cannot have eps"),
    (layer("Dropout", p=1), "Dropout cannot be created"),
    (layer("FlattenConsecutive", n=0), "FlattenConsecutive cannot be created"),
    (layer("FlattenConsecutive", n=2**40), "FlattenConsecutive cannot have n above 4,096"),
    (layer("FlattenDilated", n=2, dilation=2**40), "FlattenDilated cannot have dilation above 4,096"),
    (layer("TakeLast", n=1, skip=10**30), "TakeLast cannot have skip above 4,096"),
    (layer("Sequential", layers=layer("Tanh")), "Sequential cannot have layers"),
    (layer("Sequential", layers=[1]), "Sequential cannot have layers"),
    (layer("ResidualBlock", gather=layer("Tanh"), layers=[], projection=None), "ResidualBlock cannot be"),
    (layer("ResidualBlock", gather=1, layers=[], projection=None), "ResidualBlock cannot have gather"),
    (layer("SkipConnections", blocks=[layer("Tanh")], skips=[layer("Tanh")]), "SkipConnections cannot have"),
    (layer("Ensemble", members=[]), "Ensemble cannot be created"),
    (layer("Tanh") | {"block_size": 0}, "a context of 0 characters"),
    (layer("Tanh") | {"block_size": True}, "a context of True characters"),
    (layer("Tanh") | {"block_size": 10**30}, "a context of 1000"),
    (deep(99), "missing or unexpected tensors"),
    (deep(101), "more than 100 layers are within each other"),
    (deep(300), "more than 100 layers are within each other|damaged"),
    (layer("Sequential", layers=[layer("FlattenConsecutive", n=4096)] * 2000), "more than|missing"),
    (layer("Sequential", layers=[layer("Tanh")] * 20_000), "missing or unexpected tensors"),
]  # fmt: skip


@pytest.mark.full
@pytest.mark.parametrize(("description", "message"), FORGED)
def test_forged_descriptions_are_refused(description: Any, message: str) -> None:
    content = content_of(model_bytes(Model(by_hand(), VOCABULARY)))
    content["network"] = description
    whole, start = forged(content), time.perf_counter()
    with pytest.raises(ModelFileError, match=message) as error:
        read_model(whole, "file")
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 600
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize(
    ("layers", "block_size", "message"),
    [
        ([layer("FlattenConsecutive", n=4096)] * 2, None, "context of 16,777,216 characters"),
        ([layer("FlattenConsecutive", n=4096)] * 2000, None, "needs more than 1,099,511,627,776 positions"),
        ([layer("FlattenDilated", n=2, dilation=1)] * 4096, None, "context of 4,097 characters"),
    ],
)
def test_long_contexts_are_refused(layers: list[Any], block_size: int | None, message: str) -> None:
    content = content_of(model_bytes(Model(by_hand(), VOCABULARY)))
    content["tensors"] = {}
    content["network"] = layer("Sequential", layers=layers)
    with pytest.raises(ModelFileError, match=message):
        read_model(forged(content), "file")


@pytest.mark.parametrize(
    ("shared", "message"),
    [
        ([], "has invalid shared tensors"),
        ({"3.weight": "9.weight"}, "has shared tensors that it does not have"),
        ({"5.weight": ["3.weight"]}, "has shared tensors that it does not have"),
        ({"6.weight": "3.weight"}, r"different values in the shared tensor 6\.weight"),
    ],
)
def test_forged_sharing_is_refused(shared: Any, message: str) -> None:
    content = content_of(model_bytes(Model(tied(), VOCABULARY)))
    content["shared"] = shared
    with pytest.raises(ModelFileError, match=message):
        read_model(forged(content), "file")


def test_building_does_not_execute_what_a_file_names() -> None:
    for name in ("Layer", "load_model", "builtins.eval", "torch.nn.Linear"):
        with pytest.raises(ValueError, match="is not known"):
            build(layer(name))
