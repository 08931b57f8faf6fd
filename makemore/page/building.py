"""A model as one HTML file that needs no server and no connection.

The page computes what the model computes, in the browser. ``network.js`` is the forward pass, and the other
scripts show it; they are in this directory, with the HTML and the style sheet. The page contains the weights
as base64: for each member of an ensemble the rows of the symbols and labels, the stages of its
``Convolution``, and the tensors of the pointwise layers. A network that has no convolution is refused, unless
it is a tree with statistics of each position, as is a layer that the page does not know.

The words, characters and labels may be any text, so none of it may become markup. They are JSON in which
every ``<`` is escaped, the scripts write them as text only, and the page's security policy lets no other
script run and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import unicodedata
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from importlib import resources
from itertools import takewhile
from string import Template
from typing import Any, NamedTuple

import torch
from torch import Tensor

import makemore
from makemore.core.errors import UsageError
from makemore.core.fit import check_data
from makemore.core.layer import Layer, layer_text
from makemore.core.text import known_form, normalize, plural, require_words
from makemore.data.capitals import capital_letter
from makemore.data.labels import Labels
from makemore.lecture.layers import Sequential, Tanh
from makemore.lecture.sampling import MAX_LENGTH
from makemore.page.positions import convolutions_by_node, nodes_in_tree
from makemore.paper.layers import GatedActivation, LabelledEmbedding, LayerNorm, ReLU, RMSNorm
from makemore.pictures.embedding import in_directions, principal_directions
from makemore.run.frames import Frame
from makemore.run.model_file import Model, require_model
from makemore.training.ensemble import members_of

SCRIPTS = (
    "network.js",
    "labels.js",
    "text.js",
    "tree.js",
    "chooser.js",
    "beside.js",
    "frames.js",
    "words.js",
    "view.js",
)
"""The scripts of the page, in the order in which they run."""

MAX_SHARED = 64
"""The most characters that a packed word may share with the word before; one character says how many."""

MAX_LIST = 2**19
"""The most characters that a packed word list may take in a page: 0.5 MB."""

MAX_FRAMES = 16_000_000
"""The most characters that the networks of a run may take in a page: 16 MB."""

MAX_COMBINATIONS = 20_000
"""The most combinations of labels in a page, the most frequent ones: labels are sampled from these."""


def page_html(
    model: Model,
    words: Iterable[str] = (),
    source: str = "",
    *,
    word: str | None = None,
    compare: Model | None = None,
    names: tuple[str, str] = ("the first network", "the second network"),
    frames: Sequence[Frame] = (),
) -> str:
    """The page of a model, in one string of HTML. It opens with ``word`` as if it were typed.

    ``words`` are those the model was trained on, from a list named ``source``: with them the page says which
    of the words it samples are new. The page contains all of them. A list that would take more than
    ``MAX_LIST`` characters is left out, and the page says so. A model ``compare``, which may have other
    characters and labels, is shown beside the first one; ``names`` are what the page calls them. ``frames``
    are the networks of the model's run after several steps, with a slider over them: the page shows those in
    place of the model's network, the last one first. Raises UsageError on a network that the page
    cannot compute and on a ``word`` that is too long, and DataError on a ``word`` with a character that the
    network does not know.
    """
    require_model(model, "page_html")
    require_words(words, "page_html")
    if compare is not None:
        require_model(compare, "page_html")
    if frames:
        model = replace(model, network=frames[-1].network)
    known = sorted({model.lowered(normalize(word)) for word in words})
    packed = pack_words(known)
    content = {
        **describe_model(model),
        "other": None if compare is None else describe_model(compare),
        "names": names,
        "frames": describe_frames(frames, label_views(model)) if frames else None,
        "parameters": sum(p.numel() for p in model.network.parameters()),
        "network": model.name,
        "source": source,
        "longest": MAX_LENGTH,
        "word": None if word is None else beginning(model, word),
        "words": {"number": len(known), "packed": packed if len(packed) <= MAX_LIST else None}
        if known
        else None,
    }
    style, script = read_asset("style.css"), "\n".join(map(read_asset, SCRIPTS))
    title = f"makemore: {model.name}" + (f", trained on {source}" if source else "")
    return Template(read_asset("page.html")).substitute(
        policy=security_policy(style, script),
        title=html.escape(title),
        version=html.escape(makemore.__version__),
        style=style,
        script=script,
        content=json.dumps(content).replace("<", "\\u003c"),
    )


def describe_model(model: Model) -> dict[str, Any]:
    """What ``Network`` in ``network.js`` is made of: characters, capitals, labels, and members with weights.

    Raises UsageError on a network that the page cannot compute.
    """
    columns = () if model.labels is None else model.labels.columns
    check_data(model.network, model.vocabulary.characters, labels=columns)
    members, values = describe_members(model.network)
    return {
        "characters": model.vocabulary.characters,
        "capitals": None if model.capitals is None else describe_capitals(model),
        "labels": None if model.labels is None else describe_labels(model.labels),
        "points": label_points(model.network, label_views(model)),
        "members": members,
        "weights": as_base64(values),
    }


def describe_members(network: Layer) -> tuple[list[dict[str, Any]], Tensor]:
    """The members in plain values, and all numbers that the page reads of one after another, in float32."""
    members = [describe(member) for member in members_of(network)]
    values = torch.cat([tensor.flatten() for _, tensors in members for tensor in tensors])
    return [description for description, _ in members], values.detach().float().cpu()


def as_base64(values: Tensor) -> str:
    """Numbers as base64, in the order of bytes of a machine with a browser."""
    kind = "<f2" if values.dtype == torch.float16 else "<f4"
    return base64.b64encode(values.numpy().astype(kind).tobytes()).decode()


def most_frames(network: Layer) -> int:
    """How many networks like this one may be in a page, at least two; all but the last are in float16."""
    size = math.ceil(describe_members(network)[1].numel() * 2 * 4 / 3)
    return max(2, MAX_FRAMES // size - 1)


def describe_frames(frames: Sequence[Frame], views: Sequence[LabelView]) -> list[dict[str, Any]]:
    """Frames in plain values. The network of the last one is that of the page's model."""
    return [describe_frame(frame, views) for frame in frames[:-1]] + [frame_facts(frames[-1])]


