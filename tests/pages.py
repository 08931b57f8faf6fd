"""Helpers for the tests of the page: untrained models of any vocabulary, waiting, window sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from makemore.core.layer import LabelColumn, Layer
from makemore.data.labels import Labels
from makemore.lecture.layers import Sequential
from makemore.lecture.words import Vocabulary
from makemore.page.building import page_html
from makemore.run.catalog import build_network, network_plan
from makemore.run.model_file import Model
from makemore.training.ensemble import members_of

ODD = "</script>\"'&<!--\u2028\u202e\u0301שלוםابج😀👩\u200d💻 $`\\é\ufe0f@"
"""Text that might break out of a page: ends of scripts and comments, quotes, reversed text, joined marks."""


def until(condition: str) -> str:
    """A script that waits until a condition holds."""
    return (
        f"const done = arguments[0]; const look = () => {condition} ? done() : setTimeout(look, 5); look();"
    )


SAMPLED = until("document.querySelectorAll('#sampled li').length === 12")
"""A script that waits until the page has unpacked its list and sampled its first words."""

SEEDED = """
let seed = 1;
Math.random = () => (seed = (48271 * seed) % 2147483647) / 2147483647;
"""
"""A script with which every page samples the same words each time (Park and Miller's generator)."""


def resize(browser: Any, width: int) -> None:
    """Set the width of the window, in CSS pixels."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def log_probs(model: Model, word: str) -> Tensor:
    """Each context of the word through the layers, as in the lecture: (len(word) + 1, vocab_size)."""
    size = model.block_size
    symbols = [0] * size + model.vocabulary.encode(word)
    contexts = [symbols[i : i + size] for i in range(len(word) + 1)]
    with model.network.evaluating():
        return torch.log_softmax(model.network(torch.tensor(contexts)).double(), dim=1)


def layers_of(network: Layer) -> list[Layer]:
    """The layers of a network of the catalog."""
    assert isinstance(network, Sequential)
    return network.layers


def model_of(
    characters: str,
    name: str = "wavenet",
    members: int | None = None,
    labels: Labels | None = None,
    **sizes: Any,
) -> Model:
    """A network of the catalog, or an ensemble, whose last weights, norms and labels' rows are not those it
    starts with.
    """
    plan = network_plan(name, **({"n_embd": 5, "n_hidden": 12} | sizes))
    vocabulary = Vocabulary(characters)
    label_sizes = () if labels is None else labels.sizes
    network = build_network(plan, members, len(vocabulary), Generator().manual_seed(1), label_sizes).eval()
    network.labels = () if labels is None else labels.columns
    generator = Generator().manual_seed(2)
    with torch.no_grad():
        for member in members_of(network):
            layers_of(member)[-1].state_dict()["weight"].mul_(20)
            for name, values in member.state_dict().items():
                if name.endswith("label_weight"):
                    values.copy_(torch.randn(values.shape, generator=generator))
                if name.endswith(("gamma", "beta", "running_mean")):
                    values.add_(0.3 * torch.randn(values.shape, generator=generator))
    return Model(network, vocabulary, plan, labels=labels)


def labels_of(columns: Mapping[str, Sequence[str]], counts: Mapping[tuple[int, ...], int]) -> Labels:
    """Labels with these columns, and how many words have each combination."""
    made = tuple(LabelColumn(name, tuple(values)) for name, values in columns.items())
    rows = sorted(counts)
    return Labels(made, torch.tensor(rows), torch.tensor([counts[row] for row in rows]))


WIDTHS = [360, 600, 959, 1440]


def written(path: Path, model: Model, words: list[str] | None = None, source: str = "") -> Path:
    path.write_text(page_html(model, words or [], source), encoding="utf-8")
    return path


def sample_again(page: Any) -> list[str]:
    """Press the button, and return the words when they have been sampled."""
    page.execute_script("document.getElementById('sample').click()")
    page.execute_async_script(SAMPLED)
    return texts(page, "#sampled bdi")


def texts(page: Any, selector: str) -> list[str]:
    return page.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector
    )


def percents(page: Any, selector: str) -> list[float]:
    return [float(text.removesuffix(" %").removeprefix("<")) / 100 for text in texts(page, selector)]


def write(page: Any, word: str) -> None:
    """Put a word into the box as if it were typed."""
    page.execute_script(
        "const box = document.getElementById('word'); box.value = arguments[0];"
        "box.dispatchEvent(new Event('input'))",
        word,
    )


SET = (
    "const field = document.getElementById(arguments[0]); field.value = arguments[1];"
    "field.dispatchEvent(new Event('input', {bubbles: true}))"
)
"""A script that changes an input as a person does."""


STICKS_OUT = """
return [...document.querySelectorAll("button, input, canvas, p, h2, .char")].filter((e) => {
  const box = e.getBoundingClientRect();
  if (box.width <= 1 || e.closest(".unseen")) return false;
  const cut = e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== "inline";
  return box.right > innerWidth || box.left < 0 || (cut && e.localName !== "input");
}).map((e) => e.outerHTML.slice(0, 90));
"""
"""The elements that stick out of the window, or whose text sticks out of them."""


def assert_fits(page: Any, width: int) -> None:
    """Nothing sticks out of a window of that width."""
    resize(page, width)
    assert page.execute_script("return document.documentElement.scrollWidth") == width
    assert page.execute_script(STICKS_OUT) == []


AXE_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
"""The sets of rules that axe-core checks a page by."""


def checked_by_axe(page: Any, axe: str) -> dict[str, Any]:
    """What axe-core, whose script is given, finds in a page: "violations" and "passes"."""
    page.execute_script(axe)
    found: dict[str, Any] = page.execute_async_script(
        "axe.run({runOnly: arguments[0]}).then(arguments[1])", AXE_RULES
    )
    return found


def violations(found: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """The rules that a page breaks, each with the beginnings of the elements that do."""
    return [(v["id"], [node["html"][:200] for node in v["nodes"]]) for v in found["violations"]]
