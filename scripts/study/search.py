"""Search for the best settings of makemore-train with Optuna: many training runs instead of one.

    python scripts/study/search.py --search lr=0.005:0.05:log --search n_hidden=64:256:64 \\
        --search targets=soft,hard --trials 60 --seeds 1 2 -- --data words.txt

A setting of the recipe or the network is searched in a range, LOW:HIGH, in steps, LOW:HIGH:STEP, on a
logarithmic scale, LOW:HIGH:log, or among values, A,B,C. After -- come flags of makemore-train for all runs.
The first trial has the default settings. A trial does one run for each seed, and its value is the mean of
their final val losses. A trial that is worse than the median of the others at an evaluation is pruned.

The study is stored in OUT_DIR/study.db, or in the database of --storage, for example
postgresql+psycopg://user@host/name. Any number of processes can work on one study at the same time: start
the same command again, on any machine that reaches the database. A killed process can be started again,
too: its trial has no heartbeat any more and is done again. At the end Optuna's pictures are written to
OUT_DIR, and the best flags are printed. In a clone, pip install ".[search]" installs what this needs.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

try:
    import optuna
except ImportError:
    print('search.py: this needs Optuna: pip install ".[search]"', file=sys.stderr)
    sys.exit(2)
from matplotlib import pyplot
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from makemore.commands.cli import Parser, answer, given, train_parser
from makemore.core.errors import DivergedError, UsageError
from makemore.run.catalog import RECIPES, network_plan
from makemore.run.lock import make_directory
from makemore.run.settings import NETWORK, RUN, checked, flag, flags
from makemore.run.training_run import new_run
from makemore.training.processes import ONE_PROCESS

HEARTBEAT, GRACE = 10, 60
"""Seconds between two heartbeats of a trial, and seconds without one after which the trial counts as dead."""

DATABASE_ERRORS, ATTEMPTS = (SQLAlchemyError, optuna.exceptions.OptunaError), 5
"""Errors of a database, and the number of attempts: another process may be creating its tables right now."""

UNPRUNED_TRIALS, UNPRUNED_PERCENT = 8, 30
"""The number of first trials that are never pruned, and the part of its steps that every run may do."""

PICTURES = (
    "optimization_history",
    "intermediate_values",
    "slice",
    "param_importances",
    "parallel_coordinate",
    "timeline",
)
"""The pictures of ``optuna.visualization``."""


def parse_range(asked: str, recipe: str) -> tuple[str, BaseDistribution]:
    """The setting and the range of a ``--search``. Raises UsageError if there is no such setting or range."""
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
    """The value of a trial: the mean val loss of runs with the ``common`` settings, one for each seed."""

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
        except (optuna.TrialPruned, DivergedError, UsageError) as error:
            end = str(error)
            raise optuna.TrialPruned(end) from error
        finally:
            end += "; " + " ".join(f"{name} {value}" for name, value in values.items())
            print(f"trial {trial.number:3d}: {end}; {time.perf_counter() - started:.1f} s", flush=True)

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
        return f"best val of {len(done)} completed trials: {vals}\n{shlex.join(words)}"


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


def draw(study: optuna.Study, out_dir: Path) -> list[str]:
    """Write Optuna's pictures, except those that need more trials; returns their paths."""
    written = []
    for name in PICTURES:
        with suppress(RuntimeError, ValueError):
            axes = getattr(optuna.visualization.matplotlib, f"plot_{name}")(study)
            panels = [*getattr(axes, "flat", [axes])]
            panels[0].figure.set_size_inches(max(10, 3 * len(panels)), 6)
            panels[0].figure.savefig(out_dir / f"{name}.png", dpi=110, bbox_inches="tight")
            pyplot.close(panels[0].figure)
            written.append(str(out_dir / f"{name}.png"))
    return written


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
    except (*DATABASE_ERRORS, ImportError) as error:
        reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
        raise UsageError(f"the study's database: {reason}") from error
    finally:
        if storage is not None:
            storage.remove_session()
            storage.engine.dispose()


def search(args: argparse.Namespace, train_flags: Sequence[str]) -> None:
    """Work on the study that the flags describe, then print and draw its results. Raises UsageError."""
    parsed = train_parser().parse(train_flags)
    common = given(parsed, flags())
    if parsed.resume or parsed.overwrite or parsed.out_dir != Path("out"):
        raise UsageError("a search keeps no runs: leave out --out-dir, --resume and --overwrite")
    if "seed" in common or "-" in (common.get("data") or ()):
        raise UsageError("a search has --seeds and reads its list many times: leave out --seed and --data -")
    for seed in args.seeds:
        RUN["seed"].check(seed)
    recipe = checked(common).recipe
    ranges = dict(parse_range(asked, recipe) for asked in args.search)
    if len(ranges) < len(args.search) or ranges.keys() & common:
        raise UsageError("a setting is given twice: by --search, or by --search and after --")
    make_directory(args.out_dir)
    training_run = new_run(common, args.out_dir, ONE_PROCESS)
    runs = {
        "ranges": {name: optuna.distributions.distribution_to_json(d) for name, d in ranges.items()},
        "flags": json.loads(json.dumps({name: value for name, value in common.items() if name != "data"})),
        "words": training_run.words.fingerprint,
        "seeds": args.seeds,
    }
    settings = {**asdict(training_run.settings.run), **asdict(training_run.settings.recipe)}
    defaults = {name: settings[name] for name in ranges}
    objective, database = Objective(ranges, common, args.seeds), args.out_dir / "study.db"
    with open_study(args.storage or f"sqlite:///{database}", args.study, runs) as (study, storage):
        try:
            optuna.trial.create_trial(params=defaults, distributions=ranges, value=0.0)
            study.enqueue_trial(defaults, user_attrs={"defaults": True}, skip_if_exists=True)
        except ValueError:
            print(f"the default settings are not in the ranges and are not tried: {defaults}")
        do_trials(study, storage, objective, args.trials)
        print(objective.best_flags(study))
        print(f"wrote {', '.join(draw(study, args.out_dir)) or 'no pictures: they need more trials'}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    argv = list(sys.argv[1:] if argv is None else argv)
    end = argv.index("--") if "--" in argv else len(argv)
    first, _, rest = (__doc__ or "").partition("\n")
    parser = Parser("search.py", first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.usage = "search.py --search NAME=RANGE [--search ...] [flags] [-- flags of makemore-train]"
    add = parser.add_argument
    add("--search", action="append", required=True, metavar="NAME=RANGE", help="a setting and its range")
    add("--trials", type=int, default=50, metavar="N", help="trials of the study (default: %(default)s)")
    add("--seeds", type=int, nargs="+", default=[1], metavar="N", help="seeds of a trial's runs (default: 1)")
    add("--out-dir", type=Path, default=Path("search"), metavar="DIR", help="default: %(default)s")
    add("--storage", metavar="ADDRESS", help="database of the study (default: sqlite:///OUT_DIR/study.db)")
    add("--study", default="makemore", metavar="NAME", help="name of the study (default: %(default)s)")
    args = parser.parse_args(argv[:end])
    pyplot.switch_backend("Agg")
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna's pictures and heartbeats are marked experimental
        return answer("search.py", f"{__name__}:search", args, argv[end + 1 :])


if __name__ == "__main__":
    sys.exit(main())
