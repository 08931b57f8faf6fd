"""The networks of a run in a browser: each step's probabilities, the slider, and Play."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pages import (
    SET,
    STICKS_OUT,
    WIDTHS,
    checked_by_axe,
    labels_of,
    model_of,
    resize,
    texts,
    violations,
    write,
)

from makemore import Model, page_html
from makemore.core.layer import Layer
from makemore.run.frames import Frame

pytestmark = pytest.mark.full

PICTURES = "return [...document.querySelectorAll('canvas')].map((c) => c.toDataURL())"
"""The pictures of the nodes."""


def frames_of(model: Model, number: int) -> list[Frame]:
    """Networks of the same kind whose weights are smaller the earlier they are; step 0 has tiny ones."""
    frames = []
    for i in range(number):
        network: Layer = model_of(model.vocabulary.characters, labels=model.labels).network
        with torch.no_grad():
            for p in network.parameters():
                p.mul_(i / number + 1e-6)
        frames.append(Frame(100 * i, network, 3.0 - i, 2.5 if i % 2 else None))
    return frames


def probabilities(network: Layer, context: list[int]) -> list[float]:
    with network.evaluating():
        return torch.softmax(network(torch.tensor([context])).double(), dim=1)[0].tolist()


def test_the_slider_swaps_the_network(open_page: Any, tmp_path: Path) -> None:
    model = model_of("abcde")
    frames = frames_of(model, 4)
    path = tmp_path / "page.html"
    path.write_text(page_html(model, frames=frames), encoding="utf-8")
    page = open_page(path)
    write(page, "abc")
    pictures = set()
    for i in (3, 0, 1, 2):
        page.execute_script(SET, "frame", i)
        told = page.execute_script("return Object.values(makemore.probabilities('abc'))")
        context = [0] * (model.block_size - 3) + model.vocabulary.encode("abc")
        expected = probabilities(frames[i].network, context)
        assert told == pytest.approx(expected, abs=1e-6 if i == 3 else 3e-3)
        shown = texts(page, "#next .how")
        assert shown[-1] == f"{100 * told[0]:.1f} %"
        pictures.add(tuple(page.execute_script(PICTURES)))
        assert texts(page, "#frame-is")[0].startswith(f"Step {100 * i} of 300; ")
        assert ("not evaluated" in texts(page, "#frame-is")[0]) == (frames[i].val is None)
    assert len(pictures) == 4


def test_only_one_button_plays(open_page: Any, tmp_path: Path) -> None:
    model = model_of("abcde", labels=labels_of({"kind": ["A", "B", "C"]}, {(1,): 2, (2,): 1, (3,): 1}))
    path = tmp_path / "page.html"
    path.write_text(page_html(model, frames=frames_of(model, 3)), encoding="utf-8")
    page = open_page(path)
    write(page, "abc")
    press = "document.getElementById(arguments[0]).click()"
    pressed = "return ['play', 'play-frames'].map((id) => document.getElementById(id).ariaPressed)"
    page.execute_script(press, "play-frames")
    assert page.execute_script(pressed) == ["false", "true"]
    assert texts(page, "#frame-is")[0].startswith("Step 0 of 200")
    page.execute_script(press, "play")
    assert page.execute_script(pressed) == ["true", "false"]
    page.execute_script(press, "play-frames")
    ended = (
        "const done = arguments[0]; const look = () =>"
        " document.getElementById('play-frames').ariaPressed === 'false' ? done() : setTimeout(look, 20);"
        "look()"
    )
    page.execute_async_script(ended)
    assert texts(page, "#frame-is")[0].startswith("Step 200 of 200")


@pytest.mark.parametrize("dark", [False, True])
def test_every_width_and_accessibility(dark: bool, axe: str, open_page: Any, tmp_path: Path) -> None:
    model = model_of("abcdefgh")
    path = tmp_path / "page.html"
    path.write_text(page_html(model, frames=frames_of(model, 3)), encoding="utf-8")
    page = open_page(path, WIDTHS[0], dark)
    for width in WIDTHS:
        resize(page, width)
        assert page.execute_script("return document.documentElement.scrollWidth") == width
        assert page.execute_script(STICKS_OUT) == []
    assert violations(checked_by_axe(page, axe)) == []
