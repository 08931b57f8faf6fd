"""A headless browser, if one is installed, and pages in it."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import SAMPLED, SEEDED, resize

from makemore.commands.cli import page_main

AXE_VARIABLE = "MAKEMORE_AXE"
"""The variable with the path of the archive from ``npm pack axe-core``, for the accessibility test."""


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium, driven by Selenium. Both must be installed: nothing is downloaded for a test."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no browser found: install chromium and its chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    profile = tmp_path_factory.mktemp("profile")
    quiet = "headless=new disable-gpu disable-quic no-first-run hide-scrollbars disable-sync".split()
    quiet += ["disable-background-networking", "disable-component-update", f"user-data-dir={profile}"]
    quiet.append("no-sandbox")  # Chromium has no sandbox for root, nor in every container; the pages are ours
    for flag in quiet:
        options.add_argument(f"--{flag}")
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    chrome.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": SEEDED})
    yield chrome
    chrome.quit()


@pytest.fixture(scope="session")
def bundled_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the bundled network."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)
        assert page_main([str(path)]) == 0
    return path


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    """A function that opens a page in a window of some width, light or dark; no page may log an error.

    With ``wait`` it waits until the page has sampled its first words.
    """

    def opened(
        path: Path, width: int = 1280, dark: bool = False, calm: bool = True, wait: bool = True
    ) -> Any:
        resize(browser, width)
        media = {
            "prefers-color-scheme": "dark" if dark else "light",
            "prefers-reduced-motion": "reduce" if calm else "no-preference",
        }
        features = [{"name": name, "value": value} for name, value in media.items()]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.get(path.as_uri())
        if wait:
            browser.execute_async_script(SAMPLED)
        return browser

    browser.get_log("browser")
    yield opened
    assert browser.get_log("browser") == []


@pytest.fixture(scope="session")
def axe() -> str:
    """The script of axe-core."""
    if not os.environ.get(AXE_VARIABLE):
        pytest.skip(f"axe-core not found: run npm pack axe-core and set {AXE_VARIABLE} to its path")
    with tarfile.open(os.environ[AXE_VARIABLE]) as archive:
        script = archive.extractfile("package/axe.min.js")
        assert script is not None
        return script.read().decode()
