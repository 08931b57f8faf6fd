"""Search for the best flags of makemore-train with Optuna: many runs instead of one.

    python scripts/search.py --search lr=0.005:0.05:log --search n_hidden=64:256:64 \\
        --search targets=soft,hard --trials 60 --seeds 1 2 -- --data words.txt

A knob of the recipe or the network is searched over a range, LOW:HIGH, in steps, LOW:HIGH:STEP, or on a
logarithmic scale, LOW:HIGH:log; or over some values, A,B,C. Behind -- stand flags of makemore-train that all
runs have. The first trial has the defaults. A trial is one run for each seed, its value the mean of the val
losses they end with; one that is behind the others at an evaluation is given up.

The study lies in OUT_DIR/study.db, or in the database of --storage, postgresql+psycopg://user@host/name say.
Any number of processes that reach it work on it at once: start the same command again, on any machine. It
goes on after a kill too: a trial that was under way is missed by its heartbeat, and done again. At the end:
Optuna's pictures in OUT_DIR, and the best flags. Needs the extra: pip install "makemore-wavenet[search]"
"""

from __future__ import annotations

import argparse
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
    print('search.py: this needs Optuna: pip install "makemore-wavenet[search]"', file=sys.stderr)
    sys.exit(2)
from matplotlib import pyplot
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from makemore.commands.cli import Parser, answer, given, train_parser
from makemore.commands.guards import make_directory
from makemore.commands.settings import NETWORK, RECIPES, RUN, checked, flag, flags
from makemore.commands.train import new_job
from makemore.errors import DivergedError, UsageError
from makemore.networks import network_plan
from makemore.parallel.processes import Processes
from makemore.training import Run

HEARTBEAT, GRACE = 10, 60
"""Seconds from one sign of life of a trial to the next, and without any until it counts as dead."""

DATABASE_ERRORS, ATTEMPTS = (SQLAlchemyError, optuna.exceptions.OptunaError), 5
"""What a database raises, and how often it is tried: another process may just be making its tables."""

FIRST_ONES, FIRST_SHARE = 8, 30
"""Trials that are never given up, and the percentage of its steps that every run may do."""

PICTURES = "optimization_history intermediate_values slice param_importances parallel_coordinate timeline"


def parse_range(asked: str, recipe: str) -> tuple[str, BaseDistribution]:
    """The knob and the range of a ``--search``. Raises UsageError on a knob or values that cannot be."""
    knobs = RECIPES[recipe][0].knobs() | {name: knob for name, knob in RUN.items() if knob.group == NETWORK}
    name, _, values = asked.partition("=")
    name = name.strip().removeprefix("--").replace("-", "_")
    if name not in knobs:
        raise UsageError(f"--search {asked}: there is no knob {name!r} to search, but {', '.join(knobs)}")
    knob, parts = knobs[name], values.split(":")
    number, log = knob.kind is not str and len(parts) > 1, parts[2:] == ["log"]
    try:
        if len(parts) > 3:
            raise ValueError
        bounds = [knob.kind(part) for part in (parts[: 2 if log else 3] if number else values.split(","))]
    except ValueError:
        how = "A,B,C" if knob.kind is str else "LOW:HIGH, LOW:HIGH:STEP, LOW:HIGH:log or A,B,C"
        raise UsageError(f"--search {asked}: give {name}={how}") from None
    for value in bounds[:2] if number else bounds:
        knob.check(value)
        if name == "network":
            network_plan(value)
    try:
        kind: Any = IntDistribution if knob.kind is int else FloatDistribution
        step = {"step": bounds[2]} if bounds[2:] else {}
        choices = [*dict.fromkeys(bounds)]
        found = kind(*bounds[:2], log=log, **step) if number else CategoricalDistribution(choices)
        if found.single():
            raise ValueError("that is one value")
    except ValueError as error:
        raise UsageError(f"--search {asked}: {' '.join(str(error).split())}") from error
    return name, found


def suggested(trial: optuna.trial.BaseTrial, name: str, values: Any) -> Any:
    """The value of a knob that a trial is to try."""
    if isinstance(values, CategoricalDistribution):
        return trial.suggest_categorical(name, values.choices)
    suggest: Any = trial.suggest_int if isinstance(values, IntDistribution) else trial.suggest_float
    value = suggest(name, values.low, values.high, step=values.step, log=values.log)
    return float(f"{value:.3g}") if isinstance(value, float) else value  # so that it can be told in a flag


