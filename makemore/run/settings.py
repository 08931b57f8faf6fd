"""The settings of the commands, from flags or from a model file. Imports no torch.

The settings of a run and of sampling are declared here, those of a recipe in the recipe's module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from makemore.core.errors import UsageError
from makemore.core.settings import FIRST, Knob, Knobs, knob
from makemore.run.catalog import ENGINES, RECIPES
from makemore.training.recipe import Recipe

NETWORK, TRAINING, OUTPUT = "network", "training", "output"
"""The groups of flags in the help, besides ``FIRST`` and the groups of the recipes."""


@dataclass(frozen=True)
class RunSettings(Knobs):
    """The settings of a run besides its recipe's, named as the flags of ``makemore-train``.

    None stands for a default that follows from other settings.
    """

    data: str | None = knob(
        None,
        "word list: a UTF-8 file with one word a line, which may be compressed (.gz, .bz2, .xz, .zst); - for"
        " stdin; lecture for the lecture's list, which is downloaded once",
        default_text="the bundled names",
        group=FIRST,
        metavar="PATH",
        may_change=True,
    )
    recipe: str = knob(
        "modern",
        "modern: lower loss in a hundredth of the steps; lecture: the lecture's run, digit for digit",
        choices=RECIPES,
        group=FIRST,
    )
    ensemble: int = knob(
        1,
        "number of networks to train, whose probabilities are averaged; 4: lower loss, slower",
        1,
        1000,
        group=FIRST,
    )
    samples: int = knob(
        20, "number of new words to sample at the end", 0, 10**6, group=FIRST, may_change=True
    )
    network: str = knob(
        "wavenet",
        "mlp, mlp-8, hierarchical-bug, hierarchical, wavenet: the rows of the lecture's performance log;"
        " gated, dropout, layernorm: wavenet with gates, with Dropout, with LayerNorm; wavenet-paper: the"
        " paper's network, with gates, residual and skip connections",
        group=NETWORK,
        metavar="NAME",
    )
    block_size: int | None = knob(
        None, "characters of context", 1, 1024, default_text="set by --network", group=NETWORK
    )
    n_embd: int | None = knob(
        None, "channels of a character's embedding", 1, 4096, default_text="set by --network", group=NETWORK
    )
    n_hidden: int | None = knob(
        None,
        "channels of a hidden layer",
        1,
        16_384,
        default_text="set by --network, doubled for lists of millions of words",
        group=NETWORK,
    )
    stacks: int = knob(
        1, "for wavenet-paper: how many times the dilations 1, 2, 4, ... are repeated", 1, 256, group=NETWORK
    )
    seed: int = knob(42, "random seed of weights, batches and new words", 0, 2**63 - 1, group=TRAINING)
    engine: str = knob(
        "windows",
        "windows: hand-derived gradients, repeated windows computed once; backprop: hand-derived gradients;"
        " autograd: PyTorch's autograd, as in the lecture",
        choices=ENGINES,
        group=TRAINING,
    )
    device: str = knob(
        "auto",
        "device to compute on: auto, cpu, cuda or cuda:n",
        group=TRAINING,
        metavar="NAME",
        may_change=True,
    )
    threads: int = knob(
        1,
        "CPU threads; more than 1 gains little, takes many times as long beside other programs, and changes"
        " the rounding of the steps",
        1,
        1024,
        group=TRAINING,
        may_change=True,
    )
    log_every: int | None = knob(
        None,
        "steps between log lines",
        1,
        10**9,
        default_text="1/20 of all steps, at most 10,000",
        group=OUTPUT,
        may_change=True,
    )
    eval_every: int | None = knob(
        None,
        "steps between evaluations of the val loss",
        1,
        10**9,
        default_text="as --log-every",
        group=OUTPUT,
    )
    save_every: float = knob(
        10, "seconds between saves of the model file", 0, 1e9, group=OUTPUT, may_change=True
    )
    record_every: int = knob(
        0,
        "steps between records of the gradients, for makemore-draw; 10, or 100 with small batches, makes the"
        " run at most 2 % slower",
        0,
        10**9,
        default_text="no records",
        group=OUTPUT,
        may_change=True,
    )
    tensorboard: bool = knob(
        False,
        "write losses, learning rates, words and pictures for TensorBoard to the directory tensorboard in"
        " --out-dir",
        group=OUTPUT,
        may_change=True,
    )


RUN = RunSettings.knobs()


@dataclass(frozen=True)
class SampleSettings(Knobs):
    """The settings of ``makemore-sample``."""

    samples: int = knob(20, "number of words to print", 0, 10**9)
    draws: int | None = knob(
        None, "number of words to sample, of which --novel and --unique leave out some", 0, 10**9
    )
    seed: int | None = knob(
        None,
        "random seed; the same seed gives the same words",
        0,
        2**63 - 1,
        default_text="a new one each time",
    )
    prefix: str = knob("", "beginning of every new word", metavar="TEXT")
    temperature: float = knob(
        1,
        "below 1: more likely words; above 1: more unusual words; 0: always the most likely character",
        0,
        1e6,
    )
    min_length: int = knob(0, "length of the shortest word, in characters", 0, 10_000)
    top_k: int | None = knob(None, "sample from the K most likely characters only", 1, 2**31, metavar="K")
    top_p: float | None = knob(
        None,
        "sample from the most likely characters only: as few as have a total probability of P",
        0,
        1,
        metavar="P",
    )
    max_length: int = knob(100, "length of the longest word, in characters; longer words are cut", 1, 10_000)
    novel: bool = knob(False, "leave out words of the list that the model was trained on")
    unique: bool = knob(False, "leave out repeated words")
    with_score: bool = knob(False, "print the log-likelihood in nats after each word, separated by a tab")
    data: str | None = knob(
        None, "for --novel: path of the training word list, if the file was moved", metavar="PATH"
    )
    score: str | None = knob(
        None,
        "in place of sampling, print each word of a file (also .gz, .bz2, .xz, .zst; - for stdin) with its"
        " log-likelihood in nats, in total and per character",
        metavar="FILE",
    )
    shard: str | None = knob(
        None,
        "sample or score only part I of N; the outputs of parts 1 to N, joined, are that without --shard",
        metavar="I/N",
    )
    output: str = knob(
        "-",
        "file to write, text with one word a line, compressed if it ends in .gz",
        default_text="stdout",
        metavar="FILE",
    )
    device: str = knob("cpu", "device to compute on: auto, cpu, cuda or cuda:n", metavar="NAME")


class Settings(NamedTuple):
    """The settings of a run and its recipe, with all defaults filled in."""

    run: RunSettings
    recipe: Recipe

    def values(self) -> dict[str, Any]:
        """All settings by name, for the model file."""
        return asdict(self.run) | asdict(self.recipe)


def checked(given: Mapping[str, Any]) -> RunSettings:
    """The settings of the run among those given, which can be checked before the words are read.

    Raises UsageError, which names the flag, on a value out of range and on a setting that the recipe does not
    have.
    """
    own = {name: value for name, value in given.items() if name in RUN}
    for name, value in own.items():
        RUN[name].check(value, flag(name))
    run = RunSettings(**own)
    known = RECIPES[run.recipe][0].knobs()
    for name, value in given.items():
        if name in known:
            known[name].check(value, flag(name))
        elif name not in RUN:
            raise UsageError(f"the {run.recipe} recipe has no {flag(name)}")
    return run


def resolved(
    given: Mapping[str, Any], sizes: Mapping[str, Any], examples: int, width: float = 1.0
) -> Settings:
    """The settings with all defaults filled in, for a list with that many training examples.

    ``sizes`` are the sizes of the network's plan; for ``width`` see ``Recipe.for_examples``.
    """
    run = checked(given)
    own = {name: value for name, value in given.items() if name not in RUN}
    recipe = RECIPES[run.recipe][0].for_examples(examples, width, **own)
    log_every = run.log_every or max(1, min(10_000, recipe.steps // 20))
    known = {name: size for name, size in sizes.items() if name in RUN}
    run = replace(run, log_every=log_every, eval_every=run.eval_every or log_every, **known)
    return Settings(run, recipe)


def restored(saved: Mapping[str, Any], given: Mapping[str, Any]) -> Settings:
    """The settings of a saved run that is resumed, where ``given`` may change some.

    A setting that is not among the saved ones gets its default. Raises UsageError on a given setting that may
    not change, and ValueError, KeyError or TypeError if the saved settings are not those of a run.
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
                f"{flag(name)} is {saved.get(name)} in the run to resume and cannot be changed to {value};"
                f" what may change: {', '.join(flag(other) for other in allowed)}"
            )
    values = {**saved, **given}
    own = {name: value for name, value in values.items() if name not in RUN}
    return Settings(checked(values), recipe(**own))


def flags() -> Iterator[Knob]:
    """The flags of ``makemore-train``. Settings with the same name in several recipes share a flag."""
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
            help=_help_of(have),
            default_text=", ".join(f"{recipe}: {k.default_label}" for recipe, k in have.items()),
            group=first.group or TRAINING,
        )


def _help_of(have: Mapping[str, Knob]) -> str:
    """The help of a flag for the settings of several recipes, given by the recipe."""
    if len({knob.help for knob in have.values()}) == 1:
        return next(iter(have.values())).help
    return "; ".join(f"{recipe}: {knob.help}" for recipe, knob in have.items())


def flag(name: str) -> str:
    """The command-line flag of a setting.

    >>> flag("n_embd")
    '--n-embd'
    """
    return "--" + name.replace("_", "-")
