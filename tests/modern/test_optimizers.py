"""Muon and AdamW against torch.optim's, over many steps."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Generator, Tensor

from makemore.modern.optimizers import (
    GRAM_RATIO,
    AdamW,
    Muon,
    gram_newton_schulz,
    newton_schulz,
    orthogonalized,
)
from makemore.training.processes import Processes

SHAPES = {"a": (48, 128), "b": (256, 128), "c": (256, 128), "d": (30, 7), "e": (3, 1)}


def twins(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype) -> tuple[dict[str, Tensor], ...]:
    generator = Generator().manual_seed(0)
    first = {n: torch.randn(shape, generator=generator, dtype=dtype) for n, shape in shapes.items()}
    return first, {name: p.clone() for name, p in first.items()}


def give_gradients(step: int, *groups: dict[str, Tensor]) -> None:
    """Give all groups the same gradients, which change slowly from step to step."""
    generator = Generator().manual_seed(1)
    for name, p in groups[0].items():
        steady, noise = torch.randn((2, *p.shape), generator=generator, dtype=p.dtype)
        for group in groups:
            group[name].grad = steady + torch.roll(noise, step, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_muon_equals_torchs(dtype: torch.dtype) -> None:
    """Torch's orthogonalizes everything in bfloat16. Ours does so less often, and is then more exact."""
    ours, theirs = twins(SHAPES, dtype)
    muon = Muon(ours, weight_decay=0.1)
    reference = torch.optim.Muon(theirs.values(), lr=1.0, weight_decay=0.1, momentum=0.95)
    before = {name: p.clone() for name, p in ours.items()}
    for step in range(30):
        give_gradients(step, ours, theirs)
        lr = 0.02 * (step + 1) / 30
        for group in reference.param_groups:
            group["lr"] = lr
        muon.step(lr)
        reference.step()
    for name, p in ours.items():
        moved = (theirs[name] - before[name]).norm()
        assert (p - theirs[name]).norm() < 0.02 * moved, name
        buffer = reference.state[theirs[name]]["momentum_buffer"]
        torch.testing.assert_close(muon.state_dict()[name], buffer, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(48, 128), (128, 48), (64, 64), (256, 128), (5, 3)])
def test_orthogonalized_is_the_polynomial_of_the_singular_values(shape: tuple[int, int]) -> None:
    X = torch.randn((3, *shape), generator=Generator().manual_seed(2), dtype=torch.float64)
    U, S, Vt = torch.linalg.svd(X / X.norm(dim=(1, 2), keepdim=True), full_matrices=False)
    for _ in range(5):
        S = 3.4445 * S - 4.7750 * S**3 + 2.0315 * S**5
    torch.testing.assert_close(orthogonalized(X), U * S.unsqueeze(1) @ Vt, rtol=1e-10, atol=1e-10)


def matrices(shape: tuple[int, int], magnitudes: float) -> Tensor:
    """Two float64 matrices of norm 1, with singular values over that many orders of magnitude."""
    X = torch.randn((2, *shape), generator=Generator().manual_seed(3), dtype=torch.float64)
    U, S, Vt = torch.linalg.svd(X, full_matrices=False)
    if magnitudes:
        S = torch.logspace(0, -magnitudes, S.shape[1], dtype=torch.float64).expand_as(S)
    X = U * S.unsqueeze(1) @ Vt
    return X / X.norm(dim=(1, 2), keepdim=True)


@pytest.mark.parametrize("shape", [(48, 128), (256, 128), (128, 512), (64, 64), (5, 3), (9, 1), (1, 1)])
@pytest.mark.parametrize("magnitudes", [0, 2, 4, 8])
def test_the_iteration_on_gram_matrices_is_the_plain_one(shape: tuple[int, int], magnitudes: float) -> None:
    """In float64 to rounding, in float32 nearly so if the singular values are alike."""
    X = matrices(shape, magnitudes)
    plain = newton_schulz(X)
    torch.testing.assert_close(gram_newton_schulz(X), plain, rtol=0, atol=1e-12)
    error = (gram_newton_schulz(X.float()) - plain).norm() / plain.norm()
    alike = magnitudes == 0 and max(shape) > GRAM_RATIO * min(shape)
    assert error < (5e-6 if alike else 5e-4)


@pytest.mark.parametrize("rank", [1, 3])
def test_matrices_of_low_rank_keep_their_rank(rank: int) -> None:
    generator = Generator().manual_seed(4)
    left, right = (torch.randn((2, n, rank), generator=generator) for n in (256, 128))
    orthogonal = orthogonalized(left @ right.mT)
    S = torch.linalg.svdvals(orthogonal)
    assert (S[:, :rank] > 0.6).all()
    assert (S[:, rank:] < 1e-3).all()


def test_a_matrix_of_zeros_stays_zero() -> None:
    for shape in ((3, 256, 128), (3, 64, 64)):
        assert torch.equal(orthogonalized(torch.zeros(shape)), torch.zeros(shape))


