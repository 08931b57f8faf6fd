"""The networks by name: sizes, structure, and sizes that are refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from makemore.core.errors import UsageError
from makemore.core.graph import context_length
from makemore.core.layer import Layer
from makemore.lecture.layers import (
    BatchNorm1d,
    Embedding,
    FlattenConsecutive,
    HistoricBatchNorm1d,
    Linear,
    Sequential,
)
from makemore.paper.layers import FlattenDilated, ResidualBlock
from makemore.pictures.summary import summary
from makemore.run.catalog import NETWORKS, Plan, build_network, network_plan

PARAMETERS = {
    "mlp": 12_097,
    "mlp-8": 22_097,
    "hierarchical-bug": 22_397,
    "hierarchical": 22_397,
    "wavenet": 76_579,
    "gated": 76_058,
    "dropout": 76_579,
    "layernorm": 76_579,
    "wavenet-paper": 76_233,
}
"""The counts that the lecture's cells print for its performance log, and those of further networks."""


def test_parameter_counts_of_the_performance_log() -> None:
    assert {
        name: sum(p.numel() for p in plan.build(27).parameters()) for name, plan in NETWORKS.items()
    } == PARAMETERS


@pytest.mark.parametrize("hierarchical", [True, False])
@pytest.mark.parametrize("size", [2, 4, 16, 64])
def test_any_size(hierarchical: bool, size: int) -> None:
    plan = network_plan("hierarchical" if hierarchical else "mlp", size, 3, 5)
    network = plan.build(11)
    assert network(torch.randint(0, 11, (4, size))).shape == (4, 11)
    assert context_length(network) == size
    assert plan.num_values(11) == sum(t.numel() for t in network.state_dict().values())
    assert network_plan(**plan.sizes()) == plan


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.randn((5, 7)) / 5**0.5,
        lambda: torch.randn(5, 7) / 5,
        lambda: torch.randn(size=(5, 7), generator=None, requires_grad=True),
        lambda: torch.arange(5)[:, None] / torch.arange(1, 8),
    ],
)
def test_values_are_counted_however_a_layer_draws_them(draw: Callable[[], torch.Tensor]) -> None:
    class Table(Layer):
        PARAMETERS = ("weight",)

        def __init__(self) -> None:
            self.weight = draw()
            assert self.weight.shape == (5, 7)

    assert Plan("table", 2, 3, 4, lambda *sizes: [Table()]).num_values(11) == 35


def test_default_network_layer_by_layer() -> None:
    network = network_plan().build(27)
    network(torch.randint(0, 27, (4, 8)))
    assert [tuple(layer.out.shape) for layer in network.layers] == [
        (4, 8, 24),
        (4, 4, 48), (4, 4, 128), (4, 4, 128), (4, 4, 128),
        (4, 2, 256), (4, 2, 128), (4, 2, 128), (4, 2, 128),
        (4, 256), (4, 128), (4, 128), (4, 128),
        (4, 27),
    ]  # fmt: skip


def test_values_are_drawn_in_the_order_of_the_layers() -> None:
    torch.manual_seed(42)
    embedding = torch.randn(27, 24)
    first = torch.randn(48, 128) / 48**0.5
    torch.randn(256, 128), torch.randn(256, 128)
    last = torch.randn(128, 27) / 128**0.5 * 0.1
    tensors = dict(network_plan().build(27, torch.Generator().manual_seed(42)).named_parameters())
    assert torch.equal(tensors["0.weight"], embedding)
    assert torch.equal(tensors["2.weight"], first)
    assert torch.equal(tensors["13.weight"], last)
    assert tensors["13.weight"].requires_grad


def test_only_the_network_with_the_bug_has_the_historic_batchnorm() -> None:
    for name, plan in NETWORKS.items():
        norms = [layer for layer in plan.build(27).layers if isinstance(layer, BatchNorm1d)]
        historic = [isinstance(layer, HistoricBatchNorm1d) for layer in norms]
        assert all(historic) if name == "hierarchical-bug" else not any(historic)


def test_historic_network_has_statistics_for_each_position() -> None:
    network = NETWORKS["hierarchical-bug"].build(27)
    network(torch.randint(0, 27, (4, 8)))
    shapes = [tuple(t.shape) for name, t in network.state_dict().items() if "mean" in name]
    assert shapes == [(4, 68), (2, 68), (68,)]


@pytest.mark.parametrize("size", [2, 8, 1024])
@pytest.mark.parametrize("name", ["gated", "wavenet-paper"])
def test_the_papers_networks_at_any_size(name: str, size: int) -> None:
    plan = network_plan(name, size, 3, 5)
    network = plan.build(11)
    assert network(torch.randint(0, 11, (3, size))).shape == (3, 11)
    assert context_length(network) == size
    assert plan.num_values(11) == sum(t.numel() for t in network.state_dict().values())
    assert network_plan(**plan.sizes()) == plan


@pytest.mark.parametrize(("stacks", "depth"), [(1, 3), (2, 3), (3, 2), (4, 1)])
def test_repeated_stacks_depend_on_all_of_their_context(stacks: int, depth: int) -> None:
    """Dilations 1, 2, 4, 1, 2, 4 reach 14 characters back: each of the 15 has a gradient."""
    plan = network_plan("wavenet-paper", 1 + stacks * (2**depth - 1), 4, 6, stacks=stacks)
    assert network_plan(**plan.sizes()) == plan
    network = plan.build(9, torch.Generator().manual_seed(1)).eval()
    assert context_length(network) == plan.block_size
    fuses = [layer for layer in network.modules() if isinstance(layer, FlattenDilated | FlattenConsecutive)]
    assert [f.dilation for f in fuses if isinstance(f, FlattenDilated)] == [
        *[2**k for k in range(depth)] * (stacks - 1)
    ]
    assert len(fuses) == stacks * depth
    embedding, *rest = network.layers
    x = embedding(torch.randint(0, 9, (1, plan.block_size))).detach().requires_grad_()
    out = x
    for layer in rest:
        out = layer(out)
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert (grad.abs().sum(2) > 0).all()


