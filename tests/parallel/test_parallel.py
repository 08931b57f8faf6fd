"""Runs of several processes against the run of one: gloo, on this machine.

They differ in the order in which sums are taken. Every process starts Python and torch, so there are few
cases. The others are marked slow.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import namespaces
import pytest
import safetensors.torch
import torch
import two_hosts
from torch import Generator, Tensor

from makemore.backprop.windows import WindowsEngine
from makemore.commands.train import train
from makemore.core.errors import UsageError
from makemore.parallel import processes as parallel
from makemore.parallel.engine import ParallelEngine, check_shareable
from makemore.parallel.processes import DistributedProcesses
from makemore.run.catalog import network_plan
from makemore.run.model_file import BUNDLED, load_model
from makemore.run.training_run import new_run
from makemore.training.processes import Processes

pytestmark = pytest.mark.full

WORKER = Path(__file__).with_name("worker.py")
TRAIN = ["-m", "makemore", "train"]
SMALL = ["--n-embd", "6", "--n-hidden", "16", "--samples", "2"]


def command(processes: int, arguments: Sequence[object], restarts: int = 0) -> list[str]:
    own = ["--standalone", "--nproc-per-node", str(processes), "--max-restarts", str(restarts)]
    start = [] if processes == 1 else ["-m", "torch.distributed.run", *own]
    return [sys.executable, *start, *map(str, arguments)]


def run(processes: int, *arguments: object, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(processes, arguments, restarts), capture_output=True, text=True, env=os.environ, timeout=300
    )


def trained(path: Path, processes: int, engine: str, network: str, batch_size: int) -> dict[str, Tensor]:
    """The tensors that the worker writes: losses, gradients and the trained network."""
    done = run(processes, WORKER, path, engine, network, batch_size)
    assert done.returncode == 0, done.stderr
    return safetensors.torch.load_file(path)


@pytest.mark.parametrize(
    ("engine", "network", "processes", "batch_size"),
    [
        ("windows", "wavenet", 2, 33),
        ("windows", "wavenet with labels", 2, 33),
        ("backprop", "hierarchical-bug", 2, 9),
        ("autograd", "wavenet", 2, 7),
        *(
            pytest.param(engine, network, 4, 30, marks=pytest.mark.slow)
            for engine in ("windows", "backprop", "autograd")
            for network in ("mlp", "wavenet", "hierarchical-bug")
        ),
    ],
)
def test_several_processes_give_the_run_of_one(
    engine: str, network: str, processes: int, batch_size: int, tmp_path: Path
) -> None:
    """100 steps of SGD and 5 batches of soft targets with keep_mask, in float64, with unequal shares."""
    many = trained(tmp_path / "many", processes, engine, network, batch_size)
    one = trained(tmp_path / "one", 1, engine, network, batch_size)
    for name, tensor in one.items():
        scale = max(1.0, tensor.abs().max().item())
        torch.testing.assert_close(
            many[name], tensor, rtol=1e-10, atol=1e-10 * scale, msg=lambda m, name=name: f"{name}: {m}"
        )


def losses(directory: Path) -> list[float]:
    with (directory / "losses.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]


@pytest.mark.parametrize("recipe", ["modern", "lecture"])
def test_a_run_may_be_resumed_with_another_number_of_processes(
    recipe: str, word_file: Path, tmp_path: Path
) -> None:
    """A run of one process, a run of two, and a run of two that one process resumes."""
    argv = [*TRAIN, *SMALL, "--data", word_file, "--recipe", recipe, "--steps", 100, "--out-dir"]
    assert run(1, *argv, tmp_path / "one").returncode == 0
    two = run(2, *argv, tmp_path / "two")
    assert two.returncode == 0, two.stderr
    assert "2 processes (gloo)" in two.stdout
    assert two.stdout.count("loss per character") == 1, "only the first process prints"
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    if recipe == "lecture":
        more = [*TRAIN, "--resume", "--steps", 120, "--out-dir"]
        assert run(1, *more, tmp_path / "two").returncode == 0
        assert run(1, *more, tmp_path / "one").returncode == 0
        assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)


@pytest.mark.slow
def test_teachers_and_ensembles(word_file: Path, tmp_path: Path) -> None:
    """Two processes train the same three teachers as one, to the bit, and the same students, to rounding."""
    argv = [*TRAIN, *SMALL, "--data", word_file, "--steps", 60, "--teachers", 3, "--ensemble", 2, "--out-dir"]
    for number, name in ((1, "one"), (2, "two")):
        done = run(number, *argv, tmp_path / name)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(" of 3: val ") == 3
    for i in (1, 2, 3):
        one, two = (tmp_path / name / f"teacher-{i}.safetensors" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    (tmp_path / "two" / "teacher-2.safetensors").unlink()
    assert run(2, *argv, tmp_path / "two", "--overwrite").returncode == 0
    assert (tmp_path / "two" / "teacher-2.safetensors").exists()


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="the system has no /dev/fd")
def test_words_from_a_pipe_are_refused(tmp_path: Path) -> None:
    """They can be read once only, so each process would get some of them."""
    reader, writer = os.pipe()
    os.write(writer, b"anna\n" * 9)
    os.close(writer)
    for data, name in (("-", "stdin"), (f"/dev/fd/{reader}", f"/dev/fd/{reader}")):
        with pytest.raises(
            UsageError, match=f"every process reads the word list: give a file with --data, not {name}"
        ):
            new_run({"data": data}, tmp_path, Processes(2))
    os.close(reader)


def test_errors_are_printed_once(word_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the first process is late, which torchrun ends as soon as another has ended."""
    late = "import os, time\ntime.sleep(os.environ.get('LOCAL_RANK') == '0')\n"
    (tmp_path / "sitecustomize.py").write_text(late)
    argv = [*TRAIN, "--data", word_file, "--batch-size", "1", "--out-dir", tmp_path / "out"]
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
        done = run(2, *argv)
    assert done.returncode != 0
    assert done.stderr.count("makemore-train: argument --batch-size: must be") == 1
    done = run(2, *TRAIN, "--data", tmp_path / "none", "--out-dir", tmp_path / "out")
    assert done.returncode != 0
    assert done.stderr.count("makemore-train: cannot read the word list") == 1
    assert "Traceback" not in done.stderr.split("torch/distributed")[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_refused_run_is_refused_again_after_a_restart(word_file: Path, tmp_path: Path) -> None:
    """The model file there is another run's, and a restart must not resume it."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(BUNDLED.read_bytes())
    done = run(2, *TRAIN, *SMALL, "--data", word_file, "--out-dir", tmp_path, restarts=1)
    assert done.returncode != 0
    assert done.stderr.count("already exists: --overwrite it") == 2
    assert path.read_bytes() == BUNDLED.read_bytes()


def test_a_missing_device_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the message of a single process, before the processes are connected."""
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="device cuda:99 does not exist: torch finds "):
        train({"device": "cuda:99"}, tmp_path / "out")