def describe_frame(frame: Frame, views: Sequence[LabelView]) -> dict[str, Any]:
    """A frame in plain values, with its weights in float16, or in float32 if one of them overflows."""
    _, values = describe_members(frame.network)
    half = values.half()
    is_half = bool(half.isfinite().all())
    return {
        **frame_facts(frame),
        "points": label_points(frame.network, views),
        "half": is_half,
        "weights": as_base64(half if is_half else values),
    }


def frame_facts(frame: Frame) -> dict[str, Any]:
    """The step of a frame and its losses, None where one is not finite, as JSON has no such numbers."""
    losses = {"loss": frame.loss, "val": frame.val}
    finite = {name: x if x is not None and math.isfinite(x) else None for name, x in losses.items()}
    return {"step": frame.step, **finite}


def describe_capitals(model: Model) -> dict[str, Any]:
    """The rule for capitals in plain values, and the capital of each character of the vocabulary."""
    assert model.capitals is not None
    characters = model.vocabulary.characters
    capital_of = {ch: capital for ch in characters if (capital := capital_letter(ch)) != ch}
    return {**asdict(model.capitals), "of": capital_of}


def beginning(model: Model, word: str) -> str:
    """A word in the form that the network knows, in another case if necessary, as when it is typed.

    Raises DataError on an unknown character, and UsageError on a word that is too long.
    """
    known = model.vocabulary.stoi

    def in_known_case(ch: str) -> str:
        return next(filter(known.__contains__, (ch, ch.lower(), ch.upper())), ch)

    texts = [unicodedata.normalize(form, model.lowered(word)) for form in ("NFC", "NFD")]
    forms = [known_form("".join(map(in_known_case, text)), known) for text in texts]
    form = next((form for form in forms if known.keys() >= {*form}), forms[0])
    model.vocabulary.encode(form)
    if len(form) > MAX_LENGTH:
        raise UsageError(
            f"the page's word has {plural(len(form), 'character')}: a page's longest word has {MAX_LENGTH}"
        )
    return form


def describe_labels(labels: Labels) -> dict[str, Any]:
    """Labels in plain values.

    Those are the columns; the most frequent combinations of labels, one after another, and their counts; and
    the number of combinations that are left out.
    """
    most = labels.counts.argsort(descending=True, stable=True)[:MAX_COMBINATIONS].sort().values
    return {
        "columns": [{"name": column.name, "values": column.values} for column in labels.columns],
        "rows": labels.rows[most].flatten().tolist(),
        "counts": labels.counts[most].tolist(),
        "left_out": len(labels) - len(most),
    }


class LabelView(NamedTuple):
    """How the labels of a column are seen as points.

    ``rows`` is their place in a network's table of labels, ``directions``, (2, C), what becomes x and y, and
    ``unit`` the length of 1.
    """

    rows: slice
    directions: Tensor
    unit: Tensor


def label_views(model: Model) -> list[LabelView]:
    """The views of each column of labels: in the two directions of largest variance in a model's network.

    The unit is the largest coordinate there.
    """
    views, start = list[LabelView](), 0
    for size in () if model.labels is None else model.labels.sizes:
        rows = slice(start + 1, start + size)  # without the row of words without a label
        table = label_table(model.network)[rows]
        directions = principal_directions(table)
        unit = in_directions(table, directions)[0].abs().max().clamp_min(1e-30)
        views.append(LabelView(rows, directions, unit))
        start += size
    return views


