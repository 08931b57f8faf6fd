"""The networks of the performance log: sizes, structure, refusals."""

from __future__ import annotations

import pytest
import torch

from makemore.layers import (
    BatchNorm1d,
    Embedding,
    FlattenConsecutive,
    HistoricBatchNorm1d,
    Linear,
    Sequential,
)
from makemore.networks import NETWORKS, block_size, network_plan, summary

PARAMETERS = {
    "mlp": 12_097,
    "mlp-8": 22_097,
    "hierarchical-bug": 22_397,
    "hierarchical": 22_397,
    "wavenet": 76_579,
}
"""The lecture's performance log, and the counts its cells print."""


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
