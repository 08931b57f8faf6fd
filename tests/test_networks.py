"""The networks of the performance log: sizes, structure, refusals."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from makemore.layers import (
    BatchNorm1d,
    Embedding,
    FlattenConsecutive,
    FlattenDilated,
    HistoricBatchNorm1d,
    Layer,
    Linear,
    ResidualBlock,
    Sequential,
)
from makemore.networks import NETWORKS, Plan, block_size, network_plan, summary

PARAMETERS = {
    "mlp": 12_097,
    "mlp-8": 22_097,
    "hierarchical-bug": 22_397,
    "hierarchical": 22_397,
    "wavenet": 76_579,
    "gated": 76_058,
    "wavenet-paper": 76_233,
}
"""The lecture's performance log, and the counts its cells print; and two networks beyond it."""


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
    assert block_size(network) == size
    assert plan.value_count(11) == sum(t.numel() for t in network.state_dict().values())
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

    assert Plan("table", 2, 3, 4, lambda plan, vocab_size, generator: [Table()]).value_count(11) == 35


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


def test_only_the_fenced_off_network_has_the_historic_batchnorm() -> None:
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
    assert block_size(network) == size
    assert plan.value_count(11) == sum(t.numel() for t in network.state_dict().values())
    assert network_plan(**plan.sizes()) == plan


@pytest.mark.parametrize(("stacks", "depth"), [(1, 3), (2, 3), (3, 2), (4, 1)])
def test_repeated_stacks_see_all_of_their_context_and_no_more(stacks: int, depth: int) -> None:
    """Dilations 1, 2, 4, 1, 2, 4 look 14 characters back: the gradient reaches each of the 15."""
    plan = network_plan("wavenet-paper", 1 + stacks * (2**depth - 1), 4, 6, stacks=stacks)
    assert network_plan(**plan.sizes()) == plan
    network = plan.build(9, torch.Generator().manual_seed(1)).eval()
    assert block_size(network) == plan.block_size
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


def test_a_network_of_the_paper_has_no_parameter_that_nothing_depends_on() -> None:
    network = network_plan("wavenet-paper", stacks=2).build(27)
    network(torch.randint(0, 27, (4, 15))).sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    blocks = [layer for layer in network.modules() if isinstance(layer, ResidualBlock)]
    assert [block.residual is None for block in blocks] == [False] * 5 + [True]


def test_stacks_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match=r"with 2 stacks of dilations .* size of 3, 7, 15, 31, ..., got 8"):
        network_plan("wavenet-paper", 8, stacks=2)
    with pytest.raises(ValueError, match=r"with a stack of dilations .* size of 2, 4, 8, 16, ..., got 9"):
        network_plan("wavenet-paper", 9)
    with pytest.raises(ValueError, match="network wavenet has one stack, got 2"):
        network_plan("wavenet", 16, stacks=2)
    with pytest.raises(ValueError, match="stacks must be 1 or more, got 0"):
        network_plan("wavenet-paper", stacks=0)


def test_summary_indents_what_lies_within_a_layer() -> None:
    lines = summary(network_plan("wavenet-paper").build(27), batch_size=5).splitlines()
    assert [line.split()[0].split("(")[0] for line in lines[1:6]] == [
        *("Embedding", "SkipConnections", "ResidualBlock", "FlattenConsecutive", "Linear"),
    ]
    assert lines[2].split() == ["SkipConnections", "(5,", "74)"]
    assert lines[5].split() == ["Linear(96,", "148)", "(5,", "4,", "148)", "14,356"]
    assert lines[5].startswith("    Linear")
    assert lines[-1].split() == ["total", "76,233"]


@pytest.mark.parametrize("size", [0, 1, 6, 12, -8])
def test_hierarchical_block_size_is_a_power_of_two(size: int) -> None:
    with pytest.raises(ValueError, match=r"power of two from 2 up|1 or more"):
        network_plan("wavenet", block_size=size)


def test_unknown_names_and_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown network 'lstm': choose from mlp, mlp-8, hier"):
        network_plan("lstm")
    with pytest.raises(ValueError, match="n_hidden must be 1 or more, got 0"):
        network_plan("mlp", n_hidden=0)
    assert block_size(network_plan("mlp", block_size=6, n_embd=4).build(5)) == 6


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
    assert block_size(network) == 6
    lines = summary(network, batch_size=7).splitlines()
    assert [line.split("(")[0] for line in lines[1:-1]] == [
        *("Embedding", "FlattenConsecutive", "Linear", "FlattenConsecutive", "Linear"),
    ]
    assert lines[3].split() == ["Linear(6,", "4)", "(7,", "3,", "4)", "28"]


def test_no_memory_is_taken_to_count() -> None:
    assert network_plan("mlp", block_size=1024, n_embd=4096, n_hidden=16_384).value_count(100) > 6e10
