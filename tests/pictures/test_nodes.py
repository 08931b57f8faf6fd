"""draw_nodes: the artists of the figure, compared with gradients and with torch's own convolutions."""

from __future__ import annotations

import io
import itertools
import random

import pytest
import torch
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from random_graphs import random_graph
from torch import Generator, Tensor

from makemore.core.errors import UsageError
from makemore.core.graph import context_length
from makemore.core.layer import Layer
from makemore.inference.convolution import Convolution
from makemore.lecture.layers import (
    Embedding,
    FlattenConsecutive,
    HistoricBatchNorm1d,
    Linear,
    Sequential,
    Tanh,
)
from makemore.paper.layers import ResidualBlock
from makemore.pictures.nodes import draw_nodes
from makemore.pictures.palette import PRIMARY
from makemore.run.catalog import network_plan

CONVOLUTIONAL = [
    ("mlp", 3),
    ("mlp-8", 8),
    ("hierarchical", 8),
    ("wavenet", 8),
    ("wavenet", 2),
    ("wavenet", 16),
]


def build_network(name: str = "wavenet", block: int | None = None) -> Sequential:
    return network_plan(name, block, n_embd=5, n_hidden=6).build(27, Generator().manual_seed(1)).eval()


def nodes(figure: Figure, kind: str) -> list[list[float]]:
    """The x of the nodes in each row, as drawn."""
    found = [(c.get_gid(), c) for axes in figure.axes for c in axes.collections]
    rows = [(int(gid.split()[2]), c.get_offsets()) for gid, c in found if gid.startswith(f"{kind} nodes")]
    for i, offsets in rows:
        assert set(offsets[:, 1]) == {i}
    return [sorted(offsets[:, 0].tolist()) for _, offsets in sorted(rows, key=lambda row: row[0])]


def lines(figure: Figure, kind: str) -> list[set[tuple[float, float]]]:
    """The x of both ends of the lines above each row, as drawn."""
    found = [(c.get_gid(), c) for axes in figure.axes for c in axes.collections]
    rows = [(int(gid.split()[2]), c.get_segments()) for gid, c in found if gid.startswith(f"{kind} lines")]
    for i, segments in rows:
        assert all([low[1], high[1]] == [i, i + 1] for low, high in segments)
    pairs = [(i, [(low[0], high[0]) for low, high in segments]) for i, segments in rows]
    assert all(len(set(row)) == len(row) for _, row in pairs)
    return [{(float(a), float(b)) for a, b in row} for _, row in sorted(pairs, key=lambda row: row[0])]


def places(grad: Tensor | None) -> list[float]:
    """Where a gradient of shape (1, C, L) is not zero."""
    assert grad is not None
    return grad[0].abs().amax(0).nonzero().flatten().tolist()


PAPER = [
    ("gated", 8),
    ("wavenet-paper", 8),
    ("wavenet-paper", 2),
    ("wavenet-paper", 16),
    ("dropout", 8),
    ("layernorm", 8),
]


def arrows(figure: Figure, kind: str) -> set[tuple[float, float, float, float]]:
    """The x and the row that each arrow of a kind starts and ends at, as drawn."""
    found = [p for axes in figure.axes for p in axes.patches if (p.get_gid() or "").startswith(kind)]
    return {tuple(float(v) for end in p._posA_posB for v in end) for p in found}


def test_arrows_show_the_residuals_and_skips_of_the_stages() -> None:
    """Residuals come from the newest node that a node reads, skips from the newest node of each block."""
    network = build_network("wavenet-paper")
    added = {(s.source, s.added) for s in Convolution.from_network(network).stages if s.added}
    assert added == {(1, (0,)), (3, (2,)), (3, (4,)), (6, (7,))}  # rows 1 and 2 have a residual, then 3 skips
    figure = draw_nodes(network)
    tree, seen = nodes(figure, "tree"), nodes(figure, "seen")
    assert arrows(figure, "tree residuals") == {
        (tree[row - 1][2 * i + 1], row - 1, x, row) for row in (1, 2) for i, x in enumerate(tree[row])
    }
    assert arrows(figure, "seen residuals") == {(x, row - 1, x, row) for row in (1, 2) for x in seen[row]}
    assert arrows(figure, "tree skips") == {(tree[row][-1], row, tree[4][0], 4) for row in (1, 2)}
    assert arrows(figure, "seen skips") == {(seen[row][-1], row, seen[4][0], 4) for row in (1, 2)}
    assert not arrows(draw_nodes(build_network()), "")


