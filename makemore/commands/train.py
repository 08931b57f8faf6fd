"""A training run from word list to finished files: what ``makemore-train`` does.

The run goes as in the lecture: seed, network, training with a line every 10,000 steps, losses of the
splits, 20 new words. Beyond it: the model file is written every few seconds, on Ctrl-C and on SIGTERM,
and a run resumed from it ends exactly where an uninterrupted one would have ended.
"""

from __future__ import annotations

import math
import os
import re
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator
from tqdm import tqdm

from makemore.commands.companions import Companion, check_installed, companions
from makemore.commands.guards import Signals, locked, make_directory, make_room, resolve_device
from makemore.commands.report import SPLITS, describe, losses_csv, network_summary, report
from makemore.commands.settings import ENGINES, RECIPES, RunSettings, Settings, checked, resolved, restored
from makemore.convolution import loss
from makemore.ensemble import Ensemble, EnsembleEngine, build
from makemore.errors import DivergedError, Interrupted, ModelFileError, TrainingError, UsageError, WriteError
from makemore.files import replacing
from makemore.layers import Sequential
from makemore.model_file import MODEL_FILE, Model, Progress, load_model, read_bytes, read_model, save_model
from makemore.networks import NETWORKS, network_plan
from makemore.parallel.engine import ParallelEngine, check_shareable
from makemore.parallel.processes import Processes, joined, number_of_processes
from makemore.pictures.recorder import GRADIENTS_FILE
from makemore.reading import STDIN, named
from makemore.sampling import sample_word
from makemore.training import Run, Trainer
from makemore.words import Data, WordList, load_words

LOSSES_FILE = "losses.csv"
PICTURE_FILE = "loss.png"
OLD_MODEL_FILE = "model.pt"

RESUMED = b"resumed"
"""Before a model file's bytes, which other processes are told: an empty file is one as well."""

PROBED = 256
"""Val examples that a network is tried on before it is saved."""

NONSENSE = 1e4
"""A loss that only a network that diverged has, in nats."""


def train(given: Mapping[str, Any], out_dir: Path, resume: bool = False, overwrite: bool = False) -> None:
    """Do a run, printing as it goes: ``given`` are the settings that are not to have their defaults.

    With ``resume`` the run in ``out_dir`` goes on; with ``overwrite`` a finished one is replaced. Raises
    DataError, UsageError and ModelFileError before anything is written; TrainingError, WriteError or
    Interrupted if the run cannot go on.
    """
    with Signals() as signals:
        try:
            with joined(resolve_device(given.get("device", "auto")).type) as processes:
                if not processes.is_first:
                    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
                _train(given, out_dir, resume, overwrite, signals, processes)
        except RuntimeError as error:
            if number_of_processes() == 1:
                raise
            said = re.sub(r"^\[\S+\]\s*", "", str(error)) or type(error).__name__  # gloo: where in its code
            first_line = said.splitlines()[0][:80]
            how = f"go on with: makemore-train --resume --out-dir {out_dir}"
            raise TrainingError(
                f"this process or another failed or was lost ({first_line}); {how}"
            ) from error


