"""Muon and AdamW, the optimizers of the modern recipe.

Their updates are those of ``torch.optim`` to rounding, in less time: importing torch's optimizers takes a
second, and its Muon takes a large part of a step. Here weights of the same shape are orthogonalized together,
in bfloat16 only where that is faster, and AdamW keeps all its running means in one tensor.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from makemore.training.processes import ONE_PROCESS, Processes

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""a, b, c of x -> a x + b x^3 + c x^5. Five times, it moves singular values near 1 (Jordan et al. 2024)."""

SMALL = 64
"""The length of a weight's shorter side up to which bfloat16 saves no time."""


def working_dtype(X: Tensor) -> torch.dtype:
    """The dtype in which matrices (N, short, long) are orthogonalized: bfloat16 for large float32 ones.

    On CPUs without AVX512 bfloat16 would take twenty times as long. Matrices in float64 stay in float64.
    """
    fast = X.is_cuda or "AVX512" in torch.backends.cpu.get_cpu_capability()
    return torch.bfloat16 if fast and X.dtype == torch.float32 and X.shape[1] > SMALL else X.dtype


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
            names, updates = [], []
            for name in same_shape:
                grad, buffer = self.weights[name].grad, self.buffers[name]
                if grad is None:
                    continue
                buffer.lerp_(grad, 1 - self.momentum)
                names.append(name)
                updates.append(grad.lerp(buffer, self.momentum))
            if not updates:
                continue
            fan_in, fan_out = updates[0].shape
            rate = lr * max(1, fan_in / fan_out) ** 0.5
            for name, update in zip(names, self._orthogonalized(torch.stack(updates)), strict=True):
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
    """Move the singular values of matrices near 1 by Newton-Schulz: (N, fan_in, fan_out) -> the same shape.

    X <- a X + b (X X') X + c (X X')^2 X, five times, starting from X of norm 1 with at least as many columns
    as rows.
    """
    a, b, c = NEWTON_SCHULZ
    tall = updates.shape[1] > updates.shape[2]
    X = updates.mT if tall else updates
    X = X.to(working_dtype(X))
    X = X / X.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = torch.bmm(X, X.mT)
        X = torch.baddbmm(X, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), X, beta=a)
    return (X.mT if tall else X).to(updates.dtype)


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
