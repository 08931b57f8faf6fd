"""Every setting of every recipe, declared once: default, range and help in one line. Imports no torch.

``LectureRecipe`` is the lecture's: plain SGD on batches drawn at random. ``ModernRecipe`` lies beyond it,
see ``modern/trainer.py``. A recipe fits itself to a word list (``for_examples``); flags, range errors,
``--help``, the printed header and the rules of a resumed run follow from the declarations. To add a recipe:
its dataclass here or elsewhere, its trainer, and one line in ``commands/settings.py``.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self, get_type_hints

from makemore.errors import UsageError

FIRST = "what most people need"
"""The group of the flags that the help has first."""

LECTURE_EXAMPLES = 182_625
"""Training examples of the lecture's list."""

PLENTY = 2**19
"""Training examples above which the lecture's network needs less dropping; of 1.6 million on, none."""

VERY_MANY = 2**22
"""Training examples from which hidden layers twice as wide are better in the same time."""

WIDTH_COUNTS = 0.8
"""The power of its width by which a network asks for more examples: twice as wide drops 0.3, not 0.2."""


@dataclass(frozen=True)
class Knob:
    """What is known of a setting.

    ``otherwise`` says in words where a default comes from that is no constant; ``may_change`` lets a
    resumed run have another value; ``kind`` is int, float, str or bool.
    """

    default: Any
    help: str
    low: float = -math.inf
    high: float = math.inf
    choices: Collection[str] = ()
    otherwise: str = ""
    group: str = ""
    metavar: str | None = None
    may_change: bool = False
    name: str = ""
    kind: type = str

    @property
    def said_default(self) -> str:
        """The default as the help has it."""
        if self.otherwise or self.default is None or self.kind is bool:
            return self.otherwise
        return f"{self.default:,}" if self.kind is int and self.default >= 10_000 else f"{self.default}"

    def check(self, value: Any) -> None:
        """Raise UsageError unless the setting may have that value."""
        if value is None and self.default is None:
            return
        types, needed = (int, float) if self.kind is float else (self.kind,), "text"
        fits = isinstance(value, str) if self.kind is str else type(value) in types
        if self.kind in (int, float):
            fits, needed = fits and self.low <= value <= self.high, f"from {self.low:g} to {self.high:g}"
        elif self.choices:
            fits, needed = fits and value in self.choices, f"one of {', '.join(self.choices)}"
        if not fits:
            raise UsageError(f"{self.name} must be {needed}, got {value!r}")


def knob(default: Any, help: str, low: float = -math.inf, high: float = math.inf, **more: Any) -> Any:
    """A dataclass field that is a setting; ``more`` is whatever else a ``Knob`` has."""
    return field(default=default, metadata={"knob": Knob(default, help, low, high, **more)})


@dataclass(frozen=True)
class Knobs:
    """The base of dataclasses made of knobs. Raises UsageError on a value of another type or out of range."""

    def __post_init__(self) -> None:
        for name, knob in self.knobs().items():
            knob.check(getattr(self, name))

    @classmethod
    def knobs(cls) -> dict[str, Knob]:
        """What the fields declare of themselves, by name."""
        for plain in (f.name for f in fields(cls) if "knob" not in f.metadata):
            raise TypeError(f"{cls.__name__}.{plain} needs a default, a help and a range, from knob()")
        hints = get_type_hints(cls)
        kinds = {hint: kind for kind in (int, float, str, bool) for hint in (kind, kind | None)}
        own = {f.name: f.metadata["knob"] for f in fields(cls)}
        return {name: replace(knob, name=name, kind=kinds[hints[name]]) for name, knob in own.items()}


@dataclass(frozen=True)
class Recipe(Knobs):
    """How a network is trained: ``steps`` of ``batch_size`` examples each, with the learning rate ``lr``.

    Every recipe declares these three again, as knobs of its own.
    """

    shows_val: ClassVar[bool] = True  # in the lines of the log
    can_go_on: ClassVar[bool] = False  # with more steps, once it is finished
    depends_on_evaluations: ClassVar[bool] = True  # the course of a training, on when val is evaluated

    steps: int
    batch_size: int
    lr: float

    @classmethod
    def for_examples(cls, examples: int, width: float = 1.0, **given: Any) -> Self:
        """The recipe for a list with that many training examples; ``given`` fields are as they are.

        ``width`` is how many times as wide as the lecture's its hidden layers are.
        """
        return cls(**given)

    @classmethod
    def width_for(cls, examples: int, steps: int | None) -> int:
        """How many times as wide as the lecture's hidden layers are, if nobody gives their width."""
        return 1

    def lr_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.lr

    def lrs_at(self, step: int) -> dict[str, float]:
        """Every learning rate of a step, by the name of its knob."""
        return {"lr": self.lr_at(step)}

    def turn(self) -> tuple[float, str]:
        """The step at which the learning rate turns, and how, for the picture."""
        return 0, f"lr {self.lr:g}"

    def describe(self) -> str:
        """Every setting but steps and batch size, for the top of the log."""
        values = {name.replace("_", " "): value for name, value in vars(self).items() if value is not None}
        del values["steps"], values["batch size"]
        texts = {n: v if isinstance(v, str | bool) else format(v, ",") for n, v in values.items()}
        return ", ".join(f"{name} {text}" for name, text in texts.items())


