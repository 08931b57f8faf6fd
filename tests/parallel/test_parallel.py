"""Runs on many processes against the run of one: gloo, on this machine.

What differs is the order in which sums are taken. Every process starts Python and torch, hence few cases; the
others are marked slow.
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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import namespaces
import pytest
import safetensors.torch
import torch
import two_hosts
from torch import Generator, Tensor

from makemore.backprop.windows import WindowsEngine
from makemore.commands.train import new_job, train
from makemore.errors import UsageError
from makemore.model_file import TRAINED, load_model
from makemore.networks import network_plan
from makemore.parallel import processes as parallel
from makemore.parallel.engine import ParallelEngine, check_shareable
from makemore.parallel.processes import Processes

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
    done = run(processes, WORKER, path, engine, network, batch_size)
    assert done.returncode == 0, done.stderr
    return safetensors.torch.load_file(path)


@pytest.mark.parametrize(
    ("engine", "network", "processes", "batch_size"),
    [
        ("windows", "wavenet", 2, 33),
        ("backprop", "hierarchical-bug", 2, 9),
        ("autograd", "wavenet", 2, 7),
        *(
            pytest.param(engine, network, 4, 30, marks=pytest.mark.slow)
            for engine in ("windows", "backprop", "autograd")
            for network in ("mlp", "wavenet", "hierarchical-bug")
        ),
    ],
)
def test_many_processes_give_the_run_of_one(
    engine: str, network: str, processes: int, batch_size: int, tmp_path: Path
) -> None:
    """100 steps of SGD and 5 batches of soft targets with dropping, in float64; uneven shares too."""
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
def test_the_command_and_going_on_with_another_number(recipe: str, word_file: Path, tmp_path: Path) -> None:
    """A run of one process, one of two, and one of two that one process goes on with."""
    argv = [*TRAIN, *SMALL, "--data", word_file, "--recipe", recipe, "--steps", 100, "--out-dir"]
    assert run(1, *argv, tmp_path / "one").returncode == 0
    two = run(2, *argv, tmp_path / "two")
    assert two.returncode == 0, two.stderr
    assert "2 processes (gloo)" in two.stdout
    assert two.stdout.count("loss per character") == 1, "the first process alone prints"
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    if recipe == "lecture":
        more = [*TRAIN, "--resume", "--steps", 120, "--out-dir"]
        assert run(1, *more, tmp_path / "two").returncode == 0
        assert run(1, *more, tmp_path / "one").returncode == 0
        assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)


@pytest.mark.slow
def test_teachers_and_members(word_file: Path, tmp_path: Path) -> None:
    """Three teachers by two processes are those of one process to the bit, their pupils alike to rounding."""
    argv = [*TRAIN, *SMALL, "--data", word_file, "--steps", 60, "--teachers", 3, "--members", 2, "--out-dir"]
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
def test_a_pipe_is_not_shared(tmp_path: Path) -> None:
    """Of words that come once each process would get some."""
    reader, writer = os.pipe()
    os.write(writer, b"anna\n" * 9)
    os.close(writer)
    for data, name in (("-", "stdin"), (f"/dev/fd/{reader}", f"/dev/fd/{reader}")):
        with pytest.raises(UsageError, match=f"by itself: give a file by --data, not {name}"):
            new_job({"data": data}, tmp_path, Processes(2))
    os.close(reader)


def test_mistakes_are_told_once(word_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the first process too if it is late: torchrun ends it as soon as another has ended."""
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
def test_a_refused_run_is_refused_again_when_it_is_restarted(word_file: Path, tmp_path: Path) -> None:
    """What lies there is another run's: not for a restart to go on with."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(TRAINED.read_bytes())
    done = run(2, *TRAIN, *SMALL, "--data", word_file, "--out-dir", tmp_path, restarts=1)
    assert done.returncode != 0
    assert done.stderr.count("is there already: --overwrite it") == 2
    assert path.read_bytes() == TRAINED.read_bytes()


def test_a_device_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the words of one process alone, before the processes meet."""
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="device cuda:99 is not there: torch sees "):
        train({"device": "cuda:99"}, tmp_path / "out")