@pytest.mark.parametrize(
    "shape", [(48, 128), (128, 48), (130, 128), (192, 128), (200, 128), (300, 128), (5, 3)]
)
def test_the_form_with_fewer_multiplications_is_taken(shape: tuple[int, int]) -> None:
    """torch counts two operations for each multiplication."""
    from torch.utils.flop_counter import FlopCounterMode

    counts = []
    for iterate in (orthogonalized, newton_schulz, gram_newton_schulz):
        with FlopCounterMode(display=False) as counter:
            iterate(torch.ones((2, *shape)))
        counts.append(counter.get_total_flops())
    taken, *both = counts
    assert taken == min(both)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_dtype_stays(dtype: torch.dtype) -> None:
    assert orthogonalized(torch.ones((2, 256, 128), dtype=dtype)).dtype == dtype


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_adamw_equals_torchs(dtype: torch.dtype, tolerance: float) -> None:
    ours, theirs = twins({"E": (27, 24), "gamma": (128,), "W": (128, 27), "b": (27,)}, dtype)
    adamw = AdamW(ours, {"W": 0.4})
    groups = [{"params": [theirs["W"]], "weight_decay": 0.4}]
    groups += [{"params": [theirs[name]], "weight_decay": 0.0} for name in ("E", "gamma", "b")]
    reference = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.99))
    for step in range(50):
        give_gradients(step, ours, theirs)
        lr = 0.008 * (step + 1) / 50
        for group in reference.param_groups:
            group["lr"] = lr
        adamw.step(lr, step + 1)
        reference.step()
    for name, p in ours.items():
        torch.testing.assert_close(p, theirs[name], rtol=tolerance, atol=tolerance)


def test_muon_of_several_processes_equals_that_of_one() -> None:
    """With threads in place of processes: each update comes from the process that orthogonalizes it."""
    world_size = 3
    whole, *parts = (twins(SHAPES, torch.float64)[0] for _ in range(world_size + 1))
    barrier, sent = threading.Barrier(world_size), dict[int, Tensor]()

    class Threads(Processes):
        def broadcast(self, tensor: Tensor, src: int) -> None:
            if self.rank == src:
                sent[src] = tensor
            barrier.wait()
            if self.rank != src:
                tensor.copy_(sent[src])
            barrier.wait()

    muon = Muon(whole)
    muons = [Muon(p, processes=Threads(world_size, rank)) for rank, p in enumerate(parts)]
    with ThreadPoolExecutor(world_size) as pool:
        for step in range(5):
            give_gradients(step, whole, *parts)
            muon.step(0.01)
            list(pool.map(lambda muon: muon.step(0.01), muons))
    for name, p in whole.items():
        torch.testing.assert_close(parts[0][name], p, rtol=1e-12, atol=1e-12)
        assert all(torch.equal(part[name], parts[0][name]) for part in parts)


def test_optimizers_resume_from_their_states_to_the_bit() -> None:
    """From copies of the parameters and the states."""
    whole, half = twins(SHAPES, torch.float32)
    optimizers = [(Muon(p), AdamW(p, {"a": 0.1})) for p in (whole, half)]
    for step in range(6):
        if step == 3:
            half = {name: p.clone() for name, p in half.items()}
            again = Muon(half), AdamW(half, {"a": 0.1})
            for old, new in zip(optimizers[1], again, strict=True):
                for name, tensor in old.state_dict().items():
                    new.state_dict()[name].copy_(tensor)
            optimizers[1] = again
        give_gradients(step, whole, half)
        for muon, adamw in optimizers:
            muon.step(0.01)
            adamw.step(0.01, step + 1)
    assert all(torch.equal(whole[name], half[name]) for name in whole)


def test_parameters_without_gradients_stay_and_so_do_their_means() -> None:
    """As in torch.optim: neither momentum nor weight decay changes them. Another one is frozen each time."""
    ours, theirs = twins(SHAPES, torch.float64)
    muon_ours, muon_theirs = ({name: group[name] for name in "abc"} for group in (ours, theirs))
    muon, adamw = Muon(muon_ours), AdamW({name: ours[name] for name in "de"}, {"d": 0.4})
    reference = torch.optim.AdamW(
        [{"params": [theirs["d"]]}, {"params": [theirs["e"]]}], lr=0.01, betas=(0.9, 0.99)
    )
    reference.param_groups[0]["weight_decay"], reference.param_groups[1]["weight_decay"] = 0.4, 0.0
    plain = Muon(muon_theirs)
    for step in range(6):
        give_gradients(step, ours, theirs)
        for group in (ours, theirs):
            group["abc"[step % 3]].grad = None
            if step < 3:
                group["e"].grad = None
        kept = {name: p.clone() for name, p in ours.items() if p.grad is None}
        moments = muon.state_dict()["abc"[step % 3]].clone()
        muon.step(0.01)
        adamw.step(0.01, step + 1)
        if step < 3:
            reference.step()
            torch.testing.assert_close(ours["d"], theirs["d"], rtol=1e-12, atol=1e-12)
        assert all(torch.equal(ours[name], value) for name, value in kept.items())
        assert torch.equal(muon.state_dict()["abc"[step % 3]], moments)
        for name in {*"abc"} - kept.keys():
            # alone, a weight is updated as among others
            single = Muon({name: muon_theirs[name]})
            single.buffers[name] = plain.buffers[name]
            single.step(0.01)
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-9, atol=1e-9)
    for p in ours.values():
        p.grad = None
    muon.step(0.01)
    adamw.step(0.01, 7)
