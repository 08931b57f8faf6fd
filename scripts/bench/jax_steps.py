"""The lecture's training in JAX, a rival of the engines in ``engines.py``: ``pip install ".[bench]"``."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from makemore.lecture.layers import BatchNorm1d, Sequential

ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def jax_steps(network: Sequential, lr: float) -> Callable[[Tensor, Tensor], Tensor]:
    """SGD of the wavenet network from the values of a new ``network``, on one thread.

    All steps of a call are one compiled program, a ``lax.scan``: Python is not called between them. They
    compute what the lecture's steps compute, with the unbiased variance and the running statistics.
    Raises ModuleNotFoundError if JAX is not installed.
    """
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {ONE_THREAD}"
    import jax
    import jax.numpy as jnp

    norms = [layer for layer in network.layers if isinstance(layer, BatchNorm1d)]
    E, *hidden, W, b = [jnp.asarray(p.detach().numpy()) for p in network.parameters()]
    weights = {"E": E, "hidden": [hidden[i : i + 3] for i in range(0, len(hidden), 3)], "W": W, "b": b}
    running = [[jnp.asarray(n.running_mean.numpy()), jnp.asarray(n.running_var.numpy())] for n in norms]

    def batch_loss(weights: Any, running: Any, X: Any, Y: Any) -> Any:
        x, updated = weights["E"][X], []  # (B, T) -> (B, T, C)
        for norm, (W, gamma, beta), statistics in zip(norms, weights["hidden"], running, strict=True):
            x = x.reshape(len(x), x.shape[1] // 2, -1) @ W  # (B, T, C) -> (B, T//2, H)
            batch = x.mean((0, 1)), x.var((0, 1), ddof=1)
            pairs = zip(statistics, batch, strict=True)
            updated.append([(1 - norm.momentum) * old + norm.momentum * new for old, new in pairs])
            x = jnp.tanh(gamma * (x - batch[0]) / jnp.sqrt(batch[1] + norm.eps) + beta)
        logprobs = jax.nn.log_softmax(x.squeeze(1) @ weights["W"] + weights["b"])
        return -jnp.take_along_axis(logprobs, Y[:, None], axis=1).mean(), updated

    def step(state: Any, batch: Any) -> Any:
        weights, running = state
        grad = jax.value_and_grad(batch_loss, has_aux=True)
        (loss, running), grads = grad(weights, running, *batch)
        return (jax.tree.map(lambda p, g: p - lr * g, weights, grads), running), loss

    run = jax.jit(lambda state, X, Y: jax.lax.scan(step, state, (X, Y)))
    state = weights, running

    def steps(X: Tensor, Y: Tensor) -> Tensor:
        nonlocal state
        state, losses = run(state, X.int().numpy(), Y.int().numpy())
        return torch.tensor(losses.tolist())

    return steps