def test_every_process_knows_which_step_is_saved(word_file: Path, tmp_path: Path) -> None:
    """Any of them may be the one that says so when the run is interrupted."""
    job = new_job({"data": str(word_file)}, tmp_path / "out", Processes(2, rank=1))
    job.trainer.step = 60
    job.save()
    assert job.how_to_go_on().startswith("step 60 is saved; ")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_shared_is_refused() -> None:
    with pytest.raises(UsageError, match="4 processes need batches of 4 examples or more, got 3"):
        check_shareable(3, Processes(4))
    network = network_plan("mlp").build(3, Generator().manual_seed(1))
    engine = ParallelEngine(network, WindowsEngine, Processes(4))
    with pytest.raises(UsageError, match="got 2"):  # a list may have fewer rows of soft targets
        engine.gradients(torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, dtype=torch.int64))


@pytest.mark.parametrize("rows", [2, 7, 8, 1024])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_shares_are_the_whole_batch(rows: int, number: int) -> None:
    if rows < number:
        return
    shares = [list(range(rows))[share] for share in Processes(number).shares(rows)]
    assert [row for share in shares for row in share] == list(range(rows))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_rows_that_end_alike_are_one_processs() -> None:
    """Each row is somebody's, as many for each; few processes have the same windows."""
    generator = Generator().manual_seed(1)
    ends = torch.cat([torch.randint(0, 27, (700, 4), generator=generator), torch.zeros(230, 4).long()])
    ends = ends[torch.randint(0, len(ends), (6000,), generator=generator)]
    X = torch.cat([torch.randint(0, 27, ends.shape, generator=generator), ends], dim=1)
    keep = (torch.rand(X.shape, generator=generator) < 0.99).float()
    for number in (2, 3):
        network = network_plan("wavenet").build(27, Generator().manual_seed(1))
        shares = []
        for rank in range(number):
            engine = ParallelEngine(network, WindowsEngine, Processes(number, rank))
            shares.append(engine._own_rows(X, keep))
        assert torch.equal(torch.cat(shares).sort().values, torch.arange(len(X)))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        windows = [len(ends.masked_fill(keep[:, 4:] == 0, 27)[share].unique(dim=0)) for share in shares]
        whole = len(ends.masked_fill(keep[:, 4:] == 0, 27).unique(dim=0))
        assert sum(windows) < 1.05 * whole
        assert max(windows) < 1.2 * min(windows)


def test_processes_meet_whatever_those_before_them_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchrun's store lives on: a start of all has another name than the one before, and knows of it."""
    store = torch.distributed.HashStore()
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")

    def met(ranks: Sequence[int]) -> list[tuple[str, bool]]:
        with ThreadPoolExecutor(len(ranks)) as pool:
            return list(pool.map(lambda rank: parallel._met(store, rank, 3), ranks))

    monkeypatch.setattr(parallel, "_store", store)
    (first,) = set(met([2, 0, 1]))
    store.set(f"{first[0]}/2", "one that looked at the name before the first process had a new one")
    (second,) = set(met([1, 2, 0]))
    Processes(3, rank=1).begin()
    assert {again for _, again in met([0, 1, 2])} == {False}
    Processes(3, rank=0).begin()
    (third,) = set(met([0, 1, 2]))
    assert len({first[0], second[0], third[0]}) == 3
    assert [first[1], second[1], third[1]] == [False, False, True], (
        "the first process of the second start got as far as a file"
    )
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    for restarts, expected in (("0", False), ("2", True)):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restarts)
        assert {again for _, again in met([0, 1, 2])} == {expected}

    monkeypatch.setenv("LOCAL_RANK", "1")
    for host in "01":
        monkeypatch.setenv("GROUP_RANK", host)
        assert [parallel.speaks(), parallel.speaks()] == [True, False], "one on each host, whoever is first"