def test_every_process_knows_which_step_is_saved(word_file: Path, tmp_path: Path) -> None:
    """Any of them may be the one that prints it when the run is interrupted."""
    training_run = new_run({"data": str(word_file)}, tmp_path / "out", Processes(2, rank=1))
    training_run.trainer.step = 60
    training_run.save()
    assert training_run.how_to_resume().startswith("step 60 is saved; ")
    assert not (tmp_path / "out").exists()


def test_batches_with_fewer_examples_than_processes_are_refused() -> None:
    with pytest.raises(UsageError, match="4 processes need batches of at least 4 examples, got 3"):
        check_shareable(3, Processes(4))
    network = network_plan("mlp").build(3, Generator().manual_seed(1))
    engine = ParallelEngine(network, WindowsEngine, Processes(4))
    with pytest.raises(UsageError, match="got 2"):  # a list may have fewer rows of soft targets
        engine.gradients(torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, dtype=torch.int64))


@pytest.mark.parametrize("rows", [2, 7, 8, 1024])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_shares_are_the_whole_batch(rows: int, world_size: int) -> None:
    if rows < world_size:
        return
    shares = [list(range(rows))[share] for share in Processes(world_size).split(rows)]
    assert [row for share in shares for row in share] == list(range(rows))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_rows_with_the_same_second_half_go_to_one_process() -> None:
    """Each row goes to one process and each process gets as many. Processes have few windows in common."""
    generator = Generator().manual_seed(1)
    ends = torch.cat([torch.randint(0, 27, (700, 4), generator=generator), torch.zeros(230, 4).long()])
    ends = ends[torch.randint(0, len(ends), (6000,), generator=generator)]
    X = torch.cat([torch.randint(0, 27, ends.shape, generator=generator), ends], dim=1)
    keep = (torch.rand(X.shape, generator=generator) < 0.99).float()
    for world_size in (2, 3):
        network = network_plan("wavenet").build(27, Generator().manual_seed(1))
        shares = []
        for rank in range(world_size):
            engine = ParallelEngine(network, WindowsEngine, Processes(world_size, rank))
            shares.append(engine._own_rows(X, keep))
        assert torch.equal(torch.cat(shares).sort().values, torch.arange(len(X)))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        windows = [len(ends.masked_fill(keep[:, 4:] == 0, 27)[share].unique(dim=0)) for share in shares]
        whole = len(ends.masked_fill(keep[:, 4:] == 0, 27).unique(dim=0))
        assert sum(windows) < 1.05 * whole
        assert max(windows) < 1.2 * min(windows)