def test_every_parameter_of_the_papers_network_has_a_gradient() -> None:
    network = network_plan("wavenet-paper", stacks=2).build(27)
    network(torch.randint(0, 27, (4, 15))).sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    blocks = [layer for layer in network.modules() if isinstance(layer, ResidualBlock)]
    assert [block.projection is None for block in blocks] == [False] * 5 + [True]


BAD_SIZES: list[tuple[dict[str, Any], str]] = [
    (
        {"name": "wavenet-paper", "block_size": 8, "stacks": 2},
        r"2 stacks of dilations .* size of 3, 7, 15, 31, ..., got 8",
    ),
    (
        {"name": "wavenet-paper", "block_size": 9},
        r"a stack of dilations .* size of 2, 4, 8, 16, ..., got 9",
    ),
    ({"name": "wavenet", "block_size": 16, "stacks": 2}, "it has one stack, got 2"),
    ({"name": "wavenet-paper", "stacks": 0}, "stacks must be a whole number from 1 up, got 0"),
    ({"name": "mlp", "n_hidden": 0}, "n_hidden must be a whole number from 1 up, got 0"),
    ({"name": "mlp", "n_embd": 2.5}, r"n_embd must be a whole number from 1 up, got 2\.5"),
    ({"name": "mlp", "block_size": "3"}, "block_size must be a whole number from 1 up, got '3'"),
    *[({"name": "wavenet", "block_size": n}, "power of two from 2 up .*got") for n in (1, 6, 12)],
    *[({"name": "gated", "block_size": n}, "must be a whole number from 1 up") for n in (0, -8)],
]


@pytest.mark.parametrize(("sizes", "message"), BAD_SIZES)
def test_bad_sizes_are_refused_by_a_line_that_names_the_network(sizes: dict[str, Any], message: str) -> None:
    """By name, and for a plan that is made directly, when it is checked, built or counted."""
    sizes = {"block_size": NETWORKS[sizes["name"]].block_size, **sizes}
    plan = replace(NETWORKS[sizes["name"]], **sizes)
    for refuse in (
        lambda: network_plan(**sizes),
        plan.check,
        lambda: plan.build(27),
        lambda: plan.num_values(27),
        lambda: build_network(plan, 2, 27, torch.Generator()),
    ):
        with pytest.raises(UsageError) as error:
            refuse()
        assert re.fullmatch(f"network {plan.name}: .*{message}.*", str(error.value)), error.value


def test_a_plan_is_refused_if_its_layers_need_another_block_size() -> None:
    plan = Plan("three", 4, 2, 3, lambda vocab_size, *sizes: NETWORKS["mlp"].build(vocab_size).layers)
    with pytest.raises(UsageError, match=r"network three: .* block_size is 4, .* need contexts of 3"):
        plan.check()
    assert context_length(replace(plan, block_size=3).build(5)) == 3


def test_a_plan_says_the_block_size_of_layers_that_declare_nothing() -> None:
    class Mean(Layer):
        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(1)

    plan = Plan("mean", 5, 2, 3, lambda vocab_size, *sizes: [Embedding(vocab_size, 7), Mean()])
    assert context_length(plan.build(7)) == 5


def test_summary_indents_the_layers_within_a_layer() -> None:
    lines = summary(network_plan("wavenet-paper").build(27), batch_size=5).splitlines()
    assert [line.split()[0].split("(")[0] for line in lines[1:6]] == [
        *("Embedding", "SkipConnections", "ResidualBlock", "FlattenConsecutive", "Linear"),
    ]
    assert lines[2].split() == ["SkipConnections", "(5,", "74)"]
    assert lines[5].split() == ["Linear(96,", "148)", "(5,", "4,", "148)", "14,356"]
    assert lines[5].startswith("    Linear")
    assert lines[-1].split() == ["total", "76,233"]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown network 'lstm': choose from mlp, mlp-8, hier"):
        network_plan("lstm")
    assert context_length(network_plan("mlp", block_size=6, n_embd=4).build(5)) == 6


def test_summary_lists_layers_and_leaves_the_network_alone() -> None:
    network = network_plan().build(27)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    text = summary(network, batch_size=5)
    assert "Linear(48, 128, bias=False)   (5, 4, 128)       6,144" in text
    assert text.splitlines()[-1].split() == ["total", "76,579"]
    assert network.training
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())


def test_nested_sequentials_are_opened() -> None:
    network = Sequential(
        [
            Embedding(5, 3),
            Sequential([FlattenConsecutive(2), Linear(6, 4), Sequential([FlattenConsecutive(3)])]),
            Linear(12, 5),
        ]
    )
    assert context_length(network) == 6
    lines = summary(network, batch_size=7).splitlines()
    assert [line.split("(")[0] for line in lines[1:-1]] == [
        *("Embedding", "FlattenConsecutive", "Linear", "FlattenConsecutive", "Linear"),
    ]
    assert lines[3].split() == ["Linear(6,", "4)", "(7,", "3,", "4)", "28"]


def test_counting_takes_no_memory() -> None:
    assert network_plan("mlp", block_size=1024, n_embd=4096, n_hidden=16_384).num_values(100) > 6e10
