"""Which parameters of a network are trained, and in which mode its layers are; see ``training/engine.py``."""

from __future__ import annotations

from makemore.core.layer import Layer


def require_gradients(network: Layer) -> None:
    """Let all parameters require gradients if none does: the network was built by hand."""
    parameters = network.parameters()
    if not any(p.requires_grad for p in parameters):
        for p in parameters:
            p.requires_grad = True


def enter_training(network: Layer) -> None:
    """Switch a network to training if all its layers are in evaluation; mixed modes are left as they are."""
    if not any(layer.training for layer in network.modules()):
        network.train()
