"""What the package uses of torch beyond its documented names, and that it is still there.

Should a new torch move one of these, this is where it shows.
"""

from __future__ import annotations

import ast
import socket
from importlib import import_module
from pathlib import Path

import pytest
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


def test_names_of_modules_and_of_scripts() -> None:
    """``export`` puts modules into ``_modules``, and a benchmark sets up torch's compiler."""
    assert torch.nn.Sequential(torch.nn.Tanh())._modules.keys() == {"0"}
    dynamo = import_module("torch._dynamo")
    assert callable(dynamo.reset)
    assert hasattr(dynamo.config, "trace_autograd_ops")


TORCHRUN = {"TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_USE_AGENT_STORE"}
"""Environment variables of torchrun without documentation."""


@pytest.mark.full
def test_the_variables_of_torchrun() -> None:
    def strings(path: Path) -> set[str]:
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        return {
            node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }

    package = [*Path(makemore.__file__).parent.rglob("*.py")]
    used = {text for path in package for text in strings(path) if text.startswith("TORCHELASTIC_")}
    assert used == TORCHRUN
    torchrun = [*(Path(torch.__file__).parent / "distributed").rglob("*.py")]
    known = {text for path in torchrun for text in strings(path) if text in TORCHRUN}
    assert known == TORCHRUN


def test_the_rendezvous_of_torchrun() -> None:
    """``rendezvous`` gives store, rank and number of processes; the store has what the package asks of it."""
    import torch.distributed

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        values = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        for name, value in values.items():
            patch.setenv(name, value)
        store, rank, world_size = next(torch.distributed.rendezvous("env://"))  # type: ignore[attr-defined]
    assert (rank, world_size) == (0, 1)
    assert not store.check(["key"])
    store.set("key", "value")
    assert (store.get("key"), store.check(["key"]), store.add("count", 1)) == (b"value", True, 1)
    own_store = torch.distributed.PrefixStore("attempt", store)  # type: ignore[attr-defined]
    assert not own_store.check(["key"])


def test_the_heartbeats_of_optuna() -> None:
    """``makemore/search/study.py`` reads the table, and a trial's private number."""
    optuna = pytest.importorskip("optuna")
    models = pytest.importorskip("optuna.storages._rdb.models")
    assert "trial_id" in models.TrialHeartbeatModel.__table__.columns
    assert models.TrialHeartbeatModel.__tablename__ == "trial_heartbeats"
    assert isinstance(optuna.create_study().ask()._trial_id, int)


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
