"""Networks that are trained first, for another to learn from (beyond the lecture)."""

from collections.abc import Callable
from dataclasses import asdict

from torch import Generator
from tqdm import tqdm

from makemore.errors import DivergedError
from makemore.files import writing_whole
from makemore.layers import Sequential
from makemore.model_file import Model, Progress, model_bytes, read_bytes, read_model
from makemore.parallel.processes import ALONE, Processes
from makemore.recipes import ModernRecipe
from makemore.training import Run, Trainer
from makemore.words import Data

TEACHER_FILE = "teacher-{}.safetensors"

MakeTrainer = Callable[[Sequential, ModernRecipe, Generator], Trainer]


def trained_teachers(
    pupil: ModernRecipe, data: Data, run: Run, make_trainer: MakeTrainer, processes: Processes = ALONE
) -> list[Sequential]:
    """Train the teachers that a recipe asks for, or read those that are there.

    Each has a file of its own in the run's directory, and a seed that follows from the run's. Of many
    processes each trains one at a time; the first process reads and writes the files. Raises DivergedError.
    """
    settings = {**asdict(pupil.teacher()), **run.plan.sizes(), "words": run.fingerprint, "seed": run.seed}
    paths = {i: run.directory / TEACHER_FILE.format(i) for i in range(1, pupil.teachers + 1)}
    models: dict[int, Model] = {}
    for i, path in paths.items():
        content = processes.told(read_bytes(path) if processes.is_first and path.exists() else b"")
        if content:
            model = read_model(content, str(path))
            progress = model.progress
            if progress and progress.settings == {**settings, "i": i} and _last_val(progress) is not None:
                models[i] = model
    missing = [i for i in paths if i not in models]
    for start in range(0, len(missing), processes.number):
        now, content = missing[start : start + processes.number], b""
        if processes.rank < len(now):
            i = now[processes.rank]
            teacher = trained_teacher(i, pupil.teacher(), data, run, make_trainer, processes.is_first)
            progress = Progress.of(teacher, {**settings, "i": i}, run.fingerprint, finished=True)
            content = model_bytes(Model(run.plan, data.vocabulary, teacher.network, progress))
        for teller, i in enumerate(now):
            whole = processes.told(content, teller)
            models[i] = read_model(whole, str(paths[i]))
            if processes.is_first:
                with writing_whole(paths[i]) as file:
                    file.write(whole)
    for i in paths:
        trained = models[i].progress
        assert trained is not None
        print(f"teacher {i} of {pupil.teachers}: val {_last_val(trained):.4f}", flush=True)
    print()
    return [models[i].network.to(data.train.symbols.device) for i in paths]


def trained_teacher(
    i: int, recipe: ModernRecipe, data: Data, run: Run, make_trainer: MakeTrainer, shows: bool
) -> Trainer:
    """What has trained the i-th teacher, counted from 1; ``shows`` how far it is."""
    generator = Generator().manual_seed(run.seed % 2**40 * 1000 + i)
    network = run.plan.build(len(data.vocabulary), generator).to(data.train.symbols.device)
    teacher, stops = make_trainer(network, recipe, generator), max(1, recipe.steps // 8)
    silent = None if shows else True
    with tqdm(total=recipe.steps, unit="step", disable=silent, leave=False, desc=f"teacher {i}") as bar:
        for losses in teacher.run(stops):
            bar.update(len(losses))
            if teacher.step % stops == 0:
                teacher.evaluate("val")
    if not all(tensor.isfinite().all() for tensor in (teacher.losses, *network.state_dict().values())):
        raise DivergedError(teacher.step, f"teacher {i} is not finite")
    teacher.finish()
    teacher.evaluations = [teacher.evaluate("val")]
    return teacher


def _last_val(progress: Progress) -> float | None:
    """The val loss that a teacher ended with, if its file has one."""
    return progress.evaluations[-1].val if progress.evaluations else None
