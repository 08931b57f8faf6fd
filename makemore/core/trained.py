"""Which parameters of a network are trained, and in which mode its layers are; see ``training/engine.py``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from makemore.core.layer import Layer, require_network


def require_gradients(network: Layer) -> None:
    """Let all parameters require gradients if none does: the network was built by hand."""
    require_network(network)
    parameters = network.parameters()
    if not any(p.requires_grad for p in parameters):
        for p in parameters:
            p.requires_grad = True


@contextmanager
def frozen_as_they_are(network: Layer) -> Iterator[None]:
    """Keep the frozen parameters frozen during a ``with`` block that makes engines for parts of a network.

    An engine would take a part whose parameters are all frozen for one that was built by hand.
    """
    frozen = [p for p in network.parameters() if not p.requires_grad]
    try:
        yield
    finally:
        for p in frozen:
            p.requires_grad = False


def enter_training(network: Layer, modules: Sequence[Layer] | None = None) -> None:
    """Switch a network to training if all its layers are in evaluation; mixed modes are left as they are.

    ``modules``, if they are known already, are those of the network.
    """
    if not any(layer.training for layer in (network.modules() if modules is None else modules)):
        network.train()
