"""A training run: built from its settings or from a model file, trained, saved and finished.

The run goes as in the lecture: seed, network, training with a log line every 10,000 steps, losses of the
splits, 20 new words. Beyond that, the model file is written every few seconds and when a signal is caught. A
run resumed from it ends exactly as an uninterrupted run.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from tqdm import tqdm

from makemore.core.atomic_write import atomic_write
from makemore.core.device import resolve_device
from makemore.core.errors import (
    DivergedError,
    Interrupted,
    ModelFileError,
    TrainingError,
    UsageError,
    WriteError,
)
from makemore.core.layer import Layer
from makemore.core.shell import quoted
from makemore.core.terminal import say
from makemore.core.text import plural
from makemore.data.encoding import decode_words
from makemore.data.examples import LabelledExamples
from makemore.data.reading import STDIN, display_name
from makemore.data.word_list import Data, WordList, load_words
from makemore.inference.classification import Confusion, confusions
from makemore.inference.generation import generate_scored, has_no_blank_around
from makemore.inference.scoring import loss
from makemore.lecture.sampling import sample_word
from makemore.lecture.words import STOP
from makemore.parallel.engine import ParallelEngine, check_shareable
from makemore.run.callbacks import Callback
from makemore.run.catalog import ENGINES, NETWORKS, RECIPES, SIZES, Plan, build_network, network_plan
from makemore.run.head_start import start_from
from makemore.run.label_choice import choose_labels
from makemore.run.lock import CONFUSION_FILE, LOSSES_FILE, PICTURE_FILE
from makemore.run.model_file import MODEL_FILE, Model, Progress, load_model, save_model
from makemore.run.opened_model import check_list_is_there
from makemore.run.report import SPLITS, losses_csv, report, report_confusions
from makemore.run.settings import RunSettings, Settings, checked, resolved, restored
from makemore.run.signals import Signals
from makemore.run.teacher_files import TeacherFiles, given_teacher, write_given_teacher
from makemore.training.engine import Engine, MakeEngine
from makemore.training.ensemble import Ensemble, EnsembleEngine, members_of
from makemore.training.evaluation import Evaluation
from makemore.training.processes import Processes
from makemore.training.trainer import RunContext, Trainer

PROBE_EXAMPLES = 256
"""Val examples on which a network is evaluated before it is saved."""

MIN_CLASSIFIED, MAX_CLASSIFIED = 20, 2**16
"""Of the val words, the least number that are classified at the end, and the most times the combinations."""

DIVERGED_LOSS = 1e4
"""A loss, in nats, from which a network counts as diverged."""


@dataclass
class TrainingRun:
    """A run: its settings and words, its trainer, and the directory that it writes to.

    ``model`` has the trainer's network, the vocabulary and the plan, without the progress. ``teacher`` has
    the bytes of the model file that a new run distils from, if there is one.
    """

    out_dir: Path
    settings: Settings
    words: WordList
    model: Model
    trainer: Trainer
    processes: Processes
    teacher: bytes = b""
    callbacks: list[Callback] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.saved_step = self.trainer.step
        self.next_save = 0.0

    def keep_teacher(self) -> None:
        """Copy the file of a trained teacher into the directory, from which the run can be resumed then."""
        if self.teacher:
            write_given_teacher(self.teacher, self.out_dir)

    def save(self, finished: bool = False) -> None:
        """Write the model file. Raises TrainingError and keeps the old file if the network diverged."""
        if not self.processes.is_first:
            self.saved_step = self.trainer.step  # the first process saves it
            return
        self._check_network()
        for callback in self.callbacks:
            callback.on_save()
        progress = progress_of(self.trainer, self.settings.values(), self.words.fingerprint, finished)
        save_model(replace(self.model, progress=progress), self.out_dir / MODEL_FILE)
        self.saved_step = self.trainer.step
        self.next_save = time.monotonic() + self.settings.run.save_every

    def _check_network(self) -> None:
        """Raise TrainingError if the network diverged: losses can be finite when it has."""
        X, Y = self.trainer.data.val[:PROBE_EXAMPLES]
        with self.trainer.network.evaluating() as network:
            probe = F.cross_entropy(network(X), Y).item()
        if not probe < DIVERGED_LOSS:
            raise self.diverged(DivergedError(self.trainer.step, f"the val loss is {probe:.3g}"))

    def how_to_resume(self) -> str:
        """Which step is saved, and the command that resumes from there."""
        return f"step {self.saved_step:,} is saved; resume with: {resume_command(self.out_dir)}"

    def diverged(self, error: DivergedError) -> TrainingError:
        """The error of a run that diverged, with what to try and which step is saved."""
        advice = f"try a lower --lr than {self.settings.recipe.lr:g} with --overwrite"
        return TrainingError(f"{error}; {advice} ({MODEL_FILE} holds step {self.saved_step:,})")

    def train(self, signals: Signals) -> None:
        """Train to the end or until a signal is caught, with the lecture's log lines and a progress bar.

        The model file is written whenever it is due. Raises DivergedError on a loss that is not finite, and
        Interrupted after a signal, once the steps done are saved.
        """
        trainer, run, recipe = self.trainer, *self.settings
        assert run.log_every is not None
        assert run.eval_every is not None
        trainer.prepare(self.context())
        signals.deferred, noted = True, False
        with tqdm(
            total=recipe.steps,
            initial=trainer.step,
            unit="step",
            disable=None if self.processes.is_first else True,
            leave=False,
            mininterval=0.5,
        ) as bar:
            for losses in trainer.run(math.gcd(run.log_every, run.eval_every, run.keep_every)):
                check_finite(losses, trainer.step - len(losses))
                if not noted and (note := engine_note(trainer.engine)):
                    bar.write(note, file=sys.stdout)
                noted = True
                for line in self._log_lines(losses, run.log_every):
                    bar.write(line, file=sys.stdout)
                    sys.stdout.flush()
                bar.update(len(losses))
                if trainer.step % run.eval_every == 0 and trainer.step < recipe.steps:
                    trainer.evaluate("val")
                for callback in self.callbacks:
                    callback.on_steps()
                if self.processes.any(signals.caught is not None):
                    self.save()
                    raise Interrupted(signals.caught or signal.SIGTERM)
                if self.processes.any(self.processes.is_first and time.monotonic() >= self.next_save):
                    self.save()
        signals.deferred = False

    def context(self) -> RunContext:
        """What the trainer may need from the run."""
        run, plan, vocabulary = self.settings.run, self.model.plan, self.model.vocabulary
        assert plan is not None
        labels, device = self.model.labels, self.trainer.data.train.symbols.device
        sizes = () if labels is None else labels.sizes

        def build(generator: Generator) -> Layer:
            return plan.build(len(vocabulary), generator, sizes).to(device)

        files = TeacherFiles(self.out_dir, plan, vocabulary, labels, self.words.fingerprint, run.seed)
        return RunContext(run.seed, build, engine_maker(run.engine), files)

    def _log_lines(self, losses: Tensor, log_every: int) -> Iterator[str]:
        """The log lines of the last steps, whose batch losses are given: one for every ``log_every``-th step.

        A line has the val loss too if val was evaluated just before that step.
        """
        trainer, recipe = self.trainer, self.settings.recipe
        start = trainer.step - len(losses)
        last = trainer.evaluations[-1] if trainer.evaluations else None
        first_multiple = -(-start // log_every) * log_every
        for step in range(first_multiple, trainer.step, log_every):
            line = f"{step:7d}/{recipe.steps:7d}: {losses[step - start].item():.4f}"
            if recipe.shows_val and last and last.step == step and last.val is not None:
                line += f"   val {last.val:.4f}"
            yield line

    def finish(self) -> None:
        """Evaluate, write losses and pictures, print new words, and only then save the run as finished.

        A run killed in between is not finished, and does all of this again when it is resumed.
        """
        ending = self.trainer.finish()
        losses = self.trainer.evaluate(*SPLITS)
        say("\n" + (f"{ending}\n\n" if ending else "") + report(losses, self.trainer))
        found = self._confusions()
        if found:
            say("\n" + report_confusions(found))
        written = self._write_results(losses, found)
        self._print_new_words()
        self.save(finished=True)
        say(f"\nwrote {', '.join(map(str, written))}")

    def _confusions(self) -> list[Confusion]:
        """Which labels the network takes val words for: of a large list, for some of them."""
        model, examples = self.model, self.trainer.data.val
        if model.labels is None or not isinstance(examples, LabelledExamples):
            return []
        ends = (examples.symbols == STOP).nonzero().flatten()
        ends = ends[: max(MIN_CLASSIFIED, MAX_CLASSIFIED // len(model.labels))]
        words = decode_words(model.vocabulary, examples.symbols[: int(ends[-1]) + 1])
        rows = examples.row[ends].cpu()
        return confusions(self.trainer.network, model.vocabulary, words, rows, model.labels)

    def _write_results(self, losses: Evaluation, found: Sequence[Confusion]) -> list[Path]:
        """Write the losses, their picture and the files of the callbacks; returns what was written."""
        losses_file, picture = self.out_dir / LOSSES_FILE, self.out_dir / PICTURE_FILE
        with atomic_write(losses_file) as file:
            file.write(losses_csv(self.trainer.losses, self.trainer.evaluations).encode())
        written = [self.out_dir / MODEL_FILE, losses_file]
        for path, write in (
            (picture, partial(self._draw_losses, picture)),
            *(
                (path, partial(draw_to, path, confusion))
                for i, confusion in enumerate(found, start=1)
                for path in [self.out_dir / CONFUSION_FILE.format(i)]
            ),
            *((callback.path, partial(callback.on_finish, losses)) for callback in self.callbacks),
        ):
            try:
                write()
                written.append(path)
            except Exception as error:  # whatever a picture fails on, the run is not lost
                reason = " ".join(str(error).split()) or type(error).__name__
                message = reason if isinstance(error, WriteError) else f"cannot write {path}: {reason}"
                say(f"makemore-train: {message}", sys.stderr)
        return written

    def _draw_losses(self, path: Path) -> None:
        from makemore.pictures.figures import save_figure
        from makemore.pictures.losses import draw_losses

        run, recipe = self.settings
        network = run.network if run.ensemble == 1 else f"{run.ensemble} x {run.network}"
        title = f"{network} on {Path(self.words.source).name}, {run.recipe} recipe"
        figure = draw_losses(self.trainer.losses, self.trainer.evaluations, recipe, title)
        with atomic_write(path) as file:
            save_figure(figure, file)

    def _print_new_words(self) -> None:
        """Sample words from a copy of the generator, so that a run extended later draws the same batches."""
        number = self.settings.run.samples
        if number == 0:
            return
        network, generator = self.trainer.network, self.trainer.generator.clone_state()
        vocabulary, labels = self.model.vocabulary, choose_labels(self.model).labels
        if labels is None:
            sampled = (sample_word(network, vocabulary, generator) for _ in range(100 * number))
            # A word that is empty or has blanks around it is passed over: no listed word is like that.
            words = list(islice((word for word in sampled if word and has_no_blank_around(word)), number))
            lines = [self.model.restored(word) for word in words]
        else:
            samples = list(generate_scored(network, vocabulary, generator, number, labels=labels))
            words = [sample.word for sample in samples]
            lines = [
                f"{self.model.restored(s.word)}  ({', '.join(label or 'no label' for label in s.labels)})"
                for s in samples
            ]
        known = self.words.number_in_training(words)
        say(f"\n{plural(len(words), 'new word')}:")
        say("\n".join(lines))
        say(f"({known:,} of them {'is' if known == 1 else 'are'} in the training split)")


def draw_to(path: Path, confusion: Confusion) -> None:
    """Draw a confusion to a PNG file."""
    from makemore.pictures.confusion import draw_confusion
    from makemore.pictures.figures import save_figure

    with atomic_write(path) as file:
        save_figure(draw_confusion(confusion), file)


def resume_command(out_dir: Path) -> str:
    """The command that resumes the run of a directory."""
    return f"makemore-train --resume --out-dir {quoted(out_dir)}"


def engine_note(engine: object) -> str | None:
    """Why steps are slower than they could be, as the engine or one within it found at the first step."""
    inner = [*getattr(engine, "engines", []), *([engine.engine] if hasattr(engine, "engine") else [])]
    notes = (engine_note(each) for each in inner)
    return getattr(engine, "note", None) or next((note for note in notes if note), None)


def check_finite(losses: Tensor, start: int) -> None:
    """Raise DivergedError unless the losses of the steps from ``start`` on are finite."""
    finite = losses.isfinite()
    if not finite.all():
        bad = int((~finite).nonzero()[0])
        raise DivergedError(start + bad, f"the loss is {losses[bad].item()}")


def new_run(
    given: Mapping[str, Any],
    out_dir: Path,
    processes: Processes,
    split: Callable[[WordList, int], Data] = WordList.data,
) -> TrainingRun:
    """A run that begins at step 0. ``split`` makes the examples from the words and the block size."""
    run = checked(given)
    trained = None if run.init_from is None else load_model(run.init_from)
    if trained is not None:
        given = like_trained(trained, given)
        run = checked(given)
    plan = plan_of(run)
    device, words = device_and_words(run, processes)
    data = split(words, plan.block_size)
    if run.n_hidden is None and trained is None:
        times = RECIPES[run.recipe][0].default_width_ratio(len(data.train), given.get("steps"))
        plan = replace(plan, n_hidden=round(plan.n_hidden * times))
    width = plan.n_hidden / NETWORKS[plan.name].n_hidden
    settings = resolved(given, plan.sizes(), len(data.train), width)
    generator = Generator().manual_seed(run.seed)
    sizes = () if data.labels is None else data.labels.sizes
    network = build_network(plan, settings.run.ensemble, len(data.vocabulary), generator, sizes)
    network = network.to(device)
    model = Model(network, data.vocabulary, plan, labels=data.labels, capitals=words.capitals)
    if trained is not None:
        start_from(model, trained)
    trainer = make_trainer(settings, network, data.to(device), generator, processes)
    teacher = distil(trainer, out_dir, False)
    return TrainingRun(out_dir, settings, words, model, trainer, processes, teacher)


def distil(trainer: Trainer, out_dir: Path, resumed: bool) -> bytes:
    """Let a trainer distil from the trained network that its recipe names.

    Returns the bytes of its model file, empty if there is none. Raises ModelFileError, and UsageError on a
    network for other characters, labels or contexts.
    """
    from makemore.modern.trainer import ModernTrainer

    if not isinstance(trainer, ModernTrainer) or trainer.recipe.distil_from is None:
        return b""
    network, content = given_teacher(trainer.recipe.distil_from, out_dir, resumed, trainer.processes)
    try:
        trainer.distil_from([network.to(trainer.data.train.symbols.device)])
    except UsageError as error:
        raise UsageError(
            f"--distil-from needs a network trained on the same kind of words: {error}"
        ) from error
    return content


def like_trained(trained: Model, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of a run that begins with a trained network: with its layers and number of members."""
    own: dict[str, Any] = {"ensemble": len(members_of(trained.network))}
    if trained.plan is not None and not given.keys() & {"network", *SIZES}:
        kept = (*SIZES, "dropout")
        own |= {"network": trained.plan.name, **{name: getattr(trained.plan, name) for name in kept}}
    return {**own, **given}


