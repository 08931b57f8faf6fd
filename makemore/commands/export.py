"""The command ``makemore-export``: a network as a file for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from makemore.core.atomic_write import atomic_write
from makemore.core.layer import Layer
from makemore.core.terminal import say
from makemore.export.files import FACTS, INPUT, OUTPUT, onnx_program, torch_program
from makemore.lecture.words import STOP
from makemore.run.label_choice import choose_labels
from makemore.run.model_file import Model
from makemore.run.opened_model import open_model

COMMAND = "makemore-export"


def export(target: Path, path: Path | None, labels: Sequence[str]) -> None:
    """Write the network of ``open_model`` as ONNX, if ``target`` ends in .onnx, or for torch.export.

    ``labels`` choose labels: the exported network then needs none in these columns. Raises ModelFileError,
    UsageError if the network cannot be exported, and WriteError.
    """
    model = open_model(path, COMMAND).model
    network = choose_labels(model, labels).network if labels else model.network
    facts = facts_of(model, network)
    program = onnx_program if target.suffix.lower() == ".onnx" else torch_program
    content = program(network, facts)
    with atomic_write(target) as file:
        file.write(content)
    shape = f"{INPUT} (B, {len(facts['labels'])} + {facts['block_size']})"
    if not facts["labels"]:
        shape = f"{INPUT} (B, {facts['block_size']})"
    say(
        f"wrote {target}, {len(content) / 1000:,.0f} KB: {shape} int64 to {OUTPUT}"
        f" (B, {len(facts['characters']) + 1}); the characters are in its metadata {FACTS!r}"
    )


def facts_of(model: Model, network: Layer) -> dict[str, Any]:
    """What a program needs to use the network, as JSON values.

    Symbol 0 starts and stops a word; symbol i is the i-th of the ``characters``. A context is a label of each
    column in ``labels``, 0 for none and else its place in ``values`` from 1 on, then ``block_size`` symbols.
    """
    columns = network.labels or ()
    return {
        "characters": model.vocabulary.characters,
        "block_size": model.block_size,
        "stop": STOP,
        "labels": [{"name": column.name, "values": list(column.values)} for column in columns],
        "capitals": None if model.capitals is None else asdict(model.capitals),
    }
