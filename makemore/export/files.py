"""A network as a file for other programs: torch.export's format, or ONNX.

The file has the network and, as JSON, what is needed to use it: the characters of the symbols, the length of
the context, the stop symbol, and the labels. It is checked by running it: its logits must be the network's.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import Generator, Tensor

from makemore.core.errors import MakemoreError, UsageError
from makemore.core.graph import context_length
from makemore.core.layer import Layer, label_sizes
from makemore.export.torch_module import to_module

FACTS = "makemore"
"""The name of the JSON in the file: a metadata property in ONNX, an extra file in torch.export's format."""

INPUT, OUTPUT = "contexts", "logits"
"""The names of the input, (B, K + T) int64, and of the output, (B, vocab_size)."""

CHECKED_BATCHES = (1, 2, 7)
"""The sizes of the batches on which a file is compared with the network."""

TOLERANCE = 1e-3
"""How far the logits of a file may be from the network's, as a share of the largest."""


def torch_program(network: Layer, facts: Mapping[str, Any]) -> bytes:
    """A network in torch.export's format: ``torch.export.load`` reads it without this package.

    Raises UsageError if torch cannot export it, and MakemoreError if the file gives other logits.
    """
    module = to_module(network.eval())
    example = _contexts(network, 2)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    except Exception as error:  # torch raises all kinds
        raise _cannot(error) from error
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={FACTS: json.dumps(facts)})
    content = file.getvalue()
    loaded = torch.export.load(io.BytesIO(content)).module()
    _compare(network, lambda X: loaded(X))
    return content


def onnx_program(network: Layer, facts: Mapping[str, Any]) -> bytes:
    """A network in ONNX, with its weights in the same file.

    Raises UsageError if a package is missing or torch cannot export it, and MakemoreError if onnxruntime
    computes other logits.
    """
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise UsageError(f"ONNX needs the packages {', '.join(missing)}: pip install {' '.join(missing)}")
    import onnxruntime

    module = to_module(network.eval())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                (_contexts(network, 2),),
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: "batch"},),
                verbose=False,
            )
    except Exception as error:  # torch and onnxscript raise all kinds
        raise _cannot(error) from error
    assert program is not None
    model = program.model_proto
    model.metadata_props.add(key=FACTS, value=json.dumps(facts))
    content = bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(content)

    def logits(X: Tensor) -> Tensor:
        return torch.from_numpy(session.run([OUTPUT], {INPUT: X.numpy()})[0])

    _compare(network, logits)
    return content


def _contexts(network: Layer, batch: int) -> Tensor:
    """Random contexts with labels, (B, K + T), the same each time."""
    generator = Generator().manual_seed(batch)
    labels = [torch.randint(size, (batch, 1), generator=generator) for size in label_sizes(network)]
    symbols = network.parameters()[0].shape[0]
    X = torch.randint(symbols, (batch, context_length(network)), generator=generator)
    return torch.cat([*labels, X], dim=1)


def _compare(network: Layer, logits: Any) -> None:
    """Raise MakemoreError unless a file's logits are the network's, for batches of several sizes."""
    for batch in CHECKED_BATCHES:
        X = _contexts(network, batch)
        with network.evaluating(), torch.no_grad():
            expected, got = network(X), logits(X)
        close = got.shape == expected.shape and bool(
            ((got - expected).abs() <= TOLERANCE * expected.abs().max() + TOLERANCE).all()
        )
        if not close:
            raise MakemoreError(
                "the exported network gives other logits than the network: nothing is written"
            )


def _cannot(error: Exception) -> UsageError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UsageError(f"torch cannot export this network: {reason}")