def val_loss(settings: Mapping[str, Any], report: Callable[[float, float], None]) -> float:
    """The val loss that makemore-train ends with; ``report`` gets the share of steps done, and that there.

    Raises UsageError on settings that no run can have, DivergedError.
    """
    with tempfile.TemporaryDirectory() as directory:  # for the teachers
        job = new_job(settings, Path(directory), Processes())
        trainer, (run, recipe) = job.trainer, job.settings
        trainer.prepare(Run(job.out_dir, job.model.plan, job.words.fingerprint, run.seed))

        def evaluated() -> float:
            val = trainer.evaluate("val").val
            if val is None or not math.isfinite(val):
                raise DivergedError(trainer.step, f"the val loss is {val}")
            return val

        assert run.eval_every is not None
        for _ in trainer.run(run.eval_every):
            if trainer.step % run.eval_every == 0 and trainer.step < recipe.steps:
                report(trainer.step / recipe.steps, evaluated())
        trainer.finish()
        return evaluated()


class Objective:
    """What a trial comes to: the mean val loss of runs with the ``common`` flags, one for each seed."""

    def __init__(self, ranges: dict[str, BaseDistribution], common: Mapping[str, Any], seeds: Sequence[int]):
        self.ranges, self.common, self.seeds = ranges, common, seeds

    def __call__(self, trial: optuna.Trial) -> float:
        values = {name: suggested(trial, name, values) for name, values in self.ranges.items()}
        started, end, vals = time.perf_counter(), "stopped", list[float]()

        def report(share: float, val: float) -> None:
            trial.report(val, 100 * len(vals) + round(100 * share))
            if trial.should_prune():
                raise optuna.TrialPruned(f"val {val:.4f}, given up at {share:.0%} of run {len(vals) + 1}")

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
        """The flags of the best trial as a command line, with its val loss and that of the defaults."""
        done = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        if not done:
            return "no trial came to its end: other ranges may help"
        best, words = study.best_trial, ["makemore-train"]
        found = {name: suggested(best, name, values) for name, values in self.ranges.items()}
        for name, value in {**self.common, **found}.items():
            words += [flag(name)] if value is True else [flag(name), str(value)]
        default = [f", of the defaults {t.value:.4f}" for t in done if t.user_attrs.get("defaults")]
        vals = f"{best.value:.4f}{''.join(default[:1])}"
        return f"best val of {len(done)} whole trials: {vals}\n{shlex.join(words)}"


def work(study: optuna.Study, storage: RDBStorage, objective: Objective, trials: int) -> None:
    """Do trials until the study has so many, those of all processes, and none waits to be done again."""
    while True:
        optuna.storages.fail_stale_trials(study)
        with storage.engine.connect() as connection:
            seen = {row[0] for row in connection.execute(text("SELECT trial_id FROM trial_heartbeats"))}
        states, now = list[TrialState](), datetime.now()
        for trial in study.get_trials(deepcopy=False):
            states.append(trial.state)
            age = (now - (trial.datetime_start or now)).total_seconds()
            if trial.state == TrialState.RUNNING and trial._trial_id not in seen and age > GRACE:
                study.tell(trial.number, state=TrialState.FAIL)  # killed before its first sign of life
        done = states.count(TrialState.COMPLETE) + states.count(TrialState.PRUNED)
        if done >= trials and TrialState.WAITING not in states:
            return
        study.optimize(objective, n_trials=1)


def draw(study: optuna.Study, out_dir: Path) -> list[str]:
    """Write Optuna's pictures; one that the trials are too few for is left out."""
    written = []
    for name in PICTURES.split():
        with suppress(RuntimeError, ValueError):
            axes = getattr(optuna.visualization.matplotlib, f"plot_{name}")(study)
            panels = [*getattr(axes, "flat", [axes])]
            panels[0].figure.set_size_inches(max(10, 3 * len(panels)), 6)
            panels[0].figure.savefig(out_dir / f"{name}.png", dpi=110, bbox_inches="tight")
            pyplot.close(panels[0].figure)
            written.append(str(out_dir / f"{name}.png"))
    return written


