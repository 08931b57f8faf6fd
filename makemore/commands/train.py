"""A training run from word list to finished files: what ``makemore-train`` does.

The run goes as in the lecture: seed, network, training with a line every 10,000 steps, losses of the
splits, 20 new words. Beyond it: the model file is written every few seconds, on Ctrl-C and on SIGTERM,
and a run resumed from it ends exactly where an uninterrupted one would have ended.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from torch import Generator
from tqdm import tqdm

from makemore.commands.guards import Signals, locked, make_directory, make_room, resolve_device
from makemore.commands.report import SPLITS, describe, losses_csv, report
from makemore.commands.saver import Saver
from makemore.commands.settings import ENGINES, RECIPES, Settings, checked, resolved, restored
from makemore.convolution import loss
from makemore.errors import (
    DivergedError,
    Interrupted,
    MakemoreError,
    ModelFileError,
    TrainingError,
    UsageError,
    WriteError,
)
from makemore.files import replacing
from makemore.layers import Sequential
from makemore.model_file import MODEL_FILE, Model, read_bytes, read_model
from makemore.networks import network_plan, summary
from makemore.parallel.engine import ParallelEngine, check_shareable
from makemore.parallel.processes import Processes, joined, was_restarted
from makemore.sampling import sample_word
from makemore.training import Run, Trainer
from makemore.words import Data, WordList, load_words

LOSSES_FILE = "losses.csv"
PICTURE_FILE = "loss.png"

RESUMED = b"resumed"
"""Before a model file's bytes, which other processes are told: an empty file is one as well."""


def train(given: Mapping[str, Any], out_dir: Path, *, resume: bool = False, overwrite: bool = False) -> None:
    """Do a run, printing as it goes: ``given`` are the settings that are not to have their defaults.

    With ``resume`` the run in ``out_dir`` goes on; with ``overwrite`` a finished one is replaced. Raises
    DataError, UsageError and ModelFileError before anything is written; TrainingError, WriteError or
    Interrupted if the run cannot go on.
    """
    with Signals() as signals, joined(given.get("device", "auto")) as processes:
        if not processes.is_first:
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        try:
            _train(given, out_dir, resume, overwrite, signals, processes)
        except RuntimeError as error:
            if processes.number == 1:
                raise
            how = f"go on with: makemore-train --resume --out-dir {out_dir}"
            raise TrainingError(
                f"this process or another failed or was lost ({first_line(error)}); {how}"
            ) from error


