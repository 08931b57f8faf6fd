"""What the commands are to do, from flags or from a model file. Imports no torch.

The knobs of a run and of sampling are declared here, those of a recipe in ``recipes.py``; a recipe, or an
engine, is known by its line in ``RECIPES`` or ``ENGINES``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from makemore.errors import UsageError
from makemore.recipes import FIRST, Knob, Knobs, LectureRecipe, ModernRecipe, Recipe, knob

NETWORK, TRAINING, OUTPUT = "network", "training", "output"
"""Groups of flags."""

RECIPES: dict[str, tuple[type[Recipe], str]] = {
    "modern": (ModernRecipe, "makemore.modern.trainer:ModernTrainer"),
    "lecture": (LectureRecipe, "makemore.training:Trainer"),
}
"""Each recipe, and where the class is that trains by it."""

ENGINES = {
    "windows": "makemore.backprop.windows:WindowsEngine",
    "backprop": "makemore.backprop:BackpropEngine",
    "autograd": "makemore.training:AutogradEngine",
}

PICTURES = {
    "nodes": "which characters each node sees",
    "tree": "the values of every node for one context",
    "probabilities": "what the network expects next along a word",
    "embedding": "the characters as points",
    "activations": "histograms of what comes out of each layer, saturated tanh",
    "batchnorm": "running statistics, by channel and position",
    "gradients": "gradients and updates of a run with --record-every",
}
"""The pictures of ``makemore-draw``."""


@dataclass(frozen=True)
class RunSettings(Knobs):
    """The settings of a run beside its recipe's, named as the flags of ``makemore-train``.

    None stands for a default that follows from the others.
    """

    data: str | None = knob(
        None,
        "word list, utf-8, one word a line, also .gz, .bz2, .xz, .zst; - for stdin; 'lecture' for the"
        " lecture's own, downloaded once",
        otherwise="the bundled names",
        group=FIRST,
        metavar="PATH",
        may_change=True,
    )
    recipe: str = knob("modern", "lecture: the lecture's run, digit for digit", choices=RECIPES, group=FIRST)
    members: int = knob(
        1,
        "networks whose probabilities are averaged, in one model file; 4: better, slower",
        1,
        1000,
        group=FIRST,
    )
    samples: int = knob(20, "new words at the end", 0, 10**6, group=FIRST, may_change=True)
    network: str = knob(
        "wavenet",
        "mlp, mlp-8, hierarchical-bug, hierarchical, wavenet: the lecture's log, row by row; gated: its last"
        " one with gates; wavenet-paper: gates, residual and skip connections",
        group=NETWORK,
        metavar="NAME",
    )
    block_size: int | None = knob(None, "characters of context", 1, 1024, group=NETWORK)
    n_embd: int | None = knob(None, "channels of a character", 1, 4096, group=NETWORK)
    n_hidden: int | None = knob(
        None,
        "channels of a hidden layer",
        1,
        16_384,
        otherwise="the network's, of millions of words twice",
        group=NETWORK,
    )
    stacks: int = knob(
        1, "wavenet-paper: how often dilations 1, 2, 4, ... are repeated", 1, 256, group=NETWORK
    )
    seed: int = knob(42, "seed of weights, batches and new words", 0, 2**63 - 1, group=TRAINING)
    engine: str = knob(
        "windows",
        "gradients by hand, equal windows of characters once where that is faster; by hand; the lecture's",
        choices=ENGINES,
        group=TRAINING,
    )
    device: str = knob("auto", "auto, cpu, cuda or cuda:n", group=TRAINING, metavar="NAME", may_change=True)
    threads: int = knob(
        1, "CPU threads; for small steps 1 is fastest", 1, 1024, group=TRAINING, may_change=True
    )
    log_every: int | None = knob(
        None,
        "steps from line to line",
        1,
        10**9,
        otherwise="1/20 of all, 10,000 at most",
        group=OUTPUT,
        may_change=True,
    )
    eval_every: int | None = knob(
        None, "steps from val loss to val loss", 1, 10**9, otherwise="as --log-every", group=OUTPUT
    )
    save_every: float = knob(
        10.0, "seconds from model file to model file", 0, 1e9, group=OUTPUT, may_change=True
    )
    record_every: int = knob(
        0,
        "steps from record to record of gradients, for makemore-draw; at 10, or 100 for small batches,"
        " that takes 2 % more time at most",
        0,
        10**9,
        otherwise="none",
        group=OUTPUT,
        may_change=True,
    )
    tensorboard: bool = knob(
        False,
        "write losses, learning rates, words and pictures for TensorBoard, to DIR/tensorboard",
        group=OUTPUT,
        may_change=True,
    )


RUN = RunSettings.knobs()


@dataclass(frozen=True)
class SampleSettings(Knobs):
    """Which words ``makemore-sample`` is to draw or to score."""

    number: int = knob(20, "words", 0, 10**9)
    draws: int | None = knob(None, "draw N words and print those that --novel and --unique leave", 0, 10**9)
    seed: int | None = knob(None, "the same words each time", 0, 2**63 - 1, otherwise="new ones")
    prefix: str = knob("", "how every word starts", metavar="TEXT")
    temperature: float = knob(
        1, "below 1: more usual words, above: wilder ones, 0: always the likeliest symbol", 0, 1e6
    )
    min_length: int = knob(0, "shortest word", 0, 10_000)
    top_k: int | None = knob(None, "draw from the K likeliest symbols only", 1, 2**31, metavar="K")
    top_p: float | None = knob(
        None, "draw from the fewest symbols whose probabilities come to P only", 0, 1, metavar="P"
    )
    max_length: int = knob(100, "longest word", 1, 10_000)
    novel: bool = knob(False, "no words of the list the model was trained on")
    unique: bool = knob(False, "no word twice")
    with_score: bool = knob(False, "log-likelihood in nats behind each word and a tab")
    data: str | None = knob(None, "where the training list lies now, for --novel", metavar="PATH")
    score: str | None = knob(
        None,
        "draw nothing; print each word of a file, also .gz, .bz2, .xz, .zst (- for stdin), with its"
        " log-likelihood in nats, and that per character",
        metavar="FILE",
    )
    shard: str | None = knob(
        None,
        "the I-th of N parts of the words, drawn or scored: all parts, in a row, are the whole",
        metavar="I/N",
    )
    output: str = knob(
        "-",
        "write a file, whole or not at all, packed if it ends in .gz",
        otherwise="stdout",
        metavar="FILE",
    )
    device: str = knob("cpu", "auto, cpu, cuda or cuda:n", metavar="NAME")


class Settings(NamedTuple):
    """A run's settings and its recipe, every default filled in."""

    run: RunSettings
    recipe: Recipe

    def values(self) -> dict[str, Any]:
        """All of them by name, for the model file."""
        return asdict(self.run) | asdict(self.recipe)


