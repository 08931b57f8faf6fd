"""What the tests of the page share: untrained models of any vocabulary, waiting, windows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator

from makemore.ensemble import build, members_of
from makemore.model_file import Model
from makemore.networks import network_plan
from makemore.words import Vocabulary

ODD = "</script>\"'&<!--\u2028\u202e\u0301שלוםابج😀👩\u200d💻 $`\\é\ufe0f@"
"""What might break out of a page: ends of scripts and comments, quotes, turned text, half characters."""

DRAWN = """
const done = arguments[0];
const look = () => document.querySelectorAll("#drawn li").length === 12 ? done() : setTimeout(look, 5);
look();
"""
"""Waits until the page has unpacked its list and drawn its first words."""


SEEDED = """
let seed = 1;
Math.random = () => (seed = (48271 * seed) % 2147483647) / 2147483647;
"""
"""Every page draws the same words each time (Park and Miller's generator)."""


def resize(browser: Any, width: int) -> None:
    """Give the window that width, in CSS pixels."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def model_of(characters: str, name: str = "wavenet", members: int | None = None, **sizes: Any) -> Model:
    """A network of the log, or an ensemble, with other last weights and norms than it starts with."""
    plan = network_plan(name, **({"n_embd": 5, "n_hidden": 12} | sizes))
    vocabulary = Vocabulary(characters)
    network = build(plan, members, len(vocabulary), Generator().manual_seed(1)).eval()
    generator = Generator().manual_seed(2)
    with torch.no_grad():
        for member in members_of(network):
            member.layers[-1].state_dict()["weight"].mul_(20)
            for name, values in member.state_dict().items():
                if name.endswith(("gamma", "running_mean")):
                    values.add_(0.3 * torch.randn(values.shape, generator=generator))
    return Model(plan, vocabulary, network)
