"""A model as one HTML file that needs no server and no network (beyond the lecture).

The page computes what the model computes, in the browser: ``network.js`` is the forward pass, the other
scripts show it, and all lie beside this module with the page's frame and style. The numbers go along as
base64, folded as in ``convolution.stages``: an embedding, then stages, each an affine map of some nodes,
with or without activations; of an ensemble, those of each member. What this does not describe is refused.

Words and characters are anyone's, so nothing of them is markup: they are JSON in which every ``<`` is
escaped, the scripts write them as text only, and the page's policy lets no other script run, nor anything
be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import zlib
from collections.abc import Iterable
from importlib import resources
from itertools import takewhile
from string import Template
from typing import Any

import torch
from torch import Tensor

import makemore
from makemore.convolution.stages import Convolution
from makemore.ensemble import members_of
from makemore.errors import UsageError
from makemore.layers import GatedActivation, Layer, ReLU, RMSNorm, Sequential, Tanh
from makemore.model_file import Model

SCRIPTS = ("network.js", "text.js", "tree.js", "view.js")
"""What runs in the page, in this order."""

MOST_SHARED = 64
"""Characters that a packed word may share with the one before; one character says how many."""

LARGEST_LIST = 2**19
"""Characters that a packed word list may take in a page: 0.5 MB."""


def page_html(model: Model, words: Iterable[str] = (), source: str = "") -> str:
    """The page of a model, all in one string of HTML.

    ``words`` are those it was trained on, from a list of the name ``source``: the page then tells which of
    the words it draws are new. They go along whole, so that whoever has the page has them; a list that takes
    more than ``LARGEST_LIST`` characters is left out, as the page tells. Raises UsageError on a network that
    the page cannot compute.
    """
    members = [describe(network) for network in members_of(model.network)]
    values = torch.cat([tensor.flatten() for _, tensors in members for tensor in tensors])
    known = sorted(set(words))
    packing = packed(known)
    content = {
        "characters": model.vocabulary.characters,
        "members": [description for description, _ in members],
        "weights": base64.b64encode(values.detach().float().cpu().numpy().astype("<f4").tobytes()).decode(),
        "parameters": sum(p.numel() for p in model.network.parameters()),
        "network": model.plan.name,
        "source": source,
        "words": {"number": len(known), "packed": packing if len(packing) <= LARGEST_LIST else None}
        if known
        else None,
    }
    style, script = asset("style.css"), "\n".join(map(asset, SCRIPTS))
    title = f"makemore: {model.plan.name}" + (f", trained on {source}" if source else "")
    return Template(asset("page.html")).substitute(
        policy=policy(style, script),
        title=html.escape(title),
        version=html.escape(makemore.__version__),
        style=style,
        script=script,
        content=json.dumps(content).replace("<", "\\u003c"),
    )


def describe(network: Sequential) -> tuple[dict[str, Any], list[Tensor]]:
    """A network's stages, in plain values for the page, and their numbers in the same order.

    Raises UsageError on a network that is no convolution, and on a layer that the page does not know.
    """
    try:
        convolution = Convolution.from_network(network)
    except ValueError as error:
        raise UsageError(f"no page can be made of this network: {error}") from error
    tensors = [convolution.embedding]
    stages = []
    for stage in convolution.stages:
        n, channels, out = stage.weight.shape
        layers = layers_of(stage.activation)
        sums = {"n": n, "dilation": stage.dilation, "from": channels, "to": out}
        stages.append(
            {**sums, "source": stage.source, "added": stage.added, "activations": [*map(described, layers)]}
        )
        norms = [layer.gamma for layer in layers if isinstance(layer, RMSNorm)]
        tensors += [stage.weight, stage.bias, *norms]
    return {"embedding": list(convolution.embedding.shape), "stages": stages}, tensors


ACTIVATIONS: dict[type[Layer], str] = {Tanh: "tanh", ReLU: "relu", GatedActivation: "gate"}
"""What the page can compute, beside RMSNorm, and what it calls it."""


def layers_of(activation: Layer | None) -> list[Layer]:
    """What a stage does to its sums, one layer after another."""
    if activation is None:
        return []
    return activation.flattened() if type(activation) is Sequential else [activation]


def described(layer: Layer) -> dict[str, Any]:
    """An activation in plain values, without its numbers. Raises UsageError on one that is unknown."""
    if type(layer) is RMSNorm:
        return {"name": "norm", "eps": layer.eps}
    if type(layer) not in ACTIVATIONS:
        raise UsageError(f"no page can be made of this network: a page cannot compute the layer {layer}")
    return {"name": ACTIVATIONS[type(layer)]}


def packed(words: list[str]) -> str:
    """Sorted words as base64 of deflated lines: how many characters are those of the line above, the rest."""
    lines, before = [], ""
    for word in words:
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, word, strict=False)))
        shared = min(shared, MOST_SHARED)
        lines.append(chr(ord("0") + shared) + word[shared:])
        before = word
    deflate = zlib.compressobj(9, wbits=-15)
    content = deflate.compress("\n".join(lines).encode()) + deflate.flush()
    return base64.b64encode(content).decode()


def policy(style: str, script: str) -> str:
    """A content security policy by which just this style and this script are used, and nothing is fetched."""

    def source(content: str) -> str:
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        return f"'sha256-{digest}'"

    sources = f"script-src {source(script)}; style-src {source(style)}"
    return f"default-src 'none'; {sources}; base-uri 'none'; form-action 'none'"


def asset(name: str) -> str:
    """A file that lies beside this module."""
    return resources.files("makemore.page").joinpath(name).read_text(encoding="utf-8")
