"""A table of the layers of a network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from makemore.core.graph import context_length
from makemore.core.layer import Layer, label_sizes, layer_text, recorded_outputs
from makemore.lecture.layers import Sequential


def summary(network: Layer, batch_size: int = 32) -> str:
    """A table of the layers with their output shapes, for batches of that size, and numbers of parameters.

    The layers of a Sequential take its place in the table; the layers within any other layer are indented
    below it. Raises ValueError if the length of the context is not known.
    """
    length = context_length(network) + len(label_sizes(network))
    # One context: a batch of long ones could take gigabytes.
    X = torch.zeros((1, length), dtype=torch.int64, device=network.parameters()[0].device)
    with network.evaluating(), recorded_outputs(network) as outputs:
        network(X)
    rows = [("layer", "output", "parameters"), *_rows(network, batch_size, outputs)]
    rows.append(("total", "", f"{_num_parameters(network):,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        f"{layer:<{widths[0]}}  {shape:<{widths[1]}}  {count:>{widths[2]}}" for layer, shape, count in rows
    )


def _rows(
    layer: Layer, batch_size: int, outputs: Mapping[int, Tensor], indent: str = ""
) -> list[tuple[str, str, str]]:
    """Description, output shape and number of parameters of a layer and of the layers within it.

    The shape is "" if the layer was not called, or if its output is not one tensor.
    """
    children = [child for _, child in layer.named_children()]
    out = outputs.get(id(layer))
    shape = "" if out is None else str((batch_size, *out.shape[1:]))
    if not children:
        return [(f"{indent}{layer_text(layer)}", shape, f"{_num_parameters(layer):,}")]
    if type(layer) is Sequential:
        return [row for child in children for row in _rows(child, batch_size, outputs, indent)]
    below = [row for child in children for row in _rows(child, batch_size, outputs, indent + "  ")]
    return [(f"{indent}{type(layer).__name__}", shape, ""), *below]


def _num_parameters(layer: Layer) -> int:
    return sum(p.numel() for p in layer.parameters())
