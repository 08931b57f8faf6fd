"""Muon and AdamW, the updates of the modern recipe (beyond the lecture).

The figures of ``torch.optim``'s, to rounding, in less time: importing the first of torch's optimisers takes
a second, and its Muon is a large part of a step. Here weights of one shape are orthogonalised together, in
bfloat16 only where that is the faster, and all that AdamW keeps lies in one row of memory.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from makemore.parallel.processes import ALONE, Processes

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""a, b, c of x -> a x + b x^3 + c x^5: five times that brings singular values near 1 (Jordan et al. 2024)."""

SMALL = 64
"""The shorter side of a weight up to which bfloat16 saves no time."""


def working_dtype(X: Tensor) -> torch.dtype:
    """The dtype that matrices (N, short, long) are orthogonalised in: bfloat16 for large float32 ones.

    CPUs without AVX512 have no products of bfloat16: there it would take twenty times as long. What is in
    float64 is to be exact.
    """
    fast = X.is_cuda or "AVX512" in torch.backends.cpu.get_cpu_capability()
    return torch.bfloat16 if fast and X.dtype == torch.float32 and X.shape[1] > SMALL else X.dtype


class Muon:
    """Momentum whose updates are orthogonalised, for the weights of hidden Linears (Jordan et al. 2024).

    The weights are by name, (fan_in, fan_out) each. ``momentum`` and ``weight_decay`` as in torch.optim.Muon.
    Of many processes each orthogonalises some of the updates, for all.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        processes: Processes = ALONE,
    ) -> None:
        self.weights, self.processes = dict(weights), processes
        self.weight_decay, self.momentum = weight_decay, momentum
        self.buffers = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        shapes = dict.fromkeys(weight.shape for weight in weights.values())
        self.alike = [[name for name, w in weights.items() if w.shape == shape] for shape in shapes]

    # m <- momentum m + (1 - momentum) g      u = momentum m + (1 - momentum) g  (Nesterov)
    # W <- (1 - lr decay) W - lr sqrt(max(1, fan_in / fan_out)) orthogonalised(u)
    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Update the weights by their gradients."""
        for names in self.alike:
            updates = []
            for name in names:
                grad, buffer = self.weights[name].grad, self.buffers[name]
                assert grad is not None
                buffer.lerp_(grad, 1 - self.momentum)
                updates.append(grad.lerp(buffer, self.momentum))
            fan_in, fan_out = updates[0].shape
            rate = lr * max(1, fan_in / fan_out) ** 0.5
            for name, update in zip(names, self._orthogonalised(torch.stack(updates)), strict=True):
                self.weights[name].mul_(1 - lr * self.weight_decay).sub_(update, alpha=rate)

    def _orthogonalised(self, updates: Tensor) -> Tensor:
        """Each process its share of the updates, (N, fan_in, fan_out), of which it then tells the others."""
        shares = self.processes.shares(len(updates))
        own = shares[self.processes.rank]
        if own.stop > own.start:
            updates[own] = orthogonalised(updates[own])
        for rank, share in enumerate(shares):
            if share.stop > share.start:
                self.processes.tell(updates[share], rank)
        return updates

    def state_dict(self) -> dict[str, Tensor]:
        """The momentum of each weight, by its name."""
        return dict(self.buffers)


def orthogonalised(updates: Tensor) -> Tensor:
    """Matrices with their singular values brought near 1, by Newton-Schulz: (N, fan_in, fan_out) -> the same.

    X <- a X + b (X X') X + c (X X')^2 X, five times, from X of norm 1, which lies on its longer side.
    """
    a, b, c = NEWTON_SCHULZ
    upright = updates.shape[1] > updates.shape[2]
    X = updates.mT if upright else updates
    X = X.to(working_dtype(X))
    X = X / X.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = torch.bmm(X, X.mT)
        X = torch.baddbmm(X, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), X, beta=a)
    return (X.mT if upright else X).to(updates.dtype)


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), each parameter with a decay of its own.

    ``decays`` are by the parameters' names.
    """

    def __init__(
        self, parameters: Mapping[str, Tensor], decays: Mapping[str, float], eps: float = 1e-8
    ) -> None:
        self.parameters, self.eps = dict(parameters), eps
        self.decays = [decays.get(name, 0.0) for name in parameters]
        self.sizes = [p.numel() for p in parameters.values()]
        self.mean = torch.cat([torch.zeros_like(p).flatten() for p in parameters.values()])
        self.mean_square = torch.zeros_like(self.mean)

    # m <- b1 m + (1 - b1) g      v <- b2 v + (1 - b2) g^2      at step t:
    # p <- (1 - lr decay) p - lr / (1 - b1^t) m / (sqrt(v / (1 - b2^t)) + eps)
    @torch.no_grad()
    def step(self, lr: float, t: int) -> None:
        """Update the parameters by their gradients, for the t-th time, counted from 1."""
        b1, b2 = 0.9, 0.99
        grads = [p.grad.flatten() for p in self.parameters.values() if p.grad is not None]
        grad = torch.cat(grads)
        self.mean.lerp_(grad, 1 - b1)
        self.mean_square.mul_(b2).addcmul_(grad, grad, value=1 - b2)
        root = self.mean_square.sqrt().div_((1 - b2**t) ** 0.5).add_(self.eps)
        updates = torch.split(self.mean / root, self.sizes)
        for p, decay, update in zip(self.parameters.values(), self.decays, updates, strict=True):
            if decay:
                p.mul_(1 - lr * decay)
            p.sub_(update.view_as(p), alpha=lr / (1 - b1**t))

    def state_dict(self) -> dict[str, Tensor]:
        """The running means of gradients and squares, (values of all parameters,) each."""
        return {"mean": self.mean, "mean_square": self.mean_square}