@contextmanager
def opened(address: str, name: str, told: dict[str, Any]) -> Iterator[tuple[optuna.Study, RDBStorage]]:
    """The study of that name, new or gone on with, and its database, which is closed behind the block.

    Raises UsageError if the database fails, in the block too, or the study's runs are others than ``told``.
    """
    beating: Any = {"heartbeat_interval": HEARTBEAT, "grace_period": GRACE}
    beating["heartbeat_stale_trial_callback"] = RetryHeartbeatStaleTrialCallback(max_retry=2)
    wanted: Any = {"study_name": name, "load_if_exists": True}
    wanted["pruner"] = optuna.pruners.MedianPruner(FIRST_ONES, FIRST_SHARE)
    storage = None
    try:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                storage = RDBStorage(address, **beating)
                study = optuna.create_study(storage=storage, **wanted)
                break
            except DATABASE_ERRORS:
                if attempt == ATTEMPTS:
                    raise
                time.sleep(attempt / 2)
        before = study.user_attrs.get("runs", told)
        if before != told:
            differ = ", ".join(key for key in told if before.get(key) != told[key])
            begun = f"the study {name} was begun with other {differ}"
            raise UsageError(f"{begun}: give the same, or another --study")
        study.set_user_attr("runs", told)
        yield study, storage
    except (*DATABASE_ERRORS, ImportError) as error:
        reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
        raise UsageError(f"the study's database: {reason}") from error
    finally:
        if storage is not None:
            storage.remove_session()
            storage.engine.dispose()


def search(args: argparse.Namespace, theirs: Sequence[str]) -> None:
    """Work on the study that the flags describe, then print and draw what is known. Raises UsageError."""
    runs = train_parser().parse(theirs)
    common = given(runs, flags())
    if runs.resume or runs.overwrite or runs.out_dir != Path("out"):
        raise UsageError("a search keeps no run: leave out --out-dir, --resume and --overwrite")
    if "seed" in common or common.get("data") == "-":
        raise UsageError("a search has --seeds and reads its list often: leave out --seed and --data -")
    for seed in args.seeds:
        RUN["seed"].check(seed)
    recipe = checked(common).recipe
    ranges = dict(parse_range(one, recipe) for one in args.search)
    if len(ranges) < len(args.search) or ranges.keys() & common:
        raise UsageError("a knob is given twice: by --search, or by --search and behind --")
    make_directory(args.out_dir)
    job = new_job(common, args.out_dir, Processes())
    told = {
        "knobs": {name: optuna.distributions.distribution_to_json(d) for name, d in ranges.items()},
        "flags": {name: value for name, value in common.items() if name != "data"},
        "words": job.words.fingerprint,
        "seeds": args.seeds,
    }
    settings = {**asdict(job.settings.run), **asdict(job.settings.recipe)}
    defaults = {name: settings[name] for name in ranges}
    objective, place = Objective(ranges, common, args.seeds), args.out_dir / "study.db"
    with opened(args.storage or f"sqlite:///{place}", args.study, told) as (study, storage):
        try:
            optuna.trial.create_trial(params=defaults, distributions=ranges, value=0.0)
            study.enqueue_trial(defaults, user_attrs={"defaults": True}, skip_if_exists=True)
        except ValueError:
            print(f"the ranges leave out the defaults, which are not tried: {defaults}")
        work(study, storage, objective, args.trials)
        print(objective.best_flags(study))
        print(f"wrote {', '.join(draw(study, args.out_dir)) or 'no pictures: the trials are too few'}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    argv = list(sys.argv[1:] if argv is None else argv)
    end = argv.index("--") if "--" in argv else len(argv)
    first, _, rest = (__doc__ or "").partition("\n")
    parser = Parser("search.py", first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.usage = "search.py --search NAME=RANGE [--search ...] [flags] [-- flags of makemore-train]"
    add = parser.add_argument
    add("--search", action="append", required=True, metavar="NAME=RANGE", help="a knob and its range")
    add("--trials", type=int, default=50, metavar="N", help="of the whole study (default: %(default)s)")
    add("--seeds", type=int, nargs="+", default=[1], metavar="N", help="of a trial's runs (default: 1)")
    add("--out-dir", type=Path, default=Path("search"), metavar="DIR", help="default: %(default)s")
    add("--storage", metavar="ADDRESS", help="the study's database (default: sqlite:///OUT_DIR/study.db)")
    add("--study", default="makemore", metavar="NAME", help="its name there (default: %(default)s)")
    args = parser.parse_args(argv[:end])
    pyplot.switch_backend("Agg")
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna's pictures and heartbeats count as experimental
        return answer("search.py", f"{__name__}:search", args, argv[end + 1 :])


if __name__ == "__main__":
    sys.exit(main())