@dataclass(frozen=True)
class LectureRecipe(Recipe):
    """Plain SGD: ``lr``, and ``lr_final`` from step ``lr_drop`` on (lecture cell 10)."""

    shows_val = False
    can_go_on = True
    depends_on_evaluations = False

    steps: int = knob(200_000, "updates", 1, 10**9, may_change=True, group=FIRST)
    batch_size: int = knob(32, "examples in each", 2, 2**20)
    lr: float = knob(0.1, "learning rate", 0, 1e30)
    lr_final: float = knob(0.01, "the last learning rate", 0, 1e30, otherwise="lr / 10")
    lr_drop: int = knob(150_000, "the first step with it", 0, 10**9, otherwise="after 3/4 of the steps")

    @classmethod
    def for_examples(cls, examples: int, width: float = 1.0, **given: Any) -> LectureRecipe:
        """The same for every list; the last rate and its first step follow from the first and the steps."""
        steps, lr = given.get("steps", cls.steps), given.get("lr", cls.lr)
        return cls(**({"lr_final": lr / 10, "lr_drop": steps * 3 // 4} | given))

    def lr_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.lr if step < self.lr_drop else self.lr_final

    def turn(self) -> tuple[float, str]:
        """The step at which the learning rate drops."""
        return self.lr_drop, f"lr {self.lr:g} to {self.lr_final:g}"


EFFORTS: dict[str, dict[str, Any]] = {
    "quick": {"steps": 330, "drop": 0.0, "lr": 0.04, "lr_other": 0.012, "examples_per_row": 8},
    "default": {},
    "best": {"teachers": 4, "teacher_share": 0.105, "steps": 8000, "lr": 0.03, "lr_other": 0.01},
}
"""What the modern recipe has on the lecture's list for more or less time, where it is not the default."""


@dataclass(frozen=True)
class ModernRecipe(Recipe):
    """Muon and AdamW with one cycle: up within the share ``warm_up`` of the steps, then a cosine down to 0.

    ``lr`` is the peak for Muon, which updates the Linear weights but the last, ``lr_other`` that of AdamW
    for the rest; ``weight_decay`` is AdamW's, for the last Linear alone. ``drop`` is the probability that
    the embedding of the oldest characters is dropped. With soft targets the target is what follows the
    context anywhere in the training words, up to ``examples_per_row`` examples in one. Batches take
    ``chunk`` consecutive examples at a time; more than 1 need hard targets and no dropping. With ``teachers``
    the target leans on what that many networks, trained before for ``teacher_share`` of the steps, make of
    the context. The training ends before its last step when the val loss has not fallen for ``patience``
    evaluations in a row. ``effort`` chooses among ``EFFORTS``, for what is not given.
    """

    steps: int = knob(850, "updates", 1, 10**9, otherwise="by the number of words", group=FIRST)
    batch_size: int = knob(1024, "examples in each", 2, 2**20, otherwise="up to 1,024")
    lr: float = knob(0.02, "peak learning rate of Muon", 0, 1e30, otherwise="0.02 to 0.055 for few words")
    lr_other: float = knob(
        8e-3, "peak learning rate of AdamW", 0, 1e30, otherwise="0.008 to 0.02 for few words"
    )
    weight_decay: float = knob(0.4, "of the last layer", 0, 1e6, otherwise="by the number of words")
    warm_up: float = knob(
        0.05, "share of the steps in which learning rates rise", 0, 1, otherwise="0.05 to 0.15 for few words"
    )
    drop: float = knob(0.2, "probability to drop old characters", 0, 1, otherwise="by the number of words")
    targets: str = knob(
        "soft", "soft: the distribution after a context, or hard: one symbol", choices=("soft", "hard")
    )
    examples_per_row: int = knob(
        4,
        "soft targets: examples of one context in one row",
        1,
        10**6,
        otherwise="4, for few words to 16, with teachers 2",
    )
    patience: int = knob(5, "evaluations without a lower val loss before it stops", 1, 10**9)
    chunk: int = knob(1, "consecutive examples taken together; for long contexts 128", 1, 2**20)
    teachers: int = knob(
        0, "networks to train first and learn from, with --members all of them; 4: better, slower", 0, 100
    )
    teacher_share: float = knob(0.28, "steps of a teacher, as a share of all", 0, 1)
    effort: str = knob(
        "default",
        "quick: half the time, best: over ten times; of what other flags do not say",
        choices=EFFORTS,
        group=FIRST,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teachers and self.targets == "hard":
            raise UsageError(
                "teachers need soft targets: leave out --targets hard and --chunk, or give --teachers 0"
            )
        if self.chunk > 1 and (self.targets == "soft" or self.drop > 0):
            raise UsageError("consecutive examples need --targets hard --drop 0: leave out --chunk, or these")

    @classmethod
    def for_examples(cls, examples: int, width: float = 1.0, **given: Any) -> ModernRecipe:
        """The recipe for a list with that many training examples; ``given`` fields are as they are.

        Fewer examples are learnt by heart sooner, and sooner by a network that is ``width`` times as wide as
        the lecture's: they get more dropping and more decay, fewer examples also fewer steps and smaller
        batches, and without teachers or an effort higher learning rates and coarser targets. Of ``PLENTY`` of
        examples and more nothing is learnt by heart; dropping fades away. Of ``VERY_MANY`` and more a wider
        network has fewer steps, for the same time. The rules were found on lists of 300, 3,000, 7,000 and
        32,000 names, and of 100,000, 200,000 and 1,000,000 words (docs/LOG.md).
        """
        chosen = EFFORTS.get(given.get("effort", cls.effort), {})
        taught = given.get("teachers", chosen.get("teachers", 0)) > 0
        chunked = given.get("chunk", 1) > 1
        enough = examples / max(1.0, width) ** WIDTH_COUNTS
        scarcity, few = (min(5.0, max(0.0, math.log(LECTURE_EXAMPLES / n))) for n in (enough, examples))
        if taught or chosen or chunked:
            few = 0.0
        plenty = max(0.0, math.log(enough / PLENTY))
        steps = chosen.get("steps", 2500 if taught else 850)
        batch_size = 1024
        while batch_size > max(64, examples / 12):
            batch_size //= 2
        wanted = steps * (examples / LECTURE_EXAMPLES) ** 0.5 * math.exp(-0.21 * few)
        if examples >= VERY_MANY:
            wanted *= 0.28 ** min(1.0, max(0.0, math.log2(width)))
        drop = chosen.get("drop", 0.2) + 0.18 * (scarcity - plenty) + 0.08 * few
        rules = {
            "examples_per_row": 2 if taught else min(16, round(4 * 2 ** (0.84 * few))),
            "lr": round(min(0.055, 0.02 * math.exp(0.41 * few)), 4),
            "lr_other": round(min(0.02, 0.008 * math.exp(0.365 * few)), 4),
            "warm_up": round(min(0.15, 0.05 + 0.042 * few), 3),
            **chosen,
            "steps": round(min(10_000, max(steps / 8, wanted))),
            "batch_size": batch_size,
            "weight_decay": round(0.4 + 0.2 * scarcity + min(1.4, 0.6 * few), 2),
            "drop": round(min(0.85 if few else 0.75, max(0.0, drop)), 2),
        }
        if chunked:
            rules |= {"targets": "hard", "drop": 0.0}
        return cls(**(rules | given))

    @classmethod
    def width_for(cls, examples: int, steps: int | None) -> int:
        """Twice as wide for very many examples, unless there are too few steps for it to pay."""
        return 2 if examples >= VERY_MANY and (steps is None or steps >= cls.steps) else 1

    def teacher(self) -> ModernRecipe:
        """The recipe of this one's teachers: shorter, with less dropping and coarser targets."""
        steps = max(1, round(self.teacher_share * self.steps))
        return replace(self, steps=steps, drop=self.drop / 2, targets="soft", examples_per_row=8, teachers=0)

    def share_at(self, step: int) -> float:
        """The share of the peak learning rates that a step has, counted from 0."""
        warm = max(1.0, self.warm_up * self.steps)
        if step < warm:
            return (step + 1) / (warm + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1.0, self.steps - warm)))

    def lr_at(self, step: int) -> float:
        """Muon's learning rate of a step, counted from 0."""
        return self.lr * self.share_at(step)

    def lrs_at(self, step: int) -> dict[str, float]:
        """Those of Muon and of AdamW."""
        share = self.share_at(step)
        return {"lr": self.lr * share, "lr_other": self.lr_other * share}

    def turn(self) -> tuple[float, str]:
        """The step at which the learning rates have their peak."""
        return self.warm_up * self.steps, f"lr up to {self.lr:g}, then a cosine to 0"