def test_whoever_is_there_alone_speaks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that have not met wait for those before them, which torchrun would let end them."""
    waits: list[float] = []
    monkeypatch.setattr(parallel, "_store", None)
    monkeypatch.setattr(time, "sleep", waits.append)
    for rank in "012":
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert parallel.speaks()
    assert waits == [0, 10, 20]


@pytest.mark.parametrize(
    ("chosen", "told", "own"),
    [
        ({0, 1, 2, 3, 4}, {"LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}, {2, 3, 4}),
        ({0, 1, 2, 3, 4}, {"LOCAL_WORLD_SIZE": "6", "LOCAL_RANK": "1"}, None),
        ({0, 1, 2, 3}, {"LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}, None),
        ({0, 1, 2, 3, 4}, {}, None),  # started by something else than torchrun
    ],
)
def test_a_process_keeps_to_its_share_of_the_cores(
    chosen: set[int], told: dict[str, str], own: set[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    monkeypatch.setattr(os, "SCHED_OTHER", 0, raising=False)
    monkeypatch.setattr(os, "sched_getscheduler", lambda _: 1, raising=False)  # somebody has chosen one
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: chosen, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: kept.extend(cores), raising=False)
    for name in ("LOCAL_WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    parallel._keep_apart()
    assert (set(kept) or None) == own


def two_hosts_are_possible() -> bool:
    """Whether there can be network namespaces: root in a container often may not make them."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"mm{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode == 0
    if made:
        namespaces.ip("netns", "delete", name)
    return made


@pytest.mark.slow
def test_two_hosts(capfd: pytest.CaptureFixture[str]) -> None:
    """The script in short: compared, gone on with, and a host that is lost and comes back."""
    if not two_hosts_are_possible():
        pytest.skip("network namespaces need iproute2's ip and root's rights")
    assert two_hosts.main(["--kills", "1", "--steps", "300"]) == 0
    printed = capfd.readouterr().out
    assert re.search(r"losses \S+e-\d\d apart\n", printed)
    assert re.search(r"host restarts  on second host .* went on by itself, to the same bits\n", printed)
    assert f"mm{os.getpid()}" not in namespaces.ip("netns", "list")


def workers(parent: int) -> list[int]:
    """The processes that a torchrun has started."""
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def lose_a_worker(arguments: Sequence[object], restarts: int, model_file: Path) -> tuple[int, str]:
    """The exit code and stderr of a run that loses a worker after step 50.

    The worker stands still before it is killed, so that it is not a run that was over.
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
        hit = workers(process.pid)[-1:]
        namespaces.kill(hit, signal.SIGSTOP)
        over = not hit or two_hosts.saved_step(model_file, began) is None
        namespaces.kill(hit, signal.SIGCONT if over else signal.SIGKILL)
        _, err = process.communicate(timeout=300)
        if not over:
            return process.returncode, err


@pytest.mark.slow
@pytest.mark.parametrize("restarts", [0, 1])
def test_a_lost_worker(restarts: int, word_file: Path, tmp_path: Path) -> None:
    """It ends the run, which can be resumed; or, with torchrun's restarts, the run goes on by itself."""
    argv = [*TRAIN, *SMALL, "--data", word_file, "--recipe", "lecture", "--steps", 600]
    argv += ["--save-every", 0, "--log-every", 50, "--out-dir", tmp_path / "killed"]
    code, err = lose_a_worker(argv, restarts, tmp_path / "killed" / "model.safetensors")
    if restarts == 0:
        assert code != 0
        lines = [line for line in err.splitlines() if line.startswith("makemore-train: ")]
        assert len(lines) <= 1
        assert all("failed or was lost" in line or "interrupted" in line for line in lines)
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