def test_processes_meet_whatever_earlier_ones_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchrun's store outlives them. Each attempt has a new name and knows if an earlier one started."""
    store = torch.distributed.HashStore()
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")

    def met(ranks: Sequence[int]) -> list[tuple[str, bool]]:
        with ThreadPoolExecutor(len(ranks)) as pool:
            return list(pool.map(lambda rank: parallel._rendezvous(store, rank, 3), ranks))

    monkeypatch.setattr(parallel, "_store", store)
    (first,) = set(met([2, 0, 1]))
    store.set(f"{first[0]}/2", "a process that read the name before the first process wrote a new one")
    (second,) = set(met([1, 2, 0]))
    DistributedProcesses(3, rank=1).mark_started()
    assert {again for _, again in met([0, 1, 2])} == {False}
    DistributedProcesses(3, rank=0).mark_started()
    (third,) = set(met([0, 1, 2]))
    assert len({first[0], second[0], third[0]}) == 3
    assert [first[1], second[1], third[1]] == [False, False, True], (
        "the first process of the second attempt has written a file"
    )
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    for restarts, expected in (("0", False), ("2", True)):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restarts)
        assert {again for _, again in met([0, 1, 2])} == {expected}

    monkeypatch.setenv("LOCAL_RANK", "1")
    for host in "01":
        monkeypatch.setenv("GROUP_RANK", host)
        assert [parallel.is_reporter(), parallel.is_reporter()] == [True, False], (
            "one process on each host, the first that asks"
        )


def test_processes_that_are_not_connected_report_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waits for those before it: if one reports and ends, torchrun ends the others."""
    waits: list[float] = []
    monkeypatch.setattr(parallel, "_store", None)
    monkeypatch.setattr(time, "sleep", waits.append)
    for rank in "012":
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert parallel.is_reporter()
    assert waits == [0, 10, 20]


@pytest.mark.parametrize(
    ("allowed", "environment", "own"),
    [
        ({0, 1, 2, 3, 4}, {"LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}, {2, 3, 4}),
        ({0, 1, 2, 3, 4}, {"LOCAL_WORLD_SIZE": "6", "LOCAL_RANK": "1"}, None),
        ({0, 1, 2, 3}, {"LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}, None),
        ({0, 1, 2, 3, 4}, {}, None),  # not started by torchrun
    ],
)
def test_a_process_keeps_to_its_share_of_the_cores(
    allowed: set[int], environment: dict[str, str], own: set[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    monkeypatch.setattr(os, "SCHED_OTHER", 0, raising=False)
    monkeypatch.setattr(os, "sched_getscheduler", lambda _: 1, raising=False)  # the user has chosen one
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: allowed, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: kept.extend(cores), raising=False)
    for name in ("LOCAL_WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    parallel._pin_cores()
    assert (set(kept) or None) == own


def two_hosts_are_possible() -> bool:
    """Whether network namespaces can be made: in a container root is often not allowed to."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"mm{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode == 0
    if made:
        namespaces.ip("netns", "delete", name)
    return made


@pytest.mark.slow
def test_two_hosts(capfd: pytest.CaptureFixture[str]) -> None:
    """A short run of the script: losses compared, a run resumed, and a host lost that comes back."""
    if not two_hosts_are_possible():
        pytest.skip("network namespaces need iproute2's ip and root")
    assert two_hosts.main(["--kills", "1", "--steps", "300"]) == 0
    printed = capfd.readouterr().out
    assert re.search(r"losses \S+e-\d\d apart\n", printed)
    assert re.search(r"host restarts  on second host .* by itself, to the same bits\n", printed)
    assert f"mm{os.getpid()}" not in namespaces.ip("netns", "list")


def workers(parent: int) -> list[int]:
    """The ids of the processes that a torchrun has started."""
    children = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(pid) for pid in children.read_text(encoding="utf-8").split()]


