"""What the package uses of torch beyond its documented names, and that it is still there.

Should a new torch move one of these, this is where it shows.
"""

from __future__ import annotations

import ast
from pathlib import Path

import torch

import makemore

PRIVATE = {
    "torch.ops.aten.native_batch_norm_backward.default",
    "torch.ops.aten.tanh_backward.grad_input",
    "torch.ops.aten.sigmoid_backward.grad_input",
    "torch.ops.aten.threshold_backward.grad_input",
    "torch._log_softmax_backward_data",
    "torch._foreach_zero_",
}


def used_names() -> set[str]:
    """Every dotted name in the package that starts with torch and has a private part."""
    found = set()
    for path in Path(makemore.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                name = ast.unparse(node)
                parts = name.split(".")
                private = parts[1] == "ops" or any(part.startswith("_") for part in parts)
                if parts[0] == "torch" and name.replace(".", "").isidentifier() and private:
                    found.add(name)
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)}


def test_they_are_known() -> None:
    assert used_names() == PRIVATE


def test_backward_of_batch_norm() -> None:
    x, dy = torch.randn(2, 9, 3, dtype=torch.float64)
    gamma = torch.rand(3, dtype=torch.float64)
    running = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    mean, inverse_std = x.mean(0), (x.var(0, correction=0) + 1e-5).rsqrt()
    found = torch.ops.aten.native_batch_norm_backward.default(
        dy, x, gamma, *running, mean, inverse_std, True, 1e-5, (True, True, True)
    )
    xhat = (x - mean) * inverse_std
    dx = gamma * inverse_std * (dy - dy.mean(0) - xhat * (dy * xhat).mean(0))
    for a, b in zip(found, (dx, (dy * xhat).sum(0), dy.sum(0)), strict=True):
        torch.testing.assert_close(a, b)


def test_backward_of_tanh_in_place() -> None:
    y, dy = torch.rand(2, 4)
    expected = (1 - y * y) * dy
    torch.ops.aten.tanh_backward.grad_input(dy, y, grad_input=dy)
    torch.testing.assert_close(dy, expected)


def test_backward_of_sigmoid_and_relu_in_place() -> None:
    y, dy = torch.rand(2, 4)
    expected = y * (1 - y) * dy, dy * (y - 0.5 > 0)
    found = dy.clone(), dy.clone()
    torch.ops.aten.sigmoid_backward.grad_input(found[0], y, grad_input=found[0])
    torch.ops.aten.threshold_backward.grad_input(found[1], y - 0.5, 0, grad_input=found[1])
    torch.testing.assert_close(found, expected)


def test_backward_of_log_softmax_is_linear_in_the_targets() -> None:
    logits, minus_Y = torch.randn(5, 4), -3 * torch.rand(5, 4)
    logprobs, out = torch.log_softmax(logits, 1), torch.empty(5, 4)
    found = torch._log_softmax_backward_data(minus_Y, logprobs, 1, torch.float32, out=out)
    torch.testing.assert_close(found, minus_Y - logprobs.exp() * minus_Y.sum(1, keepdim=True))
    assert found.data_ptr() == out.data_ptr()


def test_foreach_zero() -> None:
    tensors = [torch.ones(2), torch.ones(3)]
    torch._foreach_zero_(tensors)
    assert all((t == 0).all() for t in tensors)
