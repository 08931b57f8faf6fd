"""Networks that treat each position in a way of its own: the lecture's BatchNorm before its bug was found.

Its statistics differ from position to position, so no convolution equals the network. But the lecture's tree
has at most one node at each position of a layer. Its node i is computed with the statistics of position i, as
it is by the network that has these statistics at every position, which is a convolution.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TypeGuard

from makemore.core.graph import is_chain, trace
from makemore.core.layer import Layer, window_of
from makemore.inference.convolution import Convolution, NotAConvolution, Stage
from makemore.lecture.layers import BatchNorm1d, FlattenConsecutive, HistoricBatchNorm1d
from makemore.paper.networks import replace_layers


def convolutions_by_node(network: Layer) -> list[Convolution]:
    """The convolutions that compute a network's nodes: one that computes all, or one for each position.

    In the latter case the i-th one computes node i of every stage, from the oldest node on. Raises ValueError
    as ``Convolution.from_network`` does, and on statistics of each position in any network but a tree.
    """
    positions = max(map(positions_of, norms_by_position(network)), default=1)
    if positions == 1:
        return [Convolution.from_network(network)]
    if not is_tree(network):
        raise NotAConvolution("statistics at each position can be shown in a tree only")
    return [Convolution.from_network(with_statistics_of(network, i)) for i in range(positions)]


def norms_by_position(network: Layer) -> list[HistoricBatchNorm1d]:
    """The layers that have running statistics at each of several positions."""
    return [layer for layer in network.modules() if has_positions(layer)]


def has_positions(layer: Layer) -> TypeGuard[HistoricBatchNorm1d]:
    """Whether a layer is that BatchNorm, not a class derived from it, with several positions."""
    return type(layer) is HistoricBatchNorm1d and layer.running_mean.ndim > 1


def positions_of(norm: HistoricBatchNorm1d) -> int:
    """The number of positions that a layer has statistics of."""
    return len(norm.running_mean)


def with_statistics_of(network: Layer, position: int) -> Layer:
    """A copy of a network with the statistics of one position, or of the last one, at every position."""
    same = copy.deepcopy(network)
    replace_layers(
        same, lambda layer: [at_every_position(layer, position) if has_positions(layer) else layer]
    )
    return same


def at_every_position(norm: HistoricBatchNorm1d, position: int) -> BatchNorm1d:
    """A BatchNorm1d with the statistics that another one has of one position, or of its last one."""
    row = min(position, positions_of(norm) - 1)
    mended = BatchNorm1d(len(norm.gamma), norm.eps, norm.momentum)
    mended.gamma, mended.beta = norm.gamma, norm.beta
    mended.running_mean, mended.running_var = norm.running_mean[row], norm.running_var[row]
    return mended


def is_tree(network: Layer) -> bool:
    """Whether each layer reads the one before, and nothing but FlattenConsecutive concatenates positions.

    Then every position of every layer is a node, in the same order.
    """
    nodes = trace(network)
    return is_chain(nodes) and all(is_part_of_tree(node.layer) for node in nodes)


def is_part_of_tree(layer: Layer | None) -> bool:
    """Whether a layer concatenates no positions, or as FlattenConsecutive does."""
    return layer is not None and (type(layer) is FlattenConsecutive or window_of(layer) is None)


def nodes_in_tree(stages: Sequence[Stage], i: int) -> int:
    """The number of nodes of stage i that the output of a tree depends on."""
    return math.prod(len(stage.weight) for stage in stages[i + 1 :])