def test_two_stacks_have_overlapping_windows() -> None:
    network = network_plan("wavenet-paper", n_embd=5, n_hidden=6, stacks=2).build(27)
    figure = draw_nodes(network)
    assert [len(row) for row in nodes(figure, "tree")] == [15, 14, 12, 8, 4, 2, 1, 1, 1, 1]
    assert [len(row) for row in nodes(figure, "seen")] == [15, 14, 12, 8, 4, 2, 1, 1, 1, 1]
    kernels = [label.get_text() for label in figure.axes[1].child_axes[0].get_yticklabels()]
    assert kernels[:6] == [f"kernel 2\ndilation {d}" for d in (1, 2, 4, 1, 2, 4)]


@pytest.mark.parametrize(("name", "block"), [*CONVOLUTIONAL, *PAPER])
def test_the_colored_inputs_are_those_with_a_gradient(name: str, block: int) -> None:
    network, word = build_network(name, block), "diondre"
    figure = draw_nodes(network, word)
    # The lecture's way: the layers on the window before each character of the padded word.
    x = torch.randn(1, 5, block + len(word), generator=Generator().manual_seed(2), requires_grad=True)
    logits = x[0].T.unfold(0, block, 1).mT.contiguous()  # (1, C, L) -> (outputs, block, C)
    for layer in network.layers[1:]:
        logits = layer(logits)
    assert len(logits) == len(word) + 1
    logits[-1].sum().backward()
    assert nodes(figure, "seen")[0] == places(x.grad) == nodes(figure, "tree")[0]


@pytest.mark.parametrize(("name", "block"), CONVOLUTIONAL)
def test_the_colored_nodes_and_lines_of_every_row_have_a_gradient(name: str, block: int) -> None:
    network = build_network(name, block)
    figure = draw_nodes(network)
    x = torch.randn(1, 5, block + 7, generator=Generator().manual_seed(2), requires_grad=True)
    rows = [x]
    for stage in Convolution.from_network(network).stages:
        h = F.conv1d(rows[-1], stage.weight.permute(2, 1, 0), stage.bias, dilation=stage.dilation)
        rows.append(h if stage.activation is None else h.tanh())
    # A convolution without padding leaves out the oldest places: the newest nodes of all rows have one x.
    first = [block + 7 - row.shape[2] for row in rows]
    assert nodes(figure, "all") == [[*range(start, block + 7)] for start in first]
    for i, drawn in enumerate(lines(figure, "all")):
        for place in range(first[i + 1], block + 7):
            above = rows[i + 1][0, :, place - first[i + 1]]
            (grad,) = torch.autograd.grad(above.sum(), rows[i], retain_graph=True)
            assert {a for a, b in drawn if b == place} == {first[i] + below for below in places(grad)}
    grads = torch.autograd.grad(rows[-1][0, :, -1].sum(), rows)
    seen = [[start + place for place in places(grad)] for grad, start in zip(grads, first, strict=True)]
    assert nodes(figure, "seen") == seen
    for drawn, every, above in zip(lines(figure, "seen"), lines(figure, "all"), seen[1:], strict=True):
        assert drawn == {(a, b) for a, b in every if b in above}


