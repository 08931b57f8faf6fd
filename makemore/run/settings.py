"""The settings of the commands, from flags or from a model file. Imports no torch.

The settings of a run and of sampling are declared here, those of a recipe in the recipe's module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from makemore.core.errors import UsageError
from makemore.core.settings import FIRST, Knob, Knobs, knob
from makemore.run.catalog import ENGINES, NETWORKS, RECIPES
from makemore.training.recipe import Recipe

COLUMNS, NETWORK, TRAINING, OUTPUT = "columns of a table, CSV or TSV", "network", "training", "output"
"""The groups of flags in the help, besides ``FIRST`` and the groups of the recipes."""

FORMATS = ("text", "csv", "jsonl")
"""The formats of the output of ``makemore-sample``."""


@dataclass(frozen=True)
class RunSettings(Knobs):
    """The settings of a run besides its recipe's, named as the flags of ``makemore-train``.

    None stands for a default that follows from other settings.
    """

    data: tuple[str, ...] | None = knob(
        None,
        "word lists: UTF-8 files with one word a line, or tables, which may be compressed (.gz, .bz2, .xz,"
        " .zst), or directories of such files; of several files, the name of each is the label of its words;"
        " - for stdin; lecture for the lecture's list, which is downloaded once",
        default_text="the bundled names",
        group=FIRST,
        metavar="PATH",
        may_change=True,
    )
    word_column: str | None = knob(
        None,
        "column of the words, by its name in the first row, or by its number from 1 on; 0: the lines are the"
        " words, whatever is in them",
        group=COLUMNS,
        metavar="COLUMN",
    )
    label_column: tuple[str, ...] = knob(
        (),
        "columns of labels, such as gender country; empty fields are allowed",
        group=COLUMNS,
        metavar="COLUMN",
    )
    count_column: str | None = knob(
        None,
        "column of counts: a word counts as if it were on that number of lines",
        group=COLUMNS,
        metavar="COLUMN",
    )
    recipe: str = knob(
        "modern",
        "modern: lower loss in a hundredth of the steps; lecture: the lecture's run, digit for digit",
        choices=RECIPES,
        group=FIRST,
    )
    ensemble: int | None = knob(
        None,
        "number of networks to train, whose probabilities are averaged; 4: lower loss, slower",
        1,
        1000,
        default_text="1; for few words up to 8",
        group=FIRST,
    )
    samples: int = knob(
        20, "number of new words to sample at the end", 0, 10**6, group=FIRST, may_change=True
    )
    network: str = knob(
        "wavenet",
        "; ".join(f"{plan.name}: {plan.help}" if plan.help else plan.name for plan in NETWORKS.values()),
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
        default_text="set by --network; half for some 100 words, doubled for millions",
        group=NETWORK,
    )
    stacks: int = knob(
        1, "for wavenet-paper: how many times the dilations 1, 2, 4, ... are repeated", 1, 256, group=NETWORK
    )
    dropout: float | None = knob(
        None,
        "probability to drop a value after each activation; pays with wide networks and many steps: 0.1 with"
        " --n-hidden 264 --steps 3500",
        0,
        0.99,
        default_text="0; 0.1 for --network dropout",
        group=NETWORK,
    )
    case: str = knob(
        "auto",
        "auto: do not learn capitals that a rule gives, such as the first letter of every word, and put them"
        " back after sampling; keep: learn capitals like all other characters",
        choices=("auto", "keep"),
        group=TRAINING,
    )
    init_from: str | None = knob(
        None,
        "head start: begin with the values of a trained network (model file, directory of a run, or bundled);"
        " the new network has the same layers, and a quarter of the learning rates",
        group=TRAINING,
        metavar="MODEL",
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
    keep_every: int = knob(
        0,
        "steps between networks that are kept, from step 0 to the last one, in the directory frames in"
        " --out-dir, for makemore-page --frames; an ensemble is kept whole, its teachers are not",
        0,
        10**9,
        default_text="none is kept",
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

MAY_BE_NONE = ("data", "word_column", "count_column", "init_from", "dropout")
"""The settings of a saved run that may be None."""

LIST_SETTINGS = ("data", "word_column", "label_column", "count_column", "case")
"""The settings that say which words are read."""


CHARACTERS, WORDS, FORM, OTHERWISE = (
    "how each character is sampled, in this order",
    "which words are printed",
    "output",
    "in place of a list of new words",
)
"""The groups of flags in the help of ``makemore-sample``, besides ``FIRST``."""

GOOD = {"temperature": 0.7, "top_p": 0.9, "novel": True, "unique": True, "not_near": 1}
"""What ``--good`` sets, unless another value is given."""


@dataclass(frozen=True)
class SampleSettings(Knobs):
    """The settings of ``makemore-sample``."""

    samples: int = knob(20, "number of words to print", 0, 10**9, group=FIRST)
    good: bool = knob(
        False,
        "good new words: likelier ones, each once, of a usual length, none within one edit of a listed one;"
        " sets --temperature 0.7 --top-p 0.9 --novel --unique --not-near 1, where not given otherwise",
        group=FIRST,
    )
    prefix: str = knob("", "beginning of every new word", group=FIRST, metavar="TEXT")
    label: tuple[str, ...] = knob(
        (),
        "label of the words, for a model of words with labels: LABEL, COLUMN=LABEL, or a blend such as"
        " Irish=0.7,Japanese=0.3; may be given for each column",
        default_text="drawn for each word, as often as in the list",
        group=FIRST,
        metavar="LABEL",
        repeated=True,
    )
    seed: int | None = knob(
        None,
        "random seed; the same seed gives the same words",
        0,
        2**63 - 1,
        default_text="a new one each time",
        group=FIRST,
    )
    temperature: float = knob(
        1,
        "below 1: more likely words; above 1: more unusual words; 0: always the most likely character",
        0,
        1e6,
        group=CHARACTERS,
    )
    min_length: int = knob(
        1, "length of the shortest word, in characters: no word ends before", 1, 10_000, group=CHARACTERS
    )
    top_k: int | None = knob(
        None, "sample from the K most likely characters only", 1, 2**31, group=CHARACTERS, metavar="K"
    )
    top_p: float | None = knob(
        None,
        "sample from the most likely characters only: as few as have a total probability of P",
        0,
        1,
        group=CHARACTERS,
        metavar="P",
    )
    max_length: int = knob(100, "length of the longest word, in characters", 1, 10_000, group=WORDS)
    novel: bool = knob(False, "no word of the list that the model was trained on", group=WORDS)
    not_near: int | None = knob(
        None,
        "no word within K edits of a listed one, an edit being a character inserted, deleted or replaced;"
        " more than 1 needs the package rapidfuzz",
        0,
        100,
        group=WORDS,
        metavar="K",
    )
    unique: bool = knob(False, "no word twice", group=WORDS)
    data: tuple[str, ...] | None = knob(
        None,
        "path of the list that the model was trained on, or of all of them, if moved",
        group=WORDS,
        metavar="PATH",
    )
    output: str = knob(
        "-",
        "file to write: .txt, .csv or .jsonl, and compressed if .gz follows",
        default_text="stdout",
        group=FORM,
        metavar="FILE",
    )
    format: str | None = knob(
        None,
        "text: one word a line; csv, jsonl: also its log-likelihood in nats, and whether it is novel if the"
        " training list is found",
        choices=FORMATS,
        default_text="by the ending of --output, else text",
        group=FORM,
    )
    with_score: bool = knob(
        False,
        "in text, print the log-likelihood in nats after each word, separated by a tab",
        group=FORM,
    )
    with_label: bool = knob(
        False,
        "in text, print the labels of each word after it, separated by tabs",
        group=FORM,
    )
    shard: str | None = knob(
        None,
        "sample or score only part I of N; the outputs of parts 1 to N, joined, are that without --shard",
        group=FORM,
        metavar="I/N",
    )
    score: str | None = knob(
        None,
        "print each word of a file (also .gz, .bz2, .xz, .zst; - for stdin) with its log-likelihood in nats,"
        " in total and per character",
        group=OTHERWISE,
        metavar="FILE",
    )
    classify: str | None = knob(
        None,
        "print each word of a file with the labels that fit it best, and how probable each is",
        group=OTHERWISE,
        metavar="FILE",
    )
    top: int = knob(3, "for --classify: number of labels to print", 1, 10_000, group=OTHERWISE)
    labels: bool = knob(
        False,
        "list the model's labels: column, label, and number of words in the list, separated by tabs",
        group=OTHERWISE,
    )
    interactive: bool = knob(
        False,
        "read beginnings of words, one a line, and print the likeliest next characters and five words for"
        " each; end with Ctrl-D",
        group=OTHERWISE,
    )
    device: str = knob("cpu", "device to compute on: auto, cpu, cuda or cuda:n", group=FORM, metavar="NAME")


def sample_settings(given: Mapping[str, Any]) -> SampleSettings:
    """The settings of ``makemore-sample`` with those that ``--good`` sets."""
    return SampleSettings(**{**(GOOD if given.get("good") else {}), **given})


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
    if run.init_from is not None:
        recipe = recipe.with_head_start(own)
    log_every = run.log_every or max(1, min(10_000, recipe.steps // 20))
    known = {name: size for name, size in sizes.items() if name in RUN}
    ensemble = run.ensemble or RECIPES[run.recipe][0].default_ensemble(examples)
    run = replace(
        run, ensemble=ensemble, log_every=log_every, eval_every=run.eval_every or log_every, **known
    )
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
    if set(saved) != set(known) or any(saved[name] is None for name in RUN if name not in MAY_BE_NONE):
        raise ValueError("these are not the settings of a run")
    allowed = [name for name, knob in known.items() if knob.may_change]
    if not recipe.depends_on_evaluations:
        allowed.append("eval_every")
    for name, value in given.items():
        if name not in allowed and (
            name not in known or known[name].normalized(value) != known[name].normalized(saved[name])
        ):
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
