"""A pytest plugin: a test that passed in one environment is not run again in another one, on the same code.

With ``--record-passed FILE`` the names of the tests that pass are added to a file. With ``--leave-out FILE``
all other tests run: those that failed, were skipped or did not run.

    PYTHONPATH=.ci pytest -p passed_before --record-passed FILE
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record-passed", type=Path, metavar="FILE")
    parser.addoption("--leave-out", type=Path, metavar="FILE")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    path = config.getoption("leave_out")
    if path is not None and path.exists():
        passed = set(path.read_text(encoding="utf-8").splitlines())
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in passed])
        items[:] = [item for item in items if item.nodeid not in passed]


class Recorder:
    """Writes the name of each test that passes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(report.nodeid + "\n")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("record_passed")
    if path is not None and "PYTEST_XDIST_WORKER" not in os.environ:  # the main process has all reports
        config.pluginmanager.register(Recorder(path))
