"""Computes gradients when stdin asks for them: started by ``versions.py``, once for each version.

    python scripts/bench/gradient_server.py BATCHES

The line "gradients" makes it compute the gradients of all batches in a safetensors file, by the version of
makemore that Python finds. It answers with the norm of the last batch's gradients. The line "time" asks for
the seconds of CPU time that it has used. Everything that has moved between the versions is imported from
where it is, so that an earlier version can be served too.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pkgutil import resolve_name
from typing import Any

import safetensors.torch
import torch
from torch import Generator

NETWORKS = "makemore.run.catalog:NETWORKS", "makemore.networks:NETWORKS"
"""Places of the networks, that of the newest version first."""

ENGINES = (
    "makemore.backprop.windows:WindowsEngine",
    "makemore.backprop.engine:BackpropEngine",
    "makemore.backprop:BackpropEngine",
)
"""Places of the default engine, that of the newest version first."""


def first_of(places: Sequence[str]) -> Any:
    """What is at the first of the places that this version has. Raises ImportError if it has none of them."""
    for place in places:
        try:
            return resolve_name(place)
        except (ImportError, AttributeError):
            continue
    raise ImportError(f"this version of makemore has none of {', '.join(places)}")


def main() -> None:
    """The command."""
    torch.set_num_threads(1)
    tensors = safetensors.torch.load_file(sys.argv[1])
    batches = list(zip(*(tensors[name] for name in ("X", "Y", "keep_mask")), strict=True))
    network = first_of(NETWORKS)["wavenet"].build(batches[0][1].shape[1], Generator().manual_seed(1))
    engine = first_of(ENGINES)(network)
    for question in sys.stdin:
        if question.strip() == "time":
            print(time.process_time(), flush=True)
            continue
        for batch in batches:
            engine.gradients(*batch)
        print(torch.cat([p.grad.flatten() for p in network.parameters()]).norm().item(), flush=True)


if __name__ == "__main__":
    main()
