"""One of several processes that train a network in float64 together. The first one writes the results.

torchrun --nproc-per-node 2 worker.py OUT ENGINE NETWORK BATCH_SIZE

The network takes labels if " with labels" follows its name.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pkgutil import resolve_name

import safetensors.torch
import torch
from torch import Generator

from makemore.backprop import windows
from makemore.parallel.engine import ParallelEngine
from makemore.parallel.processes import connected
from makemore.run.catalog import ENGINES, network_plan

STEPS = 100


def may_choose_a_scheduler() -> bool:
    """Whether the system allows it, which some containers do not."""
    try:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError:
        return False
    return True


def main(out: str, engine_name: str, network_name: str, batch_size: int) -> None:
    cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
    windows.MIN_WORK = windows.MIN_SAVING = 0  # small networks use distinct windows too
    torch.set_num_threads(1)
    generator = Generator().manual_seed(1)
    name, _, labelled = network_name.partition(" with ")
    sizes = (3, 2) if labelled else ()
    network = network_plan(name, n_embd=6, n_hidden=10).build(9, generator, sizes).to(dtype=torch.float64)
    T = network_plan(name).block_size
    X = torch.randint(0, 9, (STEPS, batch_size, T), generator=generator)
    labels = [torch.randint(0, size, (STEPS, batch_size, 1), generator=generator) for size in sizes]
    Y = torch.randint(0, 9, (STEPS, batch_size), generator=generator)
    X = torch.cat([*labels, X], dim=2)
    soft = torch.rand((5, batch_size, 9), dtype=torch.float64, generator=generator) / 9
    keep = (torch.rand((5, batch_size, T), generator=generator) < 0.8).double()
    with connected("cpu") as processes:
        make = resolve_name(ENGINES[engine_name])
        engine = (
            partial(ParallelEngine, make_engine=make, processes=processes)
            if processes.world_size > 1
            else make
        )
        trained = engine(network)
        results = {"losses": trained.sgd_steps(X, Y, [0.05] * STEPS).double()}
        for i, targets in enumerate(soft):
            results[f"loss.{i}"] = trained.gradients(X[i], targets, keep[i])
        results |= {
            f"grad.{name}": p.grad.clone() for name, p in network.named_parameters() if p.grad is not None
        }
        results |= network.state_dict()
        if processes.world_size > 1 and sys.platform == "linux":
            own = torch.tensor([core in os.sched_getaffinity(0) for core in cores])
            scheduler = os.sched_getscheduler(0)
            if may_choose_a_scheduler():
                assert scheduler != os.SCHED_OTHER, "gloo's threads interrupt each other"
                if processes.world_size <= len(cores) == os.cpu_count():
                    assert (processes.all_gather(own.long()).sum(0) == 1).all(), (
                        "a core belongs to no process or to several"
                    )
        if processes.world_size > 1:
            values = torch.cat([tensor.double().flatten() for tensor in network.state_dict().values()])
            assert (processes.all_gather(values) == values).all(), "the networks differ"
        if processes.is_first:
            safetensors.torch.save_file({n: t.detach().contiguous() for n, t in results.items()}, out)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
