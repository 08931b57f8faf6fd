"""Networks that are trained first, for another to learn from (beyond the lecture)."""

from collections.abc import Callable
from dataclasses import asdict

from torch import Generator
from tqdm import tqdm

from makemore.errors import DivergedError
from makemore.layers import Sequential
from makemore.model_file import Model, Progress, load_model, save_model
from makemore.recipes import ModernRecipe
from makemore.training import Run, Trainer
from makemore.words import Data

TEACHER_FILE = "teacher-{}.safetensors"


def trained_teachers(
    pupil: ModernRecipe,
    data: Data,
    run: Run,
    make_trainer: Callable[[Sequential, ModernRecipe, Generator], Trainer],
) -> list[Sequential]:
    """Train the teachers that a recipe asks for, or read those that are there.

    Each has a file of its own in the run's directory, and a seed that follows from the run's. Raises
    DivergedError.
    """
    recipe, device = pupil.teacher(), data.train.symbols.device
    stops = max(1, recipe.steps // 8)
    teachers = []
    for i in range(1, pupil.teachers + 1):
        path = run.directory / TEACHER_FILE.format(i)
        wanted = {**asdict(recipe), **run.plan.sizes(), "words": run.fingerprint, "i": i, "seed": run.seed}
        model = load_model(path) if path.exists() else None
        if model is None or model.progress is None or model.progress.settings != wanted:
            generator = Generator().manual_seed(run.seed % 2**40 * 1000 + i)
            network = run.plan.build(len(data.vocabulary), generator).to(device)
            teacher = make_trainer(network, recipe, generator)
            with tqdm(total=recipe.steps, unit="step", disable=None, leave=False, desc=f"teacher {i}") as bar:
                for losses in teacher.run(stops):
                    bar.update(len(losses))
                    if teacher.step % stops == 0:
                        teacher.evaluate("val")
            if not teacher.losses.isfinite().all():
                raise DivergedError(teacher.step, f"teacher {i} is not finite")
            teacher.finish()
            teacher.evaluations = [teacher.evaluate("val")]
            progress = Progress.of(teacher, wanted, run.fingerprint, finished=True)
            model = Model(run.plan, data.vocabulary, network, progress)
            save_model(model, path)
        assert model.progress is not None
        val = model.progress.evaluations[-1].val
        print(f"teacher {i} of {pupil.teachers}: val {val:.4f}", flush=True)
        teachers.append(model.network.to(device))
    print()
    return teachers