def label_points(network: Layer, views: Sequence[LabelView]) -> list[dict[str, Any]]:
    """For each column of labels, its rows in a network as points, and the shares of the variance they show.

    Points of several networks can be compared if they have the same views. A point is x and y, one point
    after another. Of ensembles they are those of the first member.
    """
    described = []
    for view in views:
        points, shares = in_directions(label_table(network)[view.rows], view.directions)
        flat = (points / view.unit).flatten().tolist()
        described.append({"points": [round(x, 4) for x in flat], "variance": shares})
    return described


def label_table(network: Layer) -> Tensor:
    """The table of labels of a network, or of the first member of an ensemble: all columns in a row."""
    first = members_of(network)[0]
    embedding = next(layer for layer in first.modules() if isinstance(layer, LabelledEmbedding))
    return embedding.label_weight.detach().cpu()


def describe(network: Layer) -> tuple[dict[str, Any], list[Tensor]]:
    """A network's stages in plain values, and the tensors that the page reads, in the order it reads them.

    Raises UsageError on a network that the page cannot compute.
    """
    try:
        convolutions = convolutions_by_node(network)
    except ValueError as error:
        raise UsageError(f"no page can be made of this network: {error}") from error
    first = convolutions[0]
    tensors = [first.embedding]
    if first.labelled is not None:
        tensors.append(first.labelled.label_weight)
    num_labels = sum(len(tensor) for tensor in tensors[1:])
    stages = []
    for i, stage in enumerate(first.stages):
        n, channels, out = stage.weight.shape
        layers = pointwise_layers(stage.activation)
        by_node = [convolution.stages[i] for convolution in convolutions]
        if len(by_node) > 1:
            by_node = by_node[: nodes_in_tree(first.stages, i)]
        stages.append(
            {
                "n": n,
                "dilation": stage.dilation,
                "from": channels,
                "to": out,
                "nodes": len(by_node),  # with a weight and a bias of their own; one if all have the same
                "source": stage.source,
                "added": stage.added,
                "activations": [describe_layer(layer) for layer in layers],
            }
        )
        tensors += [tensor for each in by_node for tensor in (each.weight, each.bias)]
        tensors += [p for layer in layers for p in layer.parameters()]
    shape = list(first.embedding.shape)
    return {"embedding": shape, "labels": num_labels, "stages": stages}, tensors


ACTIVATIONS: dict[type[Layer], str] = {
    Tanh: "tanh",
    ReLU: "relu",
    GatedActivation: "gate",
    RMSNorm: "rmsnorm",
    LayerNorm: "layernorm",
}
"""The pointwise layers that the page can compute, and their names in ``network.js``."""


def pointwise_layers(activation: Layer | None) -> list[Layer]:
    """The layers that a stage calls after its sum, one after another."""
    if type(activation) is Sequential:
        return [layer for child in activation.layers for layer in pointwise_layers(child)]
    return [] if activation is None else [activation]


def describe_layer(layer: Layer) -> dict[str, Any]:
    """A pointwise layer in plain values, without its tensors. Raises UsageError on an unknown layer."""
    if type(layer) not in ACTIVATIONS:
        raise UsageError(
            f"no page can be made of this network: a page cannot compute the layer {layer_text(layer)}"
        )
    settings = {"eps": layer.eps} if isinstance(layer, RMSNorm | LayerNorm) else {}
    return {"name": ACTIVATIONS[type(layer)], **settings}


def pack_words(words: list[str]) -> str:
    """Sorted words as base64 of deflated lines.

    A line is a character that says how many characters the word shares with the word before, then the others.
    """
    lines, before = [], ""
    for word in words:
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, word, strict=False)))
        shared = min(shared, MAX_SHARED)
        lines.append(chr(ord("0") + shared) + word[shared:])
        before = word
    deflate = zlib.compressobj(9, wbits=-15)
    content = deflate.compress("\n".join(lines).encode()) + deflate.flush()
    return base64.b64encode(content).decode()


def security_policy(style: str, script: str) -> str:
    """A content security policy that allows this style and this script, and nothing to be fetched."""

    def source(content: str) -> str:
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        return f"'sha256-{digest}'"

    sources = f"script-src {source(script)}; style-src {source(style)}"
    return f"default-src 'none'; {sources}; base-uri 'none'; form-action 'none'"


def read_asset(name: str) -> str:
    """The text of a file in this directory."""
    return resources.files("makemore.page").joinpath(name).read_text(encoding="utf-8")