def _train(
    given: Mapping[str, Any],
    out_dir: Path,
    resume: bool,
    overwrite: bool,
    signals: Signals,
    processes: Processes,
) -> None:
    """A run, or the part of one process in it. The first one alone writes, and holds the lock."""
    started = time.perf_counter()
    data = given.get("data")
    if data not in (None, "lecture", STDIN) and os.path.isfile(data):  # no pipe of the shell
        given = {**given, "data": str(Path(data).resolve())}  # the run may go on from elsewhere
    model_file, content = out_dir / MODEL_FILE, b""
    with ExitStack() as stack:
        if processes.is_first:
            resume = resume or (processes.restarted and model_file.exists())
            if resume:
                check_resumable(out_dir)
                stack.enter_context(locked(out_dir))
                content = RESUMED + read_bytes(model_file)
        content = processes.told(content)
        if content:
            model = read_model(content.removeprefix(RESUMED), str(model_file))
            if processes.restarted and model.progress is not None and model.progress.finished:
                return
            job = resumed_job(given, out_dir, model, processes)
        else:
            job = new_job(given, out_dir, processes)
            if processes.is_first:
                make_directory(out_dir)
                stack.enter_context(locked(out_dir))
                others = (LOSSES_FILE, PICTURE_FILE, GRADIENTS_FILE)
                make_room(model_file, [out_dir / name for name in others], overwrite)
        if processes.is_first:
            job.companions += companions(out_dir, job.settings, job.model, job.trainer)
        job.save()
        processes.begin()
        try:
            print(describe(job.settings, job.words, job.trainer, out_dir, processes))
            print(network_summary(job.trainer.network, job.settings.recipe.batch_size), flush=True)
            print()
            job.train(signals)
            if processes.is_first:
                job.save()
                job.finish()
                print(f"\n{time.perf_counter() - started:.1f} s", flush=True)
        except DivergedError as error:
            raise job.diverged(error) from error
        except Interrupted as stop:
            raise Interrupted(stop.signum, f"interrupted; {job.how_to_go_on()}") from stop
        except WriteError as error:
            raise WriteError(f"{error}; {job.how_to_go_on()}") from error
        except OSError as error:
            reason = error.strerror or error
            raise WriteError(f"cannot write the output: {reason}; {job.how_to_go_on()}") from error


def check_resumable(out_dir: Path) -> None:
    """Raise UsageError, or ModelFileError on a file of an old version, unless there is a run to resume."""
    if not (out_dir / MODEL_FILE).exists():
        if (out_dir / OLD_MODEL_FILE).exists():
            load_model(out_dir / OLD_MODEL_FILE)  # says what it is
        raise UsageError(f"there is no run to resume in {out_dir}: leave out --resume to start one")


