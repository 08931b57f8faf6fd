"""The networks of a run in a browser: each step's probabilities, the slider, and Play."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pages import (
    SET,
    WIDTHS,
    assert_fits,
    checked_by_axe,
    labels_of,
    log_probs,
    model_of,
    texts,
    until,
    violations,
    write,
)

from makemore import Model, page_html
from makemore.run.frames import Frame

pytestmark = pytest.mark.full

PICTURES = "return [...document.querySelectorAll('canvas')].map((c) => c.toDataURL())"
"""The pictures of the nodes."""


def frames_of(model: Model, number: int) -> list[Frame]:
    """Networks of the same kind whose weights are smaller the earlier they are.

    Step 0 has tiny ones, and the running statistics that BatchNorm starts with.
    """
    frames = []
    for i in range(number):
        network = copy.deepcopy(model.network)
        with torch.no_grad():
            for p in network.parameters():
                p.mul_(i / number + 1e-6)
            for name, values in network.state_dict().items():
                if i == 0 and name.endswith("running_mean"):
                    values.zero_()
        frames.append(Frame(100 * i, network, 3.0 - i, 2.5 if i % 2 else None))
    return frames


def written(path: Path, model: Model, frames: list[Frame]) -> Path:
    path.write_text(page_html(model, frames=frames), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["wavenet", "hierarchical-bug"])
def test_the_slider_swaps_the_network(name: str, open_page: Any, tmp_path: Path) -> None:
    model = model_of("abcde", name)
    frames = frames_of(model, 4)
    page = open_page(written(tmp_path / "page.html", model, frames))
    write(page, "abc")
    pictures = set()
    for i in (3, 0, 1, 2):
        page.execute_script(SET, "frame", i)
        told = page.execute_script("return Object.values(makemore.probabilities('abc'))")
        expected = log_probs(replace(model, network=frames[i].network), "abc")[-1].exp().tolist()
        assert told == pytest.approx(expected, abs=1e-6 if i == 3 else 3e-3)
        shown = texts(page, "#next .how")
        assert shown[-1] == f"{100 * told[0]:.1f} %"
        pictures.add(tuple(page.execute_script(PICTURES)))
        assert texts(page, "#frame-is")[0].startswith(f"Step {100 * i} of 300; ")
        assert ("not evaluated" in texts(page, "#frame-is")[0]) == (frames[i].val is None)
    assert len(pictures) == 4


def test_only_one_button_plays(open_page: Any, tmp_path: Path) -> None:
    model = model_of("abcde", labels=labels_of({"kind": ["A", "B", "C"]}, {(1,): 2, (2,): 1, (3,): 1}))
    page = open_page(written(tmp_path / "page.html", model, frames_of(model, 3)))
    write(page, "abc")
    press = "document.getElementById(arguments[0]).click()"
    pressed = "return ['play', 'play-frames'].map((id) => document.getElementById(id).ariaPressed)"
    page.execute_script(press, "play-frames")
    assert page.execute_script(pressed) == ["false", "true"]
    assert texts(page, "#frame-is")[0].startswith("Step 0 of 200")
    page.execute_script(press, "play")
    assert page.execute_script(pressed) == ["true", "false"]
    page.execute_script(press, "play-frames")
    page.execute_async_script(until("document.getElementById('play-frames').ariaPressed === 'false'"))
    assert texts(page, "#frame-is")[0].startswith("Step 200 of 200")


def test_the_points_of_labels_are_those_of_each_step(open_page: Any, tmp_path: Path) -> None:
    model = model_of("abc", labels=labels_of({"kind": [*"ABCD"]}, {(i,): 1 for i in range(1, 5)}))
    page = open_page(written(tmp_path / "page.html", model, frames_of(model, 4)))
    places_of = (
        "return [...document.querySelectorAll('#points circle')].sort((a, b) =>"
        " a.textContent < b.textContent ? -1 : 1).map((e) => [e.cx.baseVal.value, e.cy.baseVal.value])"
    )
    places = []
    for i in (0, 2, 3):
        page.execute_script(SET, "frame", i)
        assert "in the two directions of largest variance at the last step" in texts(page, "#points-is")[0]
        places.append(torch.tensor(page.execute_script(places_of)))
    first, third, last = places
    middle = first.mean(0)
    assert (first - middle).abs().max() < 0.1, "the labels of step 0 differ by hardly anything"
    # The weights of frame i are i / 4 times the model's.
    torch.testing.assert_close((third - middle) / (2 / 4), (last - middle) / (3 / 4), atol=0.1, rtol=0)
    assert (last - middle).abs().max() > 30


@pytest.mark.parametrize("dark", [False, True])
def test_every_width_and_accessibility(dark: bool, axe: str, open_page: Any, tmp_path: Path) -> None:
    model = model_of("abcdefgh")
    page = open_page(written(tmp_path / "page.html", model, frames_of(model, 3)), WIDTHS[0], dark)
    for width in WIDTHS:
        assert_fits(page, width)
    assert violations(checked_by_axe(page, axe)) == []
