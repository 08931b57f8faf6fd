"""Run the property tests of the commands on many more cases than pytest does, on new ones each time.

    python scripts/reliability/fuzz.py --cases 20000

Prints for each test how many cases it ran, how they ended and how long the slowest one took. pytest's
report comes before that; for a failed test it has the smallest case that fails. Exits with 1 if a test
failed. The same seed gives the same cases.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[2] / "tests" / "commands" / "test_properties.py"


class FailureCounter:
    """A pytest plugin that counts the failed tests."""

    def __init__(self) -> None:
        self.count = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.count += report.failed


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tests and print the summary; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--cases", type=int, default=20_000, metavar="N", help="cases to run at least (default: 20,000)"
    )
    parser.add_argument(
        "--seed", type=int, default=random.randrange(2**32), metavar="N", help="default: random"
    )
    args = parser.parse_args(argv)

    os.environ["MAKEMORE_FUZZ_CASES"] = str(args.cases)
    failures, started = FailureCounter(), time.perf_counter()
    flags = ["-q", "-m", "", "-p", "no:cacheprovider", f"--hypothesis-seed={args.seed}"]
    pytest.main([*flags, str(TESTS)], [failures])
    seconds = time.perf_counter() - started

    tests = next((m for name, m in sys.modules.items() if name.rpartition(".")[2] == TESTS.stem), None)
    if tests is None:
        return 1
    print(f"\n{'cases':>7} {'exit 0':>7} {'exit 1':>7} {'exit 2':>7}  slowest")
    rows = {**tests.CODES, "total": sum(tests.CODES.values(), tests.Counter())}
    slowest = {**tests.SLOWEST, "total": max(tests.SLOWEST.values(), default=0.0)}
    for name, codes in rows.items():
        counts = " ".join(f"{n:>7,}" for n in (codes.total(), codes[0], codes[1], codes[2]))
        print(f"{counts} {slowest[name]:>6.2f} s  {name}")
    print(f"{seconds:.0f} s, seed {args.seed}, failed tests: {failures.count}")
    return int(failures.count > 0 or rows["total"].total() < args.cases)


if __name__ == "__main__":
    sys.exit(main())