@pytest.mark.parametrize(("name", "block"), [*CONVOLUTIONAL, *PAPER, ("wavenet", 32)])
def test_the_colored_part_is_the_tree(name: str, block: int) -> None:
    figure = draw_nodes(build_network(name, block))
    shapes = []
    for kind in ("tree", "seen"):
        rows = nodes(figure, kind)
        shapes.append(
            [
                {(below.index(a), above.index(b)) for a, b in drawn}
                for drawn, (below, above) in zip(lines(figure, kind), itertools.pairwise(rows), strict=True)
            ]
        )
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("name", "block", "counts"),
    [
        ("wavenet", 8, [8, 4, 2, 1, 1]),
        ("hierarchical-bug", 8, [8, 4, 2, 1, 1]),
        ("wavenet", 32, [32, 16, 8, 4, 2, 1, 1]),
        ("gated", 8, [8, 4, 2, 1, 1]),
        ("wavenet-paper", 8, [8, 4, 2, 1, 1, 1, 1]),
        ("mlp", 3, [3, 1, 1]),
        ("mlp-8", 8, [8, 1, 1]),
    ],
)
def test_nodes_per_row(name: str, block: int, counts: list[int]) -> None:
    assert [len(row) for row in nodes(draw_nodes(build_network(name, block)), "tree")] == counts


def words(figure: Figure) -> list[Text]:
    """The visible texts, after the figure has been drawn on a canvas that can measure them."""
    FigureCanvasAgg(figure).draw()
    return [
        t for t in figure.findobj(Text) if t.get_visible() and t.get_text() and t.get_window_extent().width
    ]


def test_labels_and_characters() -> None:
    figure = draw_nodes(network_plan("wavenet").build(27), "mae")
    left, right = figure.axes
    labels = [label.get_text() for label in left.get_yticklabels()]
    hidden = "Linear + BatchNorm\n+ Tanh (128)"
    assert labels == ["context", "Embedding (24)", hidden, hidden, hidden, "Linear (27)", "next character"]
    kernels = [label.get_text() for label in right.child_axes[0].get_yticklabels()]
    assert kernels == [*[f"kernel 2\ndilation {d}" for d in (1, 2, 4)], "kernel 1"]
    assert "".join(t.get_text() for t in left.texts) == ".....mae" + "."
    assert "".join(t.get_text() for t in right.texts) == "........mae" + "mae."
    blue = [t for t in right.texts if to_hex(t.get_color()) == PRIMARY.lower()]
    assert [t.get_position()[0] for t in blue] == nodes(figure, "seen")[0]


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "block", "word"),
    [
        ("wavenet", 8, "diondre"),
        ("wavenet", 16, ""),
        ("wavenet", 32, "muhammadibrahim"),
        ("mlp", 1, ""),
        ("mlp", 3, "diondre"),
        ("hierarchical-bug", 8, "diondre"),
        ("wavenet-paper", 8, "diondre"),
        ("wavenet-paper", 32, "muhammadibrahim"),
    ],
)
def test_no_text_overlaps_or_is_cut_off(name: str, block: int, word: str) -> None:
    figure = draw_nodes(build_network(name, block), word)
    boxes = [(text.get_text(), text.get_window_extent()) for text in words(figure)]
    for text, box in boxes:
        assert figure.bbox.x0 <= box.x0, text
        assert box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0, text
        assert box.y1 <= figure.bbox.y1, text
    for (text, box), (other, its) in itertools.combinations(boxes, 2):
        assert not box.overlaps(its), (text, other)


def test_without_a_convolution_there_is_only_the_tree_and_a_note_that_says_why() -> None:
    figure = draw_nodes(build_network("hierarchical-bug"))
    assert len(figure.axes) == 1
    assert nodes(figure, "all") == nodes(figure, "seen") == []
    (note,) = [text.get_text() for text in words(figure) if "Not drawn" in text.get_text()]
    assert "statistics at each of 4 positions" in note.replace("\n", " ")