def lose_a_worker(
    arguments: Sequence[object], restarts: int, model_file: Path, then: Callable[[], object] = int
) -> tuple[int, str]:
    """The exit code and stderr of a run that loses a worker after step 50.

    The worker is suspended before it is killed, so that the run cannot finish in between. Meanwhile ``then``
    is called.
    """
    while True:
        began = time.time()
        process = subprocess.Popen(
            command(2, [*arguments, "--overwrite"], restarts),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        while (step := two_hosts.saved_step(model_file, began)) is not None and step < 50:
            time.sleep(0.02)
            assert not process.poll(), process.communicate()
        lost = workers(process.pid)[-1:]
        namespaces.kill(lost, signal.SIGSTOP)
        finished = not lost or two_hosts.saved_step(model_file, began) is None
        if not finished:
            then()
        namespaces.kill(lost, signal.SIGCONT if finished else signal.SIGKILL)
        _, err = process.communicate(timeout=300)
        if not finished:
            return process.returncode, err


@pytest.mark.slow
@pytest.mark.parametrize("restarts", [0, 1])
def test_a_lost_worker(restarts: int, word_file: Path, tmp_path: Path) -> None:
    """It ends the run, which can be resumed. With torchrun's restarts the run continues by itself."""
    argv = [*TRAIN, *SMALL, "--data", word_file, "--recipe", "lecture", "--steps", 600]
    argv += ["--save-every", 0, "--log-every", 50, "--out-dir", tmp_path / "killed"]
    code, err = lose_a_worker(argv, restarts, tmp_path / "killed" / "model.safetensors")
    if restarts == 0:
        assert code != 0
        lines = [line for line in err.splitlines() if line.startswith("makemore-train: ")]
        assert len(lines) <= 1
        assert all("this process or another one failed" in line or "interrupted" in line for line in lines)
        if two_hosts.saved_step(tmp_path / "killed" / "model.safetensors") is not None:
            assert run(2, *TRAIN, "--resume", "--out-dir", tmp_path / "killed").returncode == 0
    else:
        assert code == 0, err
    argv[-1] = tmp_path / "whole"
    assert run(2, *argv).returncode == 0
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    whole, killed = (load_model(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, killed.network.state_dict()[name]), name


@pytest.mark.slow
def test_a_run_that_is_restarted_where_its_files_are_not_does_not_begin_again(
    word_file: Path, tmp_path: Path
) -> None:
    """As on another machine: torchrun may give the first process to any of them."""
    argv = [*TRAIN, *SMALL, "--data", word_file, "--recipe", "lecture", "--steps", 600]
    argv += ["--save-every", 0, "--log-every", 50, "--out-dir", tmp_path / "run"]
    here, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    code, err = lose_a_worker(argv, 1, here / "model.safetensors", partial(here.rename, elsewhere))
    assert code != 0
    lines = [line for line in err.splitlines() if "torchrun restarted the run" in line]
    assert lines == [
        f"makemore-train: torchrun restarted the run, but its model file is not on this machine, in {here}:"
        " resume where it is, or share the directory among the machines"
    ]
    assert not (here / "model.safetensors").exists()
    assert two_hosts.saved_step(elsewhere / "model.safetensors") is not None
