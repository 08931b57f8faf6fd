"""Muon and AdamW, the optimizers of the modern recipe.

Their updates are those of ``torch.optim`` to rounding, in less time: importing torch's optimizers takes a
second, and its Muon takes a large part of a step. Here weights of the same shape are orthogonalized together,
most of the products are as small as a weight's shorter side, and AdamW keeps all its running means in one
tensor.

Torch orthogonalizes in bfloat16, here weights keep their dtype. A processor without bfloat16 emulates it, in
four times the time of float32. One with it takes the same time for both at the default width. So there is one
way on all processors, on which a seed gives nearly the same training.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import torch
from torch import Tensor

from makemore.training.processes import ONE_PROCESS, Processes

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""a, b, c of x -> a x + b x^3 + c x^5."""

ITERATIONS = 5
"""How often that is applied, to move singular values near 1 (Jordan et al. 2024)."""

GRAM_RATIO = 1.5
"""The ratio of a matrix's sides above which the iteration on its Gram matrix takes fewer multiplications.

They are 2 s^2 l + 17 s^3 for the sides s < l. The plain iteration takes 10 s^2 l + 5 s^3.
"""


class Muon:
    """SGD with momentum whose updates are orthogonalized, for hidden Linear layers (Jordan et al. 2024).

    ``weights`` are given by name, (fan_in, fan_out) each. ``momentum`` and ``weight_decay`` are those of
    torch.optim.Muon. If there are several processes, each orthogonalizes a part of the updates for all.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        processes: Processes = ONE_PROCESS,
    ) -> None:
        self.weights, self.processes = dict(weights), processes
        self.weight_decay, self.momentum = weight_decay, momentum
        self.buffers = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        shapes = dict.fromkeys(weight.shape for weight in weights.values())
        self.same_shape = [[name for name, w in weights.items() if w.shape == shape] for shape in shapes]

    # m <- momentum m + (1 - momentum) g      u = momentum m + (1 - momentum) g  (Nesterov)
    # W <- (1 - lr decay) W - lr sqrt(max(1, fan_in / fan_out)) orthogonalized(u)
    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Update the weights by their gradients. Those without a gradient stay as they are."""
        for same_shape in self.same_shape:
            updated = [name for name in same_shape if self.weights[name].grad is not None]
            if not updated:
                continue
            fan_in, fan_out = self.weights[updated[0]].shape
            updates = self.buffers[updated[0]].new_empty(len(updated), fan_in, fan_out)
            for name, update in zip(updated, updates, strict=True):
                grad, buffer = self.weights[name].grad, self.buffers[name]
                assert grad is not None
                buffer.lerp_(grad, 1 - self.momentum)
                torch.lerp(grad, buffer, self.momentum, out=update)
            rate = lr * max(1, fan_in / fan_out) ** 0.5
            for name, update in zip(updated, self._orthogonalized(updates), strict=True):
                self.weights[name].mul_(1 - lr * self.weight_decay).sub_(update, alpha=rate)

    def _orthogonalized(self, updates: Tensor) -> Tensor:
        """The updates, (N, fan_in, fan_out), orthogonalized: each process sends its part to the others."""
        parts = self.processes.split(len(updates))
        own = parts[self.processes.rank]
        if own.stop > own.start:
            updates[own] = orthogonalized(updates[own])
        for rank, part in enumerate(parts):
            if part.stop > part.start:
                self.processes.broadcast(updates[part], rank)
        return updates

    def state_dict(self) -> dict[str, Tensor]:
        """The momentum of each weight, by name."""
        return dict(self.buffers)


def orthogonalized(updates: Tensor) -> Tensor:
    """Move the singular values of matrices near 1 by Newton-Schulz: (N, fan_in, fan_out) -> the same."""
    X = updates / torch.linalg.vector_norm(updates, dim=(1, 2), keepdim=True).clamp(min=1e-7)
    short, long = sorted(updates.shape[1:])
    return gram_newton_schulz(X) if long > GRAM_RATIO * short else newton_schulz(X)


