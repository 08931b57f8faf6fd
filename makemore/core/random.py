"""Who draws random numbers: a ``torch.Generator`` that is handed down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Generator


@contextmanager
def default_generator(generator: Generator | None) -> Iterator[None]:
    """Make a CPU generator the one that torch's functions draw from by default, within a ``with`` block.

    Layers are then created as in the lecture, without an argument for the generator. The numbers are those
    of drawing from the generator itself, and torch's own generator is left as it was. Without a generator,
    nothing changes.
    """
    if generator is None:
        yield
        return
    before = torch.get_rng_state()
    torch.set_rng_state(generator.get_state())
    try:
        yield
    finally:
        generator.set_state(torch.get_rng_state())
        torch.set_rng_state(before)
