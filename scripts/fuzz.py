"""Run the property tests of the commands on many more cases than the tests do, other ones every time.

    python scripts/fuzz.py --cases 20000

Prints how many cases each test ran, counted one by one, how they ended and what the slowest one took;
what went wrong is shown by pytest above that, with the smallest case that does it. Exits with 1 if a test
failed. A seed repeats a run.
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

TESTS = Path(__file__).resolve().parent.parent / "tests" / "commands" / "test_properties.py"


class Failures:
    """Counts the failed tests, as a plugin of pytest."""

    def __init__(self) -> None:
        self.count = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.count += report.failed


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tests and print the summary; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", type=int, default=20_000, metavar="N", help="at least (default: 20,000)")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), metavar="N")
    args = parser.parse_args(argv)

    os.environ["MAKEMORE_FUZZ_CASES"] = str(args.cases)
    failures, started = Failures(), time.perf_counter()
    pytest.main(["-q", "-p", "no:cacheprovider", f"--hypothesis-seed={args.seed}", str(TESTS)], [failures])
    seconds = time.perf_counter() - started

    tests = sys.modules.get(TESTS.stem)
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
