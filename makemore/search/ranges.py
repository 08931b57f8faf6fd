"""What a search tries: a setting of the network or the recipe, and its range."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from makemore.core.errors import UsageError
from makemore.run.catalog import RECIPES, network_plan
from makemore.run.settings import NETWORK, RUN


def parse_range(asked: str, recipe: str) -> tuple[str, BaseDistribution]:
    """The setting and the range of a ``--search``, such as ``lr=0.005:0.05:log`` or ``targets=soft,hard``.

    Raises UsageError on an unknown setting, and on text that is not a range of its values.
    """
    knobs = RECIPES[recipe][0].knobs() | {name: knob for name, knob in RUN.items() if knob.group == NETWORK}
    name, _, values = asked.partition("=")
    name = name.strip().removeprefix("--").replace("-", "_")
    if name not in knobs:
        raise UsageError(
            f"--search {asked}: there is no setting {name!r} to search: choose from {', '.join(knobs)}"
        )
    knob, parts = knobs[name], values.split(":")
    is_range, log = knob.type is not str and len(parts) > 1, parts[2:] == ["log"]
    try:
        if len(parts) > 3:
            raise ValueError
        bounds = [knob.type(part) for part in (parts[: 2 if log else 3] if is_range else values.split(","))]
    except ValueError:
        how = "A,B,C" if knob.type is str else "LOW:HIGH, LOW:HIGH:STEP, LOW:HIGH:log or A,B,C"
        raise UsageError(f"--search {asked}: give {name}={how}") from None
    for value in bounds[:2] if is_range else bounds:
        knob.check(value)
        if name == "network":
            network_plan(value)
    try:
        distribution: BaseDistribution
        if is_range:
            kind: Any = IntDistribution if knob.type is int else FloatDistribution
            step = {"step": bounds[2]} if bounds[2:] else {}
            distribution = kind(*bounds[:2], log=log, **step)
        else:
            distribution = CategoricalDistribution([*dict.fromkeys(bounds)])
        if distribution.single():
            raise ValueError("that is only one value")
    except ValueError as error:
        raise UsageError(f"--search {asked}: {' '.join(str(error).split())}") from error
    return name, distribution


def suggest(trial: optuna.trial.BaseTrial, name: str, values: Any) -> Any:
    """The value of a setting in a trial."""
    if isinstance(values, CategoricalDistribution):
        return trial.suggest_categorical(name, values.choices)
    suggest_number: Any = trial.suggest_int if isinstance(values, IntDistribution) else trial.suggest_float
    value = suggest_number(name, values.low, values.high, step=values.step, log=values.log)
    return float(f"{value:.3g}") if isinstance(value, float) else value  # short enough for a flag