def plan_of(run: RunSettings) -> Plan:
    """The plan of a run's network. Raises UsageError on sizes that cannot work."""
    return network_plan(run.network, run.block_size, run.n_embd, run.n_hidden, run.stacks, run.dropout)


def resumed_run(given: Mapping[str, Any], out_dir: Path, model: Model, processes: Processes) -> TrainingRun:
    """A run resumed from the model file of ``out_dir``."""
    progress, model_file = model.progress, out_dir / MODEL_FILE
    if progress is None:
        raise UsageError(f"{model_file} has only a network, without the run it comes from")
    try:
        settings = restored(progress.settings, given)
    except UsageError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{model_file} has invalid settings") from error
    check_steps_left(settings, progress, out_dir)
    if model.plan is None or model.plan.sizes() != plan_of(settings.run).sizes():
        raise ModelFileError(f"{model_file} has another network than its run: only the run's can be resumed")
    if settings.run.data is not None and "data" not in given:
        check_list_is_there(settings.run.data)
    device, words = device_and_words(settings.run, processes)
    if words.fingerprint != progress.fingerprint:
        raise UsageError(
            f"the word list {words.source} differs from the run's; give that list with --data PATH, or start"
            " a new run for other words"
        )
    generator, data = Generator().set_state(progress.generator), words.data(model.block_size)
    trainer = make_trainer(settings, model.network.to(device), data.to(device), generator, processes)
    distil(trainer, out_dir, True)
    try:
        trainer.restore(progress.step, progress.losses, progress.evaluations, progress.state)
    except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
        raise ModelFileError(f"{model_file} has an invalid training state") from error
    return TrainingRun(out_dir, settings, words, replace(model, progress=None), trainer, processes)