# For X with at least as many columns as rows. Of a tall X it is the transpose, X' X and X <- X Q.
#   Q = a I + b (X X') + c (X X')^2   X <- Q X
def newton_schulz(X: Tensor) -> Tensor:
    """The iteration as it is defined, on matrices of norm 1: (N, rows, columns) -> the same."""
    a, b, c = NEWTON_SCHULZ
    wide = X.shape[1] <= X.shape[2]
    for _ in range(ITERATIONS):
        G = torch.bmm(X, X.mT) if wide else torch.bmm(X.mT, X)
        Q = torch.baddbmm(G, G, G, beta=b, alpha=c)  # without a I
        X = torch.baddbmm(X, Q, X, beta=a) if wide else torch.baddbmm(X, X, Q, beta=a)
    return X


# G = X X' is symmetric, and so is Q, so the next G is Q G Q. P, the product of all Q, is applied at the end.
#   Q = a I + b G + c G^2   P <- P Q   G <- Q G Q      at the end   X <- P X
def gram_newton_schulz(X: Tensor) -> Tensor:
    """``newton_schulz`` by products of Gram matrices, whose sides are X's shorter side. Equal to rounding.

    Rounding matters more here if singular values differ by orders of magnitude, as G has their squares. In
    float32 the results then differ by up to 4e-4 of their norm, otherwise by 1e-6. Those of bfloat16, which
    torch computes, are off by 5e-3 at best.
    """
    a, b, c = NEWTON_SCHULZ
    wide = X.shape[1] <= X.shape[2]
    G = torch.bmm(X, X.mT) if wide else torch.bmm(X.mT, X)
    factors = []
    for i in range(ITERATIONS):
        Q = torch.baddbmm(G, G, G, beta=b, alpha=c)
        Q.diagonal(dim1=1, dim2=2).add_(a)
        factors.append(Q)
        if i < ITERATIONS - 1:
            G = torch.bmm(torch.bmm(Q, G), Q)
    P = reduce(torch.bmm, factors)
    return torch.bmm(P, X) if wide else torch.bmm(X, P)


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    ``decays`` has the weight decay of parameters by name, 0 for those without.
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
        """Update the parameters by their gradients. Those without a gradient stay as they are.

        ``t`` is the number of the step, counted from 1.
        """
        b1, b2 = 0.9, 0.99
        grads = [p.grad.flatten() for p in self.parameters.values() if p.grad is not None]
        if not grads:
            return
        grad = torch.cat(grads)
        mean, mean_square = self.mean, self.mean_square
        updated = [*zip(self.parameters.values(), self.decays, self.sizes, strict=True)]
        whole = len(grads) == len(updated)
        if not whole:  # work on copies of the means of those that are updated
            rows = torch.cat([torch.full((n,), p.grad is not None) for p, _, n in updated]).to(grad.device)
            mean, mean_square = mean[rows], mean_square[rows]
            updated = [each for each in updated if each[0].grad is not None]
        mean.lerp_(grad, 1 - b1)
        mean_square.mul_(b2).addcmul_(grad, grad, value=1 - b2)
        root = mean_square.sqrt().div_((1 - b2**t) ** 0.5).add_(self.eps)
        updates = torch.split(mean / root, [size for _, _, size in updated])
        for (p, decay, _), update in zip(updated, updates, strict=True):
            if decay:
                p.mul_(1 - lr * decay)
            p.sub_(update.view_as(p), alpha=lr / (1 - b1**t))
        if not whole:
            self.mean[rows], self.mean_square[rows] = mean, mean_square

    def state_dict(self) -> dict[str, Tensor]:
        """The running means of the gradients and their squares, (values of all parameters,) each."""
        return {"mean": self.mean, "mean_square": self.mean_square}
