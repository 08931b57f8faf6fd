"""The command ``makemore-search``: the best settings for a word list, from many training runs."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from makemore.core.errors import Interrupted, UsageError
from makemore.core.terminal import say
from makemore.run.lock import make_directory
from makemore.run.settings import checked
from makemore.run.signals import Signals
from makemore.run.training_run import new_run
from makemore.training.processes import ONE_PROCESS


@contextmanager
def interruptible() -> Iterator[None]:
    """End the block on Ctrl-C or another signal that stops a process, and say how to continue."""
    with Signals():
        try:
            yield
        except Interrupted as stop:
            raise Interrupted(stop.signum, "interrupted; the same command continues the search") from stop


@contextmanager
def quiet() -> Iterator[None]:
    """Ignore warnings: Optuna's pictures and heartbeats are marked experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@interruptible()
@quiet()
def search(
    asked: Sequence[str],
    common: Mapping[str, Any],
    seeds: Sequence[int],
    trials: int,
    out_dir: Path,
    address: str | None,
    name: str,
) -> None:
    """Do trials until the study has enough of them, then print the best settings and draw pictures.

    ``asked`` are the texts of ``--search``, ``common`` the settings of all runs, and each trial does a run
    for each of the ``seeds``. The study has a ``name`` in the database at ``address``, by default in
    ``out_dir``. Raises UsageError, also if Optuna is not installed, and Interrupted.
    """
    try:
        import optuna

        from makemore.search.pictures import draw_study
        from makemore.search.ranges import parse_range
        from makemore.search.study import Objective, do_trials, open_study
    except ImportError as error:
        needed = "a search needs the package optuna, version 5 or later: pip install --upgrade optuna"
        raise UsageError(needed) from error
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    recipe = checked(common).recipe
    ranges = dict(parse_range(text, recipe) for text in asked)
    if len(ranges) < len(asked) or ranges.keys() & common:
        raise UsageError("a setting is given twice: by --search, or by --search and after --")
    make_directory(out_dir)
    run = new_run(common, out_dir, ONE_PROCESS)
    about = {
        "ranges": {name: optuna.distributions.distribution_to_json(d) for name, d in ranges.items()},
        "flags": json.loads(json.dumps({name: value for name, value in common.items() if name != "data"})),
        "words": run.words.fingerprint,
        "seeds": seeds,
    }
    settings = run.settings.values()
    defaults = {name: settings[name] for name in ranges}
    objective = Objective(ranges, common, seeds)
    database = address or f"sqlite:///{out_dir / 'study.db'}"
    with open_study(database, name, about) as (study, storage):
        try:
            optuna.trial.create_trial(params=defaults, distributions=ranges, value=0.0)
            study.enqueue_trial(defaults, user_attrs={"defaults": True}, skip_if_exists=True)
        except ValueError:
            say(f"the default settings are not in the ranges and are not tried: {defaults}")
        do_trials(study, storage, objective, trials)
        say(objective.best_flags(study))
        pictures = ", ".join(map(str, draw_study(study, out_dir)))
        say(f"wrote {pictures or 'no pictures: they need more trials'}")