def first_line(error: Exception) -> str:
    """What an error says, in a line of 80 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:80]


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
    model_file = out_dir / MODEL_FILE
    content = b""
    with ExitStack() as stack:
        if processes.is_first:
            if was_restarted() and model_file.exists():
                resume = True
            if resume and not model_file.exists():
                raise UsageError(f"there is no run to resume in {out_dir}: leave out --resume to start one")
            if resume:
                stack.enter_context(locked(out_dir))
                content = RESUMED + read_bytes(model_file)
        content = processes.first_ones(content)
        if content:
            model = read_model(content.removeprefix(RESUMED), str(model_file))
            if was_restarted() and model.progress is not None and model.progress.finished:
                return
            settings, words, trainer = resumed_run(given, model, model_file, processes)
        else:
            settings, words, trainer, model = new_run(given, processes)
            if processes.is_first:
                make_directory(out_dir)
                stack.enter_context(locked(out_dir))
                make_room(model_file, (out_dir / LOSSES_FILE, out_dir / PICTURE_FILE), overwrite)
        saver = Saver(out_dir, settings, words, trainer, model, writes=processes.is_first)
        saver.save()
        try:
            print(describe(settings, words, trainer, out_dir, processes))
            print(summary(trainer.network, settings.recipe.batch_size), flush=True)
            print()
            trainer.prepare(Run(out_dir, model.plan, words.fingerprint, settings.run.seed))
            train_with_log(trainer, settings, saver, signals, processes)
            if not processes.is_first:
                return
            saver.save()
            finish(trainer, settings, saver)
            print(f"\n{time.perf_counter() - started:.1f} s", flush=True)
        except DivergedError as error:
            raise saver.diverged(error) from error
        except Interrupted as stop:
            raise Interrupted(stop.signum, f"interrupted; {saver.how_to_go_on()}") from stop
        except OSError as error:
            reason = error.strerror or error
            raise WriteError(f"cannot write the output: {reason}; {saver.how_to_go_on()}") from error


def new_run(given: Mapping[str, Any], processes: Processes) -> tuple[Settings, WordList, Trainer, Model]:
    """Settings, words, a fresh trainer and its model."""
    run = checked(given)
    if run.data not in (None, "lecture"):
        given = {**given, "data": str(Path(str(run.data)).resolve())}
    plan = network_plan(run.network, run.block_size, run.n_embd, run.n_hidden)
    torch.set_num_threads(run.threads)
    device = resolve_device(run.device)
    words = load_words(given.get("data"))
    data = words.data(plan.block_size)
    sizes = {"block_size": plan.block_size, "n_embd": plan.n_embd, "n_hidden": plan.n_hidden}
    settings = resolved(given, sizes, len(data.train))
    generator = Generator().manual_seed(run.seed)
    network = plan.build(len(data.vocabulary), generator).to(device)
    trainer = make_trainer(settings, network, data.to(device), generator, processes)
    return settings, words, trainer, Model(plan, data.vocabulary, network)


def resumed_run(
    given: Mapping[str, Any], model: Model, model_file: Path, processes: Processes
) -> tuple[Settings, WordList, Trainer]:
    """Settings, words, and a trainer that stands where the run stood."""
    progress = model.progress
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
            f"the run in {model_file.parent} is finished: the {run.recipe} recipe ends where it ends"
        )
    if recipe.steps < progress.step or (recipe.steps == progress.step and progress.finished):
        state = "finished at" if progress.finished else "already at"
        raise UsageError(
            f"the run in {model_file.parent} is {state} step {progress.step:,}: give it more --steps"
        )
    torch.set_num_threads(run.threads)
    device = resolve_device(run.device)
    words = load_words(run.data)
    if words.fingerprint != progress.fingerprint:
        raise UsageError(
            f"the words of {words.source} are not those the run began with; to go on it needs the same list,"
            " for other words start a new run"
        )
    generator = Generator()
    generator.set_state(progress.generator)
    data = words.data(model.plan.block_size)
    trainer = make_trainer(settings, model.network.to(device), data.to(device), generator, processes)
    try:
        trainer.restore(progress.step, progress.losses, progress.evaluations, progress.state)
    except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
        raise ModelFileError(f"{model_file} has an invalid training state") from error
    return settings, words, trainer


def make_trainer(
    settings: Settings, network: Sequential, data: Data, generator: Generator, processes: Processes
) -> Trainer:
    """The trainer that resolved settings ask for."""
    _, trainer = RECIPES[settings.run.recipe]
    make, engine = resolve_name(trainer), resolve_name(ENGINES[settings.run.engine])
    if processes.number > 1:
        check_shareable(settings.recipe, processes)
        engine = partial(ParallelEngine, make_engine=engine, processes=processes)
    made: Trainer = make(network, data, settings.recipe, generator, engine, loss)
    return made


def train_with_log(
    trainer: Trainer, settings: Settings, saver: Saver, signals: Signals, processes: Processes
) -> None:
    """Run the trainer to its end, or until a signal is caught; the lecture's log lines, and a progress bar.

    The model file is written whenever it is due. Raises DivergedError as soon as a loss is seen that is
    not finite, and Interrupted after a signal, once the steps under way are saved.
    """
    run, recipe = settings
    steps, log_every, eval_every = recipe.steps, run.log_every, run.eval_every
    assert log_every is not None
    assert eval_every is not None
    signals.deferred = True
    silent = None if processes.is_first else True
    with tqdm(
        total=steps, initial=trainer.step, unit="step", disable=silent, leave=False, mininterval=0.5
    ) as bar:
        for losses in trainer.run(math.gcd(log_every, eval_every)):
            start = trainer.step - len(losses)
            if not losses.isfinite().all():
                bad = int((~losses.isfinite()).nonzero()[0])
                raise DivergedError(start + bad, f"the loss is {losses[bad].item()}")
            for i in range(-(-start // log_every) * log_every, trainer.step, log_every):
                line = f"{i:7d}/{steps:7d}: {losses[i - start].item():.4f}"
                last = trainer.evaluations[-1] if trainer.evaluations else None
                if recipe.shows_val and last is not None and last.step == i:
                    line += f"   val {last.val:.4f}"
                bar.write(line, file=sys.stdout)
                sys.stdout.flush()
            bar.update(len(losses))
            if trainer.step % eval_every == 0 and trainer.step < steps:
                trainer.evaluate("val")
            if processes.any(signals.caught is not None):
                saver.save()
                raise Interrupted(signals.caught or signal.SIGTERM)
            saver.save_if_due()
    signals.deferred = False


def finish(trainer: Trainer, settings: Settings, saver: Saver) -> None:
    """Evaluate, write losses and picture, print new words, and only then call the run finished.

    A run killed in between is not finished, and does all of this again when it is resumed.
    """
    trainer.finish()
    print("\n" + report(trainer.evaluate(*SPLITS)))
    losses_file = saver.out_dir / LOSSES_FILE
    with replacing(losses_file) as file:
        file.write(losses_csv(trainer.losses, trainer.evaluations).encode())
    written = [losses_file]
    try:
        written.append(draw_losses(trainer, settings, saver))
    except MakemoreError:
        raise
    except Exception as error:  # whatever a picture may fail on: the run is worth more
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"makemore-train: no picture {saver.out_dir / PICTURE_FILE}: {reason}", file=sys.stderr)

    # From a copy of the generator: a run that goes on later is to draw the batches it would have drawn.
    generator, number = trainer.generator.clone_state(), settings.run.samples
    if number:
        print(f"\n{number} new words:")
        new = [sample_word(trainer.network, saver.model.vocabulary, generator) for _ in range(number)]
        print("\n".join(new))
        known = len(set(saver.words.split()[0]).intersection(new))
        print(f"({known} of them stand in the training split)")
    sys.stdout.flush()
    saver.save(finished=True)
    print(f"\nwrote {', '.join(str(path) for path in (saver.out_dir / MODEL_FILE, *written))}")


def draw_losses(trainer: Trainer, settings: Settings, saver: Saver) -> Path:
    """Write the picture of the losses; returns its path."""
    from makemore.plotting import plot_losses, save_figure

    path = saver.out_dir / PICTURE_FILE
    title = f"{settings.run.network} on {Path(saver.words.source).name}, {settings.run.recipe} recipe"
    figure = plot_losses(trainer.losses, trainer.evaluations, settings.recipe, title)
    with replacing(path) as file:
        save_figure(figure, file)
    return path
