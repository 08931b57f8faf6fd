"""Teachers: networks that are trained first, for another network to distil from."""

from __future__ import annotations

from collections.abc import Callable

from torch import Generator
from tqdm import tqdm

from makemore.core.errors import DivergedError
from makemore.core.layer import Layer
from makemore.core.terminal import say
from makemore.modern.recipe import ModernRecipe
from makemore.training.processes import Processes
from makemore.training.trainer import RunContext, Trainer

MakeTrainer = Callable[[Layer, ModernRecipe, Generator], Trainer]
"""Makes the trainer of a teacher."""


def trained_teachers(
    student: ModernRecipe, context: RunContext, make_trainer: MakeTrainer, processes: Processes
) -> list[Layer]:
    """Train the teachers that a recipe asks for, or read those that have been trained already.

    Each has a file in the run's directory and a seed that follows from the run's. Several processes train one
    teacher each at a time. The first process reads and writes the files. Raises DivergedError.
    """
    recipe, numbers, files = student.teacher(), range(1, student.teachers + 1), context.files
    teachers: dict[int, tuple[Layer, float]] = {}
    for i in numbers:
        content = processes.broadcast_bytes(files.read(i) if processes.is_first else b"")
        if content and (teacher := files.unpack(i, content, recipe)):
            teachers[i] = teacher
    missing = [i for i in numbers if i not in teachers]
    for start in range(0, len(missing), processes.world_size):
        now, content = missing[start : start + processes.world_size], b""
        if processes.rank < len(now):
            i = now[processes.rank]
            content = files.pack(i, _trained_teacher(i, recipe, context, make_trainer, processes.is_first))
        for src, i in enumerate(now):
            whole = processes.broadcast_bytes(content, src)
            teacher = files.unpack(i, whole, recipe)
            assert teacher is not None
            teachers[i] = teacher
            if processes.is_first:
                files.write(i, whole)
    for i in numbers:
        say(f"teacher {i} of {student.teachers}: val {teachers[i][1]:.4f}")
    say()
    return [teachers[i][0] for i in numbers]


def _trained_teacher(
    i: int, recipe: ModernRecipe, context: RunContext, make_trainer: MakeTrainer, shows_progress: bool
) -> Trainer:
    """Train the i-th teacher, counted from 1."""
    generator = Generator().manual_seed(context.seed % 2**40 * 1000 + i)
    network = context.build(generator)
    teacher, eval_every = make_trainer(network, recipe, generator), max(1, recipe.steps // 8)
    hidden = None if shows_progress else True
    with tqdm(total=recipe.steps, unit="step", disable=hidden, leave=False, desc=f"teacher {i}") as progress:
        for losses in teacher.run(eval_every):
            progress.update(len(losses))
            if teacher.step % eval_every == 0:
                teacher.evaluate("val")
    if not all(tensor.isfinite().all() for tensor in (teacher.losses, *network.state_dict().values())):
        raise DivergedError(teacher.step, f"teacher {i} is not finite")
    teacher.finish()
    teacher.evaluations = [teacher.evaluate("val")]
    return teacher