@dataclass
class Job:
    """A run at work: what it is to do, what trains, and the directory that it writes into."""

    out_dir: Path
    settings: Settings
    words: WordList
    model: Model
    trainer: Trainer
    processes: Processes
    saved_step: int = field(init=False)
    due: float = 0.0
    companions: list[Companion] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_installed(self.settings)
        self.saved_step = self.trainer.step

    def save(self, finished: bool = False) -> None:
        """Write the model file. Raises TrainingError, and leaves the old one, if the network is no good."""
        if not self.processes.is_first:
            self.saved_step = self.trainer.step  # by the first one
            return
        trainer, run = self.trainer, self.settings.run
        X, Y = trainer.data.val[:PROBED]
        with trainer.network.evaluating() as network:
            probe = F.cross_entropy(network(X), Y).item()
        if not probe < NONSENSE:
            raise self.diverged(DivergedError(trainer.step, f"the val loss is {probe:.3g}"))
        for companion in self.companions:
            companion.save()
        progress = Progress.of(trainer, self.settings.values(), self.words.fingerprint, finished)
        save_model(replace(self.model, progress=progress), self.out_dir / MODEL_FILE)
        self.saved_step, self.due = trainer.step, time.monotonic() + run.save_every

    def how_to_go_on(self) -> str:
        """Which step is on disk, and the command that goes on from there."""
        how = f"makemore-train --resume --out-dir {self.out_dir}"
        return f"step {self.saved_step:,} is saved; go on with: {how}"

    def diverged(self, error: DivergedError) -> TrainingError:
        """The error of a run that diverged, with what to try and what is left."""
        advice = f"try a lower --lr than {self.settings.recipe.lr:g} with --overwrite"
        return TrainingError(f"{error}; {advice} ({MODEL_FILE} holds step {self.saved_step:,})")

    def train(self, signals: Signals) -> None:
        """Train to the end, or until a signal is caught; the lecture's log lines, and a progress bar.

        The model file is written whenever it is due. Raises DivergedError as soon as a loss is seen that is
        not finite, and Interrupted after a signal, once the steps under way are saved.
        """
        trainer, run, recipe = self.trainer, *self.settings
        log_every, eval_every = run.log_every, run.eval_every
        assert log_every is not None
        assert eval_every is not None
        trainer.prepare(Run(self.out_dir, self.model.plan, self.words.fingerprint, run.seed))
        signals.deferred = True
        with tqdm(
            total=recipe.steps,
            initial=trainer.step,
            unit="step",
            disable=None if self.processes.is_first else True,
            leave=False,
            mininterval=0.5,
        ) as bar:
            for losses in trainer.run(math.gcd(log_every, eval_every)):
                start = trainer.step - len(losses)
                if not losses.isfinite().all():
                    bad = int((~losses.isfinite()).nonzero()[0])
                    raise DivergedError(start + bad, f"the loss is {losses[bad].item()}")
                for i in range(-(-start // log_every) * log_every, trainer.step, log_every):
                    line = f"{i:7d}/{recipe.steps:7d}: {losses[i - start].item():.4f}"
                    last = trainer.evaluations[-1] if trainer.evaluations else None
                    if recipe.shows_val and last and last.step == i and last.val is not None:
                        line += f"   val {last.val:.4f}"
                    bar.write(line, file=sys.stdout)
                    sys.stdout.flush()
                bar.update(len(losses))
                if trainer.step % eval_every == 0 and trainer.step < recipe.steps:
                    trainer.evaluate("val")
                for companion in self.companions:
                    companion.see()
                if self.processes.any(signals.caught is not None):
                    self.save()
                    raise Interrupted(signals.caught or signal.SIGTERM)
                if self.processes.any(self.processes.is_first and time.monotonic() >= self.due):
                    self.save()
        signals.deferred = False

    def finish(self) -> None:
        """Evaluate, write losses and picture, print new words, and only then call the run finished.

        A run killed in between is not finished, and does all of this again when it is resumed.
        """
        trainer, number = self.trainer, self.settings.run.samples
        trainer.finish()
        losses = trainer.evaluate(*SPLITS)
        print("\n" + report(losses, trainer))
        losses_file, picture = self.out_dir / LOSSES_FILE, self.out_dir / PICTURE_FILE
        with replacing(losses_file) as file:
            file.write(losses_csv(trainer.losses, trainer.evaluations).encode())
        written = [self.out_dir / MODEL_FILE, losses_file]
        for path, write in (
            (picture, partial(self.draw_losses, picture)),
            *((companion.path, partial(companion.finish, losses)) for companion in self.companions),
        ):
            try:
                write()
                written.append(path)
            except Exception as error:  # whatever a picture may fail on: the run is worth more
                reason = " ".join(str(error).split()) or type(error).__name__
                print(f"makemore-train: no picture {path}: {reason}", file=sys.stderr)

        # From a copy of the generator: a run that goes on later is to draw the batches it would have drawn.
        generator, vocabulary = trainer.generator.clone_state(), self.model.vocabulary
        if number:
            print(f"\n{number} new words:")
            new = [sample_word(trainer.network, vocabulary, generator) for _ in range(number)]
            print("\n".join(new))
            known = self.words.number_in_training(new)
            print(f"({known} of them stand in the training split)")
        sys.stdout.flush()
        self.save(finished=True)
        print(f"\nwrote {', '.join(map(str, written))}")

    def draw_losses(self, path: Path) -> None:
        """Write the picture of the losses."""
        from makemore.plotting import plot_losses, save_figure

        run, recipe = self.settings
        network = run.network if run.members == 1 else f"{run.members} x {run.network}"
        title = f"{network} on {Path(self.words.source).name}, {run.recipe} recipe"
        figure = plot_losses(self.trainer.losses, self.trainer.evaluations, recipe, title)
        with replacing(path) as file:
            save_figure(figure, file)


def new_job(given: Mapping[str, Any], out_dir: Path, processes: Processes) -> Job:
    """A run from its first step on."""
    run = checked(given)
    plan = network_plan(run.network, run.block_size, run.n_embd, run.n_hidden, run.stacks)
    device, words = device_and_words(run, processes)
    data = words.data(plan.block_size)
    if run.n_hidden is None:
        times = RECIPES[run.recipe][0].width_for(len(data.train), given.get("steps"))
        plan = replace(plan, n_hidden=plan.n_hidden * times)
    width = plan.n_hidden / NETWORKS[plan.name].n_hidden
    settings = resolved(given, plan.sizes(), len(data.train), width)
    generator = Generator().manual_seed(run.seed)
    members = run.members if run.members > 1 else None
    network = build(plan, members, len(data.vocabulary), generator).to(device)
    model = Model(plan, data.vocabulary, network)
    trainer = make_trainer(settings, network, data.to(device), generator, processes)
    return Job(out_dir, settings, words, model, trainer, processes)


def resumed_job(given: Mapping[str, Any], out_dir: Path, model: Model, processes: Processes) -> Job:
    """A run that goes on from where the model file stood."""
    progress, model_file = model.progress, out_dir / MODEL_FILE
    if progress is None:
        raise UsageError(f"{model_file} holds a network alone, without the run it comes from")
    try:
        settings = restored(progress.settings, given)
    except UsageError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{model_file} has invalid settings") from error
    run, recipe = settings
    if progress.finished and not recipe.can_go_on:
        raise UsageError(
            f"the run in {out_dir} is finished, and the {run.recipe} recipe cannot be prolonged: for a longer"
            " one choose another --out-dir, or --overwrite it"
        )
    if recipe.steps < progress.step or (recipe.steps == progress.step and progress.finished):
        state = "finished at" if progress.finished else "already at"
        raise UsageError(f"the run in {out_dir} is {state} step {progress.step:,}: give it more --steps")
    if run.data == STDIN and "data" not in given:
        raise UsageError("the words of the run came on stdin: give them again, by --data PATH or --data -")
    device, words = device_and_words(run, processes)
    if words.fingerprint != progress.fingerprint:
        raise UsageError(
            f"the words of {words.source} are not those the run began with; to go on it needs the same list,"
            " for other words start a new run"
        )
    generator, data = Generator().set_state(progress.generator), words.data(model.plan.block_size)
    trainer = make_trainer(settings, model.network.to(device), data.to(device), generator, processes)
    try:
        trainer.restore(progress.step, progress.losses, progress.evaluations, progress.state)
    except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
        raise ModelFileError(f"{model_file} has an invalid training state") from error
    return Job(out_dir, settings, words, model, trainer, processes)


def device_and_words(run: RunSettings, processes: Processes) -> tuple[torch.device, WordList]:
    """What a run computes on, with that many threads, and its words. Raises UsageError and DataError."""
    data = run.data or ""
    if processes.number > 1 and (data == STDIN or (os.path.exists(data) and Path(data).is_fifo())):
        raise UsageError(f"each process reads the words by itself: give a file by --data, not {named(data)}")
    torch.set_num_threads(run.threads)
    return resolve_device(run.device), load_words(run.data)


def make_trainer(
    settings: Settings, network: Sequential, data: Data, generator: Generator, processes: Processes
) -> Trainer:
    """The trainer that resolved settings ask for."""
    run, recipe = settings
    make, engine = resolve_name(RECIPES[run.recipe][1]), resolve_name(ENGINES[run.engine])
    if isinstance(network, Ensemble):
        engine = partial(EnsembleEngine, make_engine=engine)
    if processes.number > 1:
        check_shareable(recipe.batch_size, processes)
        engine = partial(ParallelEngine, make_engine=engine, processes=processes)
    trainer: Trainer = make(network, data, recipe, generator, engine, loss)
    return trainer
