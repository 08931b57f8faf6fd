"""The pictures: the artists of the figures, compared with plain torch, for any network and alphabet."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import is_color_like
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import Generator, Tensor

import makemore
from makemore import (
    draw_activations,
    draw_batchnorm,
    draw_embedding,
    draw_gradients,
    draw_nodes,
    draw_probabilities,
    draw_tree,
    summary,
)
from makemore.commands.cli import draw_main
from makemore.core.errors import DataError, UsageError
from makemore.core.graph import context_length
from makemore.core.layer import Layer
from makemore.lecture.layers import BatchNorm1d, Embedding, FlattenConsecutive, Linear, Sequential, Tanh
from makemore.lecture.words import Vocabulary
from makemore.paper.layers import ReLU
from makemore.pictures import palette
from makemore.pictures.activations import saturation
from makemore.pictures.embedding import kind_of, principal_components
from makemore.pictures.figures import drawable_symbols, observe, quoted
from makemore.pictures.recorder import Record, write_records
from makemore.run.architecture import register_layer
from makemore.run.catalog import NETWORKS, PICTURES, Plan, build_network, network_plan
from makemore.run.model_file import Model, save_model
from makemore.run.pictures import Subject, draw_picture
from makemore.training.ensemble import Ensemble


class Squashed(Tanh):
    """A user's layer that returns its output and does not store it."""

    def __call__(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


def test_a_layer_that_does_not_store_its_output_is_shown_like_others() -> None:
    vocabulary = Vocabulary("abcd")
    networks = []
    for squash in (Tanh(), Squashed()):
        network = NETWORKS["hierarchical"].build(5, Generator().manual_seed(1))
        network.layers = [squash if type(layer) is Tanh else layer for layer in network.layers]
        networks.append(network)
    plain, own = networks
    own.block_size = plain.block_size = 8
    assert summary(own).split() == summary(plain).replace("Tanh()", "Squashed()").split()
    X = torch.randint(0, 5, (6, 8), generator=Generator().manual_seed(2))
    for a, b in zip(observe(plain, X), observe(own, X), strict=True):
        assert a.name.replace("Tanh", "Squashed") == b.name
        assert torch.equal(a.out, b.out)
    draw_tree(own, vocabulary, "abba")
    assert [type(layer) for layer in own.layers[3:5]] == [type(plain.layers[3]), Squashed]
    assert "out" not in vars(own.layers[4])


def test_an_accent_of_its_own_is_shown_on_a_circle() -> None:
    """In the labels of single characters. In a word it is above the letter before it."""
    vocabulary = Vocabulary("eo\u0301\u093e")
    assert drawable_symbols(vocabulary) == [".", "e", "o", "\u25cc\u0301", "\ufffd"]
    assert quoted("e\u0301o") == "“e\u0301o”"
    assert quoted("\u0301o") == "“\u25cc\u0301o”"
    network = NETWORKS["mlp"].build(len(vocabulary), Generator().manual_seed(1))
    network.characters = vocabulary.characters
    for figure in (
        draw_nodes(network, "é"),
        draw_tree(network, vocabulary, "é"),
        draw_probabilities(network, vocabulary, "é"),
        draw_embedding(network, vocabulary),
    ):
        assert "\u25cc\u0301" in [text.get_text() for text in figure.findobj(Text)]


def test_the_word_of_the_nodes_has_the_form_of_all_words() -> None:
    network = NETWORKS["mlp"].build(5, Generator().manual_seed(1))
    texts = [
        [t.get_text() for t in draw_nodes(network, word).findobj(Text)] for word in ("Zoé", "Zoe\u0301\u200b")
    ]
    assert texts[0] == texts[1]
    assert "é" in texts[0]


class TwoOutputs(Layer):
    """Contains a layer that returns two tensors, and one that is never called."""

    def __init__(self) -> None:
        self.pair, self.unused = Pair(), Linear(2, 2)

    def __call__(self, x: Tensor) -> Tensor:
        return self.pair(x)[0]


class Pair(Layer):
    def __call__(self, x: Tensor):
        return x.sum(1), x


def test_the_shape_of_what_is_not_one_tensor_is_left_out() -> None:
    network = Sequential([Embedding(5, 3), TwoOutputs(), Linear(3, 5)])
    network.block_size = 4
    rows = [line.split() for line in summary(network, 7).splitlines()]
    assert rows[2:5] == [["TwoOutputs", "(7,", "3)"], ["Pair()", "0"], ["Linear(2,", "2)", "6"]]


class Doubled(Layer):
    """A user's layer that contains others and declares nothing: x + f(x)."""

    def __init__(self, inner: Layer) -> None:
        self.inner = inner

    def named_children(self):
        yield "inner", self.inner

    def __call__(self, x: Tensor) -> Tensor:
        self.out = x + self.inner(x)
        return self.out


def own_network(vocab_size: int) -> Sequential:
    """Nested layers, one of them a user's, and no BatchNorm."""
    inner = Sequential([Linear(5, 5), Tanh()])
    outer = Sequential([Linear(20, vocab_size)])
    return Sequential([Embedding(vocab_size, 5), Doubled(inner), FlattenConsecutive(4), outer])


def contexts(vocab_size: int, block: int, rows: int = 40) -> Tensor:
    return torch.randint(0, vocab_size, (rows, block), generator=Generator().manual_seed(3))


def artist(figure: Figure, gid: str):
    (found,) = figure.findobj(lambda a: a.get_gid() == gid)
    return found


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_observed_outputs_are_those_of_a_forward_pass_without_views() -> None:
    network = own_network(9)
    X = contexts(9, 4)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    observed = observe(network, X)
    assert [o.name for o in observed] == [
        "0 Embedding", "1.inner.0 Linear", "1.inner.1 Tanh", "1 Doubled", "3.0 Linear",
    ]  # fmt: skip
    with network.evaluating():
        e = network.layers[0](X)
        h = torch.tanh(e @ network.layers[1].inner.layers[0].weight)
        torch.testing.assert_close(observed[3].out, e + h)
        torch.testing.assert_close(observed[-1].out, network(X))
    assert network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_saturation_of_layers_with_and_without_an_output_range() -> None:
    out = torch.tensor([[0.98, 0.1], [-0.99, 0.96], [0.975, -1.0]])
    assert saturation(Tanh(), out) == (pytest.approx(4 / 6), 0.5)
    assert saturation(Linear(2, 2), out) is None
    assert saturation(ReLU(), torch.tensor([[0.0, 1.0], [0.0, 0.0]])) == (0.75, 0.5)


def test_histograms_hold_every_output(small_model: Model) -> None:
    X = contexts(len(small_model.vocabulary), 8)
    figure = draw_activations(small_model.network, X)
    for name, _, out in observe(small_model.network, X):
        heights, edges, _ = artist(figure, f"histogram {name}").get_data()
        assert sum(heights) == pytest.approx(100)
        counts = torch.histogram(out.flatten().double(), torch.tensor(edges, dtype=torch.float64)).hist
        assert heights.tolist() == pytest.approx((counts / out.numel() * 100).tolist(), abs=0.2)
        assert any(f"std {out.std(correction=0):.2f}" in text for text in texts(figure))
    assert sum("\ndead units" in text for text in texts(figure)) == 3


def test_batchnorm_shows_running_statistics_and_those_of_the_contexts() -> None:
    """The input of the layer is computed here; with the lecture's bug a position has a black line each."""
    for name, black in (("hierarchical", 1), ("hierarchical-bug", 4)):
        network = network_plan(name, 8, 5, 7).build(9, Generator().manual_seed(1))
        X = contexts(9, 8, 200)
        for _ in range(30):
            network(X)  # the running statistics move
        figure = draw_batchnorm(network, X)
        figure.draw_without_rendering()
        scale = [tick.get_text() for tick in figure.axes[1].get_yticklabels(which="both")]
        assert any(scale)
        assert not any("10^" in text or "e" in text for text in scale)
        norm = network.layers[3]
        with network.evaluating():
            x = network.layers[2](network.layers[1](network.layers[0](X))).double()
        order = norm.running_mean.view(-1, 7).double().mean(0).argsort()
        lines = [a for a in figure.axes[0].lines if (a.get_gid() or "").startswith("running")]
        assert len(lines) == black
        for line, mean in zip(lines, norm.running_mean.view(-1, 7), strict=True):
            assert list(line.get_ydata()) == pytest.approx(mean[order].tolist())
        for axes, statistic in ((figure.axes[0], x.mean(0)), (figure.axes[1], x.std(0, correction=0))):
            for t in range(4):
                (line,) = [a for a in axes.lines if a.get_gid() == f"position {t}"]
                assert list(line.get_ydata()) == pytest.approx(statistic[t][order].tolist(), abs=1e-4)
    with pytest.raises(UsageError, match="has no BatchNorm to draw"):
        draw_batchnorm(own_network(9), contexts(9, 4))


def test_principal_components_keep_distances_as_far_as_possible() -> None:
    table = torch.randn(30, 6, generator=Generator().manual_seed(1))
    table *= torch.tensor([5, 0.1, 3, 0.1, 0.1, 0.1])
    points, shares = principal_components(table)
    assert sum(shares) > 0.99
    apart, apart_before = torch.cdist(points, points), torch.cdist(table, table).double()
    torch.testing.assert_close(apart, apart_before, atol=0.5, rtol=0)
    assert points.T.cov()[0, 1].abs() < 1e-9
    points, shares = principal_components(torch.ones(3, 1))
    assert shares == [0, 0]
    assert points.tolist() == [[0, 0]] * 3


def test_probabilities_are_the_networks_along_the_word(small_model: Model) -> None:
    network, vocabulary = small_model.network, small_model.vocabulary
    figure = draw_probabilities(network, vocabulary, "emma")
    image = torch.tensor(figure.axes[0].images[0].get_array().data)  # (V, T)
    for t in range(5):
        context = [0] * (8 - t) + vocabulary.encode("emma"[:t])
        with network.evaluating():
            torch.testing.assert_close(image[:, t].float(), F.softmax(network(torch.tensor([context])), 1)[0])
    rings = artist(figure, "word").get_offsets().tolist()
    assert rings == [[t, ix] for t, ix in enumerate([*vocabulary.encode("emma"), 0])]
    nats = -sum(math.log(image[int(y), int(x)]) for x, y in rings) / 5
    assert figure.get_suptitle() == f"Next character along “emma”: loss {nats:.3f} nats per character"
    with pytest.raises(UsageError, match="201 characters cannot be drawn: 200 is the most"):
        draw_probabilities(network, vocabulary, "a" * 201)
    with pytest.raises(DataError, match="'!' is not in the vocabulary"):
        draw_probabilities(network, vocabulary, "a!")


def test_the_tree_has_every_channel_of_every_node(small_model: Model) -> None:
    network, vocabulary = small_model.network, small_model.vocabulary
    figure = draw_tree(network, vocabulary, "emma")
    context = torch.tensor([[0] * 4 + vocabulary.encode("emma")])
    observed = {o.name: o.out[0] for o in observe(network, context)}
    rows = ["0 Embedding", "4 Tanh", "8 Tanh", "12 Tanh", "13 Linear"]
    for name in rows:
        out = observed[name].view(-1, observed[name].shape[-1])
        image = torch.tensor(artist(figure, f"nodes {name}").get_array().filled(math.nan)).view(
            -1, len(out), artist(figure, f"nodes {name}").get_array().shape[1] // len(out)
        )
        for t, node in enumerate(out):
            box = image[:, t].flatten()
            torch.testing.assert_close(box[~box.isnan()].float(), node)
    bars = [patch.get_height() for patch in figure.axes[0].patches]
    torch.testing.assert_close(torch.tensor(bars).float(), F.softmax(observed["13 Linear"], 0))
    below = [label.get_text() for label in figure.axes[len(rows)].get_xticklabels()]
    assert "".join(below) == "....emma"
    other = small_model.plan.build(len(vocabulary), Generator().manual_seed(9))
    ensemble = draw_tree(Ensemble([network, other]), vocabulary, "emma")
    assert ensemble.get_suptitle() == "Values of every node for “emma”, network 1 of 2"
    assert [patch.get_height() for patch in ensemble.axes[0].patches] == bars
    assert len(ensemble.axes) == len(figure.axes)


def test_a_network_without_embedding_is_refused() -> None:
    with pytest.raises(UsageError, match="the network has no Embedding to draw"):
        draw_embedding(Sequential([Linear(3, 3)]), Vocabulary("ab"))


@pytest.mark.parametrize(
    ("vowels", "others"),
    [
        ("aeiouyàÉœøıấ", "bçñßðz'-"),
        ("αεηιουωάῶ", "βγςψ"),
        ("аеёиоуыэюяії", "бйўщъь"),
        ("აეიოუ", "ბგ"),
        ("ािू", "कख"),
    ],
)
def test_vowels_of_other_alphabets(vowels: str, others: str) -> None:
    vocabulary = Vocabulary(vowels + others)
    kinds = {ch: kind_of(i, vocabulary) for ch, i in vocabulary.stoi.items()}
    assert kinds == dict.fromkeys(vowels, "vowel") | dict.fromkeys(others, "other")


def test_dots_of_the_embedding_are_explained_if_there_are_any() -> None:
    def note(table: list[list[float]], characters: str) -> str:
        embedding = Embedding(len(table), 2)
        embedding.weight = torch.tensor(table)
        return (
            draw_embedding(Sequential([embedding]), Vocabulary(characters)).get_supxlabel().replace("\n", " ")
        )

    assert "A dot is" not in note([[0, 0], [1, 0], [0, 1]], "ab")
    assert "A dot is a character whose label has no room" in note([[0, 0], [1, 0], [1, 0.001], [0, 1]], "abc")
    assert "or no glyph in the font" in note([[0, 0], [1, 0], [0, 1]], "a漢")


@pytest.mark.full
@pytest.mark.parametrize(
    ("characters", "word", "what", "hints"),
    [
        ("dionre", None, "all", []),
        ("дионре", "дно", "all", []),
        ("дионре", None, "tree", ["'diondre' is not in the model's alphabet, so the word is sampled from"]),
        ("дионре", None, "embedding", []),
        ("dionre漢字", None, "embedding", ["no glyph for 2 characters (字漢): set font.family"]),
        ("dionre漢", None, "nodes", []),
        ("dionre漢", "漢", "nodes", ["no glyph for a character (漢)"]),
        ("漢", None, "all", ["'diondre' is not in", "no glyph for a character (漢)"]),
    ],
)
def test_hints_beside_a_picture(
    characters: str,
    word: str | None,
    what: str,
    hints: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan, vocabulary = network_plan("hierarchical", 4, 3, 5), Vocabulary(characters)
    network = plan.build(len(vocabulary), Generator().manual_seed(1)).eval()
    save_model(Model(network, vocabulary, plan), tmp_path / "model")
    flags = ["--model", str(tmp_path / "model"), *([] if word is None else ["--word", word])]
    target = tmp_path / ("all" if what == "all" else "picture.png")
    assert draw_main([what, str(target), *flags]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(hints)
    for line, hint in zip(lines, hints, strict=True):
        assert line.startswith("makemore-draw: ")
        assert hint in line


def records(network: Sequential) -> list[Record]:
    return [
        Record(step, name, 2.0, 0.5 / (step + 1), 0.01)
        for step in (0, 10)
        for name, _ in network.named_parameters()
    ]


def test_gradients_and_ratios_by_parameter() -> None:
    network = own_network(9)
    figure = draw_gradients(records(network), network)
    for name, p in network.named_parameters():
        left, right = figure.findobj(lambda a, name=name: a.get_gid() == name)
        assert (list(left.get_xdata()), list(left.get_ydata())) == ([0, 10], [0.5, 0.5 / 11])
        assert list(right.get_ydata()) == [0.005, 0.005]
        assert left.get_label().startswith(name) == (p.ndim == 2)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [
        "other parameters",
        "0.weight, Embedding",
        "1.inner.0.weight, Linear",
        "3.0.weight, Linear",
    ]
    with pytest.raises(UsageError, match=r"from another network: this one has no 7\.weight"):
        draw_gradients([Record(0, "7.weight", 1, 1, 1)], network)
    with pytest.raises(UsageError, match="no gradients were recorded"):
        draw_gradients([], network)


def test_step_ticks_are_whole_and_a_long_legend_fits_into_the_figure() -> None:
    plan = network_plan("wavenet", 8, 4, 6)
    network = build_network(plan, 8, 4, Generator().manual_seed(1))  # 40 weights
    figure = draw_gradients([r._replace(step=r.step * 3 // 2) for r in records(network)], network)
    FigureCanvasAgg(figure).draw()
    for axes in figure.axes:
        steps = {label.get_text(): label.get_position()[0] for label in axes.get_xticklabels()}
        assert all(float(text.replace("\N{MINUS SIGN}", "-")) == step for text, step in steps.items())
    box = figure.legends[0].get_window_extent()
    assert box.y0 >= 0
    assert box.y1 <= figure.bbox.y1


MANY = "".join(map(chr, range(0x4E00, 0x4E00 + 4980)))
ODD = "ab$_^{}\\é \u0301日\u202e😀"


def odd_model(characters: str, name: str, word: str) -> Subject:
    vocabulary = Vocabulary(characters)
    plan = network_plan(name, None if name == "mlp" else 8, 4, 6)
    network = plan.build(len(vocabulary), Generator().manual_seed(1)).eval()
    return Subject(Model(network, vocabulary, plan), word)


@pytest.mark.full
@pytest.mark.parametrize(
    ("characters", "word", "name", "pictures"),
    [
        ("a", "a", "hierarchical", ["tree", "probabilities", "embedding", "activations", "batchnorm"]),
        ("abcd", "", "hierarchical-bug", ["tree", "probabilities", "embedding", "activations", "batchnorm"]),
        (ODD, ODD, "hierarchical", ["tree", "probabilities", "embedding", "nodes"]),
        (MANY + ODD, ODD, "mlp", ["tree", "probabilities", "embedding"]),
    ],
    ids=["2 symbols", "5 symbols", "odd ones", "5,000 symbols"],
)
def test_any_alphabet_is_drawn_as_text_within_the_figure(
    characters: str, word: str, name: str, pictures: list[str]
) -> None:
    """No math and no missing glyph (warnings, which are errors here), and nothing is cut off."""
    subject = odd_model(characters, name, word)
    for what in pictures:
        figure = draw_picture(what, subject)
        FigureCanvasAgg(figure).draw()
        axes = [axis for panel in figure.axes for axis in (panel.xaxis, panel.yaxis)]
        ticks = [label for axis in axes for label in axis.get_ticklabels(which="both")]
        for text in figure.findobj(Text):
            if text.get_text() and text not in ticks and not text.get_text().startswith(r"$\mathdefault"):
                box = text.get_window_extent()
                assert box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1, (what, text.get_text())  # noqa: PT018
                assert box.y0 >= -1 and box.y1 <= figure.bbox.y1 + 1, (what, text.get_text())  # noqa: PT018


def test_every_picture_says_what_to_look_for_and_has_a_public_function() -> None:
    subject, network = odd_model("abc", "mlp", "ab"), own_network(3)
    for what in PICTURES:
        if what == "gradients":
            figure = draw_gradients(records(network), network)
        else:
            figure = draw_picture(what, subject)
        assert f"draw_{what}" in makemore.__all__
        if what != "nodes":
            assert figure.get_suptitle()
            assert figure.get_supxlabel()
            assert "What to look for:" in getattr(makemore, f"draw_{what}").__doc__


@pytest.mark.full
@pytest.mark.parametrize("name", NETWORKS)
def test_every_picture_of_every_network_of_the_catalog(name: str) -> None:
    plan, vocabulary = network_plan(name, None, 4, 6), Vocabulary("abc")
    network = plan.build(4, Generator().manual_seed(1)).eval()
    subject = Subject(Model(network, vocabulary, plan), "ab")
    has_batchnorm = any("BatchNorm" in type(layer).__name__ for layer in network.modules())
    for what in PICTURES:
        if what == "gradients":
            draw_gradients(records(network), network)
        elif what == "batchnorm" and not has_batchnorm:
            with pytest.raises(UsageError, match="has no BatchNorm to draw"):
                draw_picture(what, subject)
        else:
            draw_picture(what, subject)


class Reverse(Layer):
    """A user's layer that declares nothing: the channels in reverse order."""

    def __call__(self, x: Tensor) -> Tensor:
        self.out = x.flip(-1)
        return self.out


@pytest.mark.full
def test_of_a_network_with_an_undeclared_layer_only_the_nodes_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def layers(vocab_size: int, block_size: int, n_embd: int, n_hidden: int) -> list[Layer]:
        hidden = [Linear(n_embd * block_size, n_hidden), BatchNorm1d(n_hidden), Reverse(), Tanh()]
        return [
            *[Embedding(vocab_size, n_embd), FlattenConsecutive(block_size)],
            *[*hidden, Linear(n_hidden, vocab_size)],
        ]

    plan = Plan("reverse", 4, 3, 5, layers)
    monkeypatch.setitem(NETWORKS, "reverse", plan)
    register_layer(Reverse)
    network = plan.build(4, Generator().manual_seed(1)).eval()
    save_model(Model(network, Vocabulary("abc"), plan), tmp_path / "model.safetensors")
    write_records(records(network), tmp_path / "gradients.csv")
    assert draw_main(["all", str(tmp_path / "out"), "--model", str(tmp_path), "--word", "abc"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines() == [
        "left out nodes: the nodes of this network cannot be drawn:"
        " Reverse() does not declare what it does with positions",
        *(f"wrote {tmp_path / 'out' / what}.png" for what in PICTURES if what != "nodes"),
    ]


def test_layers_that_pass_on_their_input_are_not_observed() -> None:
    dropout = network_plan("dropout", 8, 5, 6).build(9)
    paper = network_plan("wavenet-paper", None, 5, 6, stacks=2).build(9)
    for network, left_out in ((dropout, {"Dropout"}), (paper, {"FlattenDilated", "TakeLast"})):
        kinds = {type(layer).__name__ for layer in network.modules()}
        observed = {type(o.layer).__name__ for o in observe(network, contexts(9, context_length(network)))}
        assert kinds - observed == {*left_out, "FlattenConsecutive", "Sequential"}


def test_all_colors_are_in_the_palette() -> None:
    folder = Path(palette.__file__).parent
    sources = [path.read_text(encoding="utf-8") for path in folder.glob("*.py") if path.name != "palette.py"]
    assert len(sources) > 10
    for source in sources:
        assert not re.search(r"#[0-9A-Fa-f]{6}", source)
        for text in re.findall(r"[\"'](\w{3,})[\"']", source):
            assert text == "none" or not is_color_like(text), text
            assert text not in colormaps


@pytest.mark.full
def test_pictures_need_no_display_and_leave_pyplot_alone() -> None:
    code = """
import io, sys
from torch import Generator
from makemore import Vocabulary, draw_tree, network_plan
file = io.BytesIO()
draw_tree(network_plan("mlp", n_hidden=5).build(3, Generator()), Vocabulary("ab"), "ab").savefig(file)
assert file.getvalue().startswith(b"\\x89PNG") and "matplotlib.pyplot" not in sys.modules
"""
    hidden = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND")}
    subprocess.run([sys.executable, "-c", code], check=True, env=hidden)