def test_other_windows_and_nested_layers() -> None:
    layers = [FlattenConsecutive(3), Linear(12, 7), Tanh(), Linear(7, 7), Sequential([FlattenConsecutive(2)])]
    network = Sequential([Embedding(27, 4), Sequential(layers), Linear(14, 27)])
    figure = draw_nodes(network, "mae")
    assert nodes(figure, "tree") == [[3, 4, 5, 6, 7, 8], [4, 7], [4, 7], [5.5]]
    assert nodes(figure, "seen") == [[3, 4, 5, 6, 7, 8], [5, 8], [5, 8], [8]]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[1:-1] == ["Embedding (4)", "Linear\n+ Tanh (7)", "Linear (7)", "Linear (27)"]


def test_drawing_does_not_change_the_network() -> None:
    network = build_network().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    file = io.BytesIO()
    draw_nodes(network).savefig(file, format="png", dpi=150)
    assert file.getvalue()[1:4] == b"PNG"
    assert int.from_bytes(file.getvalue()[16:20], "big") == 1410  # pixels wide
    assert network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert context_length(network) == 8


@pytest.mark.full
@pytest.mark.parametrize("seed", range(12))
def test_any_graph_has_the_inputs_that_it_depends_on_and_arrows_between_nodes(seed: int) -> None:
    layers, block, _ = random_graph(random.Random(seed))
    network = Sequential(layers).eval()
    figure = draw_nodes(network, "mae")
    assert [len(row) for row in nodes(figure, "tree")] == [len(row) for row in nodes(figure, "seen")]
    x = torch.randn(20, block, layers[0].weight.shape[1], generator=Generator().manual_seed(2))
    logits = x.requires_grad_()
    for layer in layers[1:]:
        logits = layer(logits)
    logits.square().sum().backward()
    depends = x.grad.abs().amax((0, 2)).nonzero().flatten().tolist()
    assert [place - 3 for place in nodes(figure, "seen")[0]] == depends
    for kind in ("tree", "seen"):  # arrows join nodes, in the convolutions those of the same character
        ends = {(x, row) for row, xs in enumerate(nodes(figure, kind)) for x in xs}
        for start, start_row, x, row in arrows(figure, kind):
            assert {(start, start_row), (x, row)} <= ends
            assert kind == "tree" or start == x


def test_the_legend_and_the_note_do_not_overlap() -> None:
    layers = [Linear(8, 6), HistoricBatchNorm1d(6, 2), Tanh()]
    block = ResidualBlock(FlattenConsecutive(2), layers, Linear(6, 4))
    network = Sequential([Embedding(27, 4), block, FlattenConsecutive(2), Linear(8, 27)])
    figure = draw_nodes(network, "mae")
    boxes = [(text.get_text(), text.get_window_extent()) for text in words(figure)]
    assert [text for text, _ in boxes if "connection" in text] == ["residual connection"]
    assert any("Not drawn" in text for text, _ in boxes)
    for (text, box), (other, its) in itertools.combinations(boxes, 2):
        assert not box.overlaps(its), (text, other)


class Reversed(Layer):
    """A user's layer with a false declaration: it reverses the positions."""

    pointwise = True

    def __call__(self, x: Tensor) -> Tensor:
        self.out = x.flip(1)
        return self.out


class Undeclared(Layer):
    """A user's layer that declares nothing."""

    def __call__(self, x: Tensor) -> Tensor:
        self.out = x
        return self.out


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Undeclared(), r"Undeclared\(\) does not declare what it does with positions"),
        (Reversed(), r"Reversed\(\) declares that it is pointwise, but it is not"),
        (FlattenConsecutive(3), r"needs an input \(..., 16\), got \(2, 48\)"),
    ],
)
def test_one_line_says_why_nodes_cannot_be_drawn(layer: Layer, message: str) -> None:
    network = Sequential([Embedding(27, 4), layer, FlattenConsecutive(4), Linear(16, 27)])
    with pytest.raises(UsageError, match=rf"^the nodes of this network cannot be drawn: .*{message}$"):
        draw_nodes(network)