def check_steps_left(settings: Settings, progress: Progress, out_dir: Path) -> None:
    """Raise UsageError unless the run is unfinished, or is extended by more steps."""
    run, recipe = settings
    if progress.finished and not recipe.can_extend:
        raise UsageError(
            f"the run in {out_dir} is finished, and the {run.recipe} recipe cannot be extended: for a longer"
            " run choose another --out-dir, or --overwrite it"
        )
    if recipe.steps < progress.step or (recipe.steps == progress.step and progress.finished):
        state = "finished at" if progress.finished else "already at"
        raise UsageError(f"the run in {out_dir} is {state} step {progress.step:,}: give it more --steps")


def device_and_words(run: RunSettings, processes: Processes) -> tuple[torch.device, WordList]:
    """The device and the words of a run; also sets the number of threads. Raises UsageError and DataError."""
    for path in run.data or ():
        if processes.world_size > 1 and (path == STDIN or (os.path.exists(path) and Path(path).is_fifo())):
            raise UsageError(
                f"every process reads the word list: give a file with --data, not {display_name(path)}"
            )
    torch.set_num_threads(run.threads)
    words = load_words(run.data, run.word_column, run.label_column, run.count_column, run.case)
    return resolve_device(run.device), words


def make_trainer(
    settings: Settings, network: Layer, data: Data, generator: Generator, processes: Processes
) -> Trainer:
    """The trainer for settings with all defaults filled in."""
    run, recipe = settings
    make_engine = engine_maker(run.engine)
    if isinstance(network, Ensemble):
        make_engine = partial(EnsembleEngine, make_engine=make_engine)
    if processes.world_size > 1:
        check_shareable(recipe.batch_size, processes)
        make_engine = partial(ParallelEngine, make_engine=make_engine, processes=processes)
    make: Callable[..., Trainer] = resolve_name(RECIPES[run.recipe][1])
    return make(network, data, recipe, generator, make_engine, loss, processes)


def engine_maker(name: str) -> MakeEngine:
    """What makes the engine of that name. It raises UsageError on a network that the engine cannot train."""
    kind: MakeEngine = resolve_name(ENGINES[name])

    def make_engine(network: Layer) -> Engine:
        try:
            return kind(network)
        except ValueError as error:
            raise UsageError(f"--engine {name}: {error}") from error

    return make_engine


def progress_of(trainer: Trainer, settings: Mapping[str, Any], fingerprint: str, finished: bool) -> Progress:
    """The state of a run, for its model file."""
    history = trainer.step, trainer.losses, trainer.evaluations, trainer.generator.get_state()
    resumable = not finished or trainer.recipe.can_extend
    return Progress(settings, fingerprint, finished, *history, trainer.state() if resumable else {})
