"""Helpers for the tests of the page: untrained models of any vocabulary, waiting, window sizes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator

from makemore.core.layer import Layer
from makemore.lecture.layers import Sequential
from makemore.lecture.words import Vocabulary
from makemore.run.catalog import build_network, network_plan
from makemore.run.model_file import Model
from makemore.training.ensemble import members_of

ODD = "</script>\"'&<!--\u2028\u202e\u0301שלוםابج😀👩\u200d💻 $`\\é\ufe0f@"
"""Text that might break out of a page: ends of scripts and comments, quotes, reversed text, joined marks."""

SAMPLED = """
const done = arguments[0];
const look = () => document.querySelectorAll("#sampled li").length === 12 ? done() : setTimeout(look, 5);
look();
"""
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


def layers_of(network: Layer) -> list[Layer]:
    """The layers of a network of the catalog."""
    assert isinstance(network, Sequential)
    return network.layers


def model_of(characters: str, name: str = "wavenet", members: int | None = None, **sizes: Any) -> Model:
    """A network of the catalog, or an ensemble, whose last weights and norms are not those it starts with."""
    plan = network_plan(name, **({"n_embd": 5, "n_hidden": 12} | sizes))
    vocabulary = Vocabulary(characters)
    network = build_network(plan, members, len(vocabulary), Generator().manual_seed(1)).eval()
    generator = Generator().manual_seed(2)
    with torch.no_grad():
        for member in members_of(network):
            layers_of(member)[-1].state_dict()["weight"].mul_(20)
            for name, values in member.state_dict().items():
                if name.endswith(("gamma", "beta", "running_mean")):
                    values.add_(0.3 * torch.randn(values.shape, generator=generator))
    return Model(network, vocabulary, plan)
