"""A search: a study of trials in a database, which any number of processes can work on and continue."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from makemore.core.errors import DataError, DivergedError, Interrupted, ModelFileError, UsageError
from makemore.core.shell import quoted
from makemore.core.terminal import say
from makemore.run.settings import flag
from makemore.run.training_run import new_run
from makemore.search.ranges import suggest
from makemore.training.processes import ONE_PROCESS

HEARTBEAT, GRACE = 10, 60
"""Seconds between two heartbeats of a trial, and seconds without one after which the trial counts as dead."""

DATABASE_ERRORS, ATTEMPTS = (SQLAlchemyError, optuna.exceptions.OptunaError), 5
"""Errors of a database, and the number of attempts: another process may be creating its tables right now."""

UNPRUNED_TRIALS, UNPRUNED_PERCENT = 8, 30
"""The number of first trials that are never pruned, and the part of its steps that every run may do."""


def val_loss(settings: Mapping[str, Any], report: Callable[[float, float], None]) -> float:
    """The val loss that makemore-train ends with.

    ``report`` is called with the share of the steps that are done and the val loss there. Raises UsageError
    on settings that no run can have, and DivergedError.
    """
    with tempfile.TemporaryDirectory() as directory:  # for the teachers
        training_run = new_run(settings, Path(directory), ONE_PROCESS)
        trainer, (run, recipe) = training_run.trainer, training_run.settings
        trainer.prepare(training_run.context())

        def evaluate() -> float:
            val = trainer.evaluate("val").val
            if val is None or not math.isfinite(val):
                raise DivergedError(trainer.step, f"the val loss is {val}")
            return val

        assert run.eval_every is not None
        for _ in trainer.run(run.eval_every):
            if trainer.step % run.eval_every == 0 and trainer.step < recipe.steps:
                report(trainer.step / recipe.steps, evaluate())
        trainer.finish()
        return evaluate()


class Objective:
    """The value of a trial: the mean val loss of runs with the ``common`` settings, one for each seed.

    A trial that is interrupted is put back, to be done again; so is one whose word list or teacher cannot be
    read, which ends the search.
    """

    def __init__(
        self, ranges: dict[str, BaseDistribution], common: Mapping[str, Any], seeds: Sequence[int]
    ) -> None:
        self.ranges, self.common, self.seeds = ranges, common, seeds

    def __call__(self, trial: optuna.Trial) -> float:
        values = {name: suggest(trial, name, values) for name, values in self.ranges.items()}
        started, end, vals = time.perf_counter(), "stopped", list[float]()

        def report(share: float, val: float) -> None:
            trial.report(val, 100 * len(vals) + round(100 * share))
            if trial.should_prune():
                raise optuna.TrialPruned(f"val {val:.4f}, pruned at {share:.0%} of run {len(vals) + 1}")

        try:
            for seed in self.seeds:
                vals.append(val_loss({**self.common, **values, "seed": seed}, report))
            end = f"val {sum(vals) / len(vals):.4f}"
            return sum(vals) / len(vals)
        except (DataError, ModelFileError):  # the fault of a file, not of the trial's values
            self.put_back(trial)
            raise
        except (optuna.TrialPruned, DivergedError, UsageError) as error:
            end = str(error)
            raise optuna.TrialPruned(end) from error
        except Interrupted:
            self.put_back(trial)
            trial.study.tell(trial.number, state=TrialState.FAIL)
            raise
        finally:
            end += "; " + " ".join(f"{name} {value}" for name, value in values.items())
            say(f"trial {trial.number:3d}: {end}; {time.perf_counter() - started:.1f} s")

    @staticmethod
    def put_back(trial: optuna.Trial) -> None:
        """Let the next process do a trial again, the first trial with the default settings too."""
        trial.study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)

    def best_flags(self, study: optuna.Study) -> str:
        """The best trial as a command line, with its val loss and that of the default settings."""
        done = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        if not done:
            return "no trial was completed: try other ranges"
        best, words = study.best_trial, ["makemore-train"]
        found = {name: suggest(best, name, values) for name, values in self.ranges.items()}
        for name, value in {**self.common, **found}.items():
            texts = value if isinstance(value, tuple) else [] if value is True else [value]
            words += [flag(name), *map(str, texts)]
        default = [f", of the defaults {t.value:.4f}" for t in done if t.user_attrs.get("defaults")]
        vals = f"{best.value:.4f}{''.join(default[:1])}"
        return f"best val of {len(done)} completed trials: {vals}\n{' '.join(map(quoted, words))}"


def do_trials(study: optuna.Study, storage: RDBStorage, objective: Objective, trials: int) -> None:
    """Do trials until all processes together have done enough, and no killed trial waits to be repeated."""
    while True:
        optuna.storages.fail_stale_trials(study)
        with storage.engine.connect() as connection:
            alive = {row[0] for row in connection.execute(text("SELECT trial_id FROM trial_heartbeats"))}
        states, now = list[TrialState](), datetime.now()
        for trial in study.get_trials(deepcopy=False):
            states.append(trial.state)
            age = (now - (trial.datetime_start or now)).total_seconds()
            if trial.state == TrialState.RUNNING and trial._trial_id not in alive and age > GRACE:
                study.tell(trial.number, state=TrialState.FAIL)  # killed before its first heartbeat
        done = states.count(TrialState.COMPLETE) + states.count(TrialState.PRUNED)
        if done >= trials and TrialState.WAITING not in states:
            return
        study.optimize(objective, n_trials=1)


@contextmanager
def open_study(address: str, name: str, runs: dict[str, Any]) -> Iterator[tuple[optuna.Study, RDBStorage]]:
    """A study, new or continued, and its database, for a ``with`` block.

    ``runs`` describes the study's runs. Raises UsageError if the study was begun with others, and on any
    error of the database, also within the block.
    """
    heartbeats: Any = {"heartbeat_interval": HEARTBEAT, "grace_period": GRACE}
    heartbeats["heartbeat_stale_trial_callback"] = RetryHeartbeatStaleTrialCallback(max_retry=2)
    wanted: Any = {"study_name": name, "load_if_exists": True}
    wanted["pruner"] = optuna.pruners.MedianPruner(UNPRUNED_TRIALS, UNPRUNED_PERCENT)
    storage: RDBStorage | None = None
    try:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                storage = RDBStorage(address, **heartbeats)
                study = optuna.create_study(storage=storage, **wanted)
                break
            except DATABASE_ERRORS:
                if attempt == ATTEMPTS:
                    raise
                time.sleep(attempt / 2)
        assert storage is not None
        before = study.user_attrs.get("runs", runs)
        if before != runs:
            differ = ", ".join(key for key in runs if before.get(key) != runs[key])
            raise UsageError(
                f"the study {name} was begun with other {differ}: give the same, or another --study"
            )
        study.set_user_attr("runs", runs)
        yield study, storage
    except ImportError as error:
        missing = getattr(error.__cause__, "name", None) or error.name
        package = {"psycopg": "psycopg[binary]"}.get(missing or "", missing)
        raise UsageError(
            f'the study\'s database needs the package {missing}: pip install "{package}"'
        ) from error
    except DATABASE_ERRORS as error:
        reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
        raise UsageError(f"the study's database: {reason}") from error
    finally:
        if storage is not None:
            storage.remove_session()
            storage.engine.dispose()