def checked(given: Mapping[str, Any]) -> RunSettings:
    """The run's settings among those given, before the words are read.

    Raises UsageError on a value out of range, and on one that another recipe would need.
    """
    run = RunSettings(**{name: value for name, value in given.items() if name in RUN})
    known = RECIPES[run.recipe][0].knobs()
    for name, value in given.items():
        if name in known:
            known[name].check(value)
        elif name not in RUN:
            raise UsageError(f"the {run.recipe} recipe has no {flag(name)}")
    return run


def resolved(
    given: Mapping[str, Any], sizes: Mapping[str, Any], examples: int, width: float = 1.0
) -> Settings:
    """The settings with every default filled in, for a list with that many training examples.

    ``sizes`` are those of the network's plan, ``width`` is what ``Recipe.for_examples`` asks for.
    """
    run = checked(given)
    own = {name: value for name, value in given.items() if name not in RUN}
    recipe = RECIPES[run.recipe][0].for_examples(examples, width, **own)
    log_every = run.log_every or max(1, min(10_000, recipe.steps // 20))
    known = {name: size for name, size in sizes.items() if name in RUN}
    run = replace(run, log_every=log_every, eval_every=run.eval_every or log_every, **known)
    return Settings(run, recipe)


def restored(saved: Mapping[str, Any], given: Mapping[str, Any]) -> Settings:
    """The settings of a saved run that is resumed with some given anew.

    A setting that was not there yet when the run was saved has its default. Raises UsageError on one that
    differs and may not, ValueError or another error on saved ones that no run has.
    """
    run = checked(saved)
    recipe = RECIPES[run.recipe][0]
    known = RUN | recipe.knobs()
    saved = {name: knob.default for name, knob in known.items()} | dict(saved)
    if set(saved) != set(known) or any(saved[name] is None for name in RUN if name != "data"):
        raise ValueError("these are not the settings of a run")
    allowed = [name for name, knob in known.items() if knob.may_change]
    if not recipe.depends_on_evaluations:
        allowed.append("eval_every")
    for name, value in given.items():
        if name not in allowed and value != saved.get(name):
            raise UsageError(
                f"{flag(name)} was {saved.get(name)} in the run to resume and cannot become {value};"
                f" what may change: {', '.join(flag(other) for other in allowed)}"
            )
    values = {**saved, **given}
    own = {name: value for name, value in values.items() if name not in RUN}
    return Settings(checked(values), recipe(**own))


def flags() -> Iterator[Knob]:
    """Every flag of ``makemore-train``: a knob, or all those of that name in one."""
    yield from RUN.values()
    recipes = {name: recipe.knobs() for name, (recipe, _) in RECIPES.items()}
    for name in dict.fromkeys(name for knobs in recipes.values() for name in knobs):
        have = {recipe: knobs[name] for recipe, knobs in recipes.items() if name in knobs}
        only, first = next(iter(have.items()))
        if len(have) == 1:
            yield replace(first, group=first.group or f"the {only} recipe")
            continue
        yield replace(
            first,
            low=min(k.low for k in have.values()),
            high=max(k.high for k in have.values()),
            choices=[*dict.fromkeys(choice for k in have.values() for choice in k.choices)],
            help=" / ".join(dict.fromkeys(k.help for k in have.values())),
            otherwise=", ".join(f"{recipe}: {k.said_default}" for recipe, k in have.items()),
            group=first.group or TRAINING,
        )


def flag(name: str) -> str:
    """The command-line flag of a setting.

    >>> flag("n_embd")
    '--n-embd'
    """
    return "--" + name.replace("_", "-")
