"""The page as a file: its content, what is left out, what is refused, and the command that writes it."""

from __future__ import annotations

import base64
import json
import math
import re
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from pages import ODD, labels_of, layers_of, model_of
from torch import Tensor

import makemore.page.building
from makemore import (
    Dropout,
    Embedding,
    FlattenConsecutive,
    HistoricBatchNorm1d,
    LayerNorm,
    Linear,
    Sequential,
    Tanh,
    load_model,
    load_words,
    page_html,
)
from makemore.commands.cli import page_main
from makemore.core.errors import DataError, UsageError
from makemore.core.layer import Layer
from makemore.page.building import describe, describe_members, most_frames, pack_words
from makemore.paper.layers import ResidualBlock
from makemore.run.frames import Frame
from makemore.run.model_file import Model, save_model


class Parts(HTMLParser):
    """The tags of a page, and the texts of its title, scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.inside = ""
        self.texts: dict[str, list[str]] = {"title": [], "script": [], "style": []}
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.inside = tag
        self.texts.get(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside in self.texts:
            self.texts[self.inside][-1] += data


def content_of(page: str) -> dict[str, object]:
    content = json.loads(Parts(page).texts["script"][0])
    assert isinstance(content, dict)
    return content


def unpacked(text: str) -> list[str]:
    """The words of a packed list, as the page unpacks them."""
    words, before = [], ""
    for line in zlib.decompress(base64.b64decode(text), wbits=-15).decode().split("\n"):
        before = before[: ord(line[0]) - ord("0")] + line[1:]
        words.append(before)
    return words


def test_the_default_page_is_one_file_of_less_than_a_megabyte(bundled_page: Path) -> None:
    page = bundled_page.read_text(encoding="utf-8")
    assert len(page.encode()) < 1_000_000
    tags = Parts(page).tags
    assert not {"link", "img", "iframe", "object", "embed"} & set(tags)
    assert (tags.count("script"), tags.count("style")) == (2, 1)
    assert "src=" not in page.split("<script")[0]
    assert re.findall(r"https?://[^\s\"']+", page) == [
        "https://www.youtube.com/watch?v=t3YJ5hKiMQ0",
        *["http://www.w3.org/2000/svg"] * page.count("http://www.w3.org/2000/svg"),
    ]
    content = content_of(page)
    assert content["parameters"] == 76_579
    assert content["source"] == "names.txt"
    words = content["words"]
    assert isinstance(words, dict)
    assert unpacked(words["packed"]) == sorted(load_words().words)


def test_no_word_no_character_and_no_name_is_markup() -> None:
    model = model_of(ODD)
    plain = Parts(page_html(model_of("abc"))).tags
    page = page_html(model, ["<b>", "</script><script>alert(1)", "\u2028"], "</title><script>.txt")
    parts = Parts(page)
    assert parts.tags == plain
    assert parts.texts["title"] == ["makemore: wavenet, trained on </title><script>.txt"]
    assert content_of(page)["characters"] == model.vocabulary.characters
    assert "<" not in parts.texts["script"][0]
    assert parts.texts["script"][0].isascii()


def test_what_looks_like_a_place_to_fill_is_left_alone() -> None:
    page = page_html(model_of("@abc"), ["${policy}"] * 3, "${script}")
    assert content_of(page)["source"] == "${script}"
    assert Parts(page).texts["title"] == ["makemore: wavenet, trained on ${script}"]


@pytest.mark.parametrize(
    "words",
    [
        ["a"],
        ["", "a", "ab", "abc", "b"],
        ["x" * 200, "x" * 200 + "y"],
        sorted(["é", "e\u0301", "😀", "😀a", "\u202e"]),
    ],
)
def test_packing(words: list[str]) -> None:
    assert unpacked(pack_words(words)) == words


def test_a_list_too_long_is_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(makemore.page.building, "MAX_LIST", 20)
    words = [f"{i:04d}" for i in range(100)]
    assert content_of(page_html(model_of("0123456789"), words))["words"] == {"number": 100, "packed": None}
    assert content_of(page_html(model_of("abc")))["words"] is None


class Undeclared(Layer):
    """A layer that declares nothing."""


class Sign(Layer):
    """A pointwise layer that the page does not know."""

    pointwise = True

    def __call__(self, x: Tensor) -> Tensor:
        self.out = x.sign()
        return self.out


class OwnHistoricNorm(HistoricBatchNorm1d):
    """May compute something else."""


def test_networks_that_are_refused_in_one_line() -> None:
    bug = ResidualBlock(FlattenConsecutive(2), [Linear(4, 2), HistoricBatchNorm1d(2, 2)], Linear(2, 2))
    model = model_of("abc")
    for network, message in [
        (
            Sequential([Embedding(4, 2), bug, FlattenConsecutive(2), Linear(4, 4)]),
            "no page can be made of this network: statistics at each position can be shown in a tree only",
        ),
        (
            Sequential([Embedding(4, 2), OwnHistoricNorm(2, 2), FlattenConsecutive(2), Linear(4, 4)]),
            r"no page can be made of this network: OwnHistoricNorm\(2\) does not declare",
        ),
        (
            Sequential([Embedding(4, 2), Undeclared()]),
            r"no page can be made of this network: Undeclared\(\) does not declare what it does with",
        ),
        (
            Sequential([Embedding(4, 2), FlattenConsecutive(1), Sign(), Linear(2, 4)]),
            r"no page can be made of this network: a page cannot compute the layer Sign\(\)",
        ),
        (
            Sequential([Embedding(4, 2), FlattenConsecutive(1), Tanh(), Sign(), Linear(2, 4)]),
            r"no page can be made of this network: a page cannot compute the layer Sign\(\)",
        ),
        (Sequential([Linear(4, 4)]), "begins with an Embedding"),
    ]:
        with pytest.raises(UsageError, match=f"^.*{message}.*$") as refused:
            page_html(replace(model, network=network))
        assert "\n" not in str(refused.value)


def test_dropout_is_not_in_the_page() -> None:
    model = model_of("abc", "dropout")
    described, tensors = describe(model.network)
    layers = [layer for layer in layers_of(model.network) if not isinstance(layer, Dropout)]
    assert len(layers) == len(layers_of(model.network)) - 3
    plain, same = describe(Sequential(layers))
    assert described == plain
    assert all(torch.equal(a, b) for a, b in zip(tensors, same, strict=True))


def test_layernorm_is_described_with_its_tensors() -> None:
    model = model_of("abc", "layernorm")
    described, tensors = describe(model.network)
    expected = [{"name": "layernorm", "eps": 1e-5}, {"name": "tanh"}]
    assert [stage["activations"] for stage in described["stages"]] == [*[expected] * 3, []]
    first = layers_of(model.network)[3]
    assert isinstance(first, LayerNorm)
    assert torch.equal(tensors[3], first.gamma)
    assert torch.equal(tensors[4], first.beta)


def test_frames_are_in_float16_unless_a_value_is_too_large() -> None:
    model, other, large = model_of("abc"), model_of("abc", n_hidden=12), model_of("abc")
    with torch.no_grad():
        layers_of(large.network)[-1].state_dict()["weight"][0, 0] = 1e6
    networks = [other.network, large.network, model.network]
    frames = [Frame(10 * i, network, math.nan if i else 3.5, None) for i, network in enumerate(networks)]
    content = content_of(page_html(model, frames=frames))
    told = content["frames"]
    assert isinstance(told, list)
    assert [frame.get("half") for frame in told] == [True, False, None]
    assert [(frame["step"], frame["loss"], frame["val"]) for frame in told] == [
        (0, 3.5, None),
        (10, None, None),
        (20, None, None),
    ]
    half = torch.frombuffer(bytearray(base64.b64decode(told[0]["weights"])), dtype=torch.float16)
    assert torch.equal(half, describe_members(other.network)[1].half())
    assert content["weights"] == page_html(model).split('"weights": "')[1].split('"')[0]
    assert content_of(page_html(model))["frames"] is None


def test_a_page_has_as_many_frames_as_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("abc")
    for room in (100_000, 1):
        monkeypatch.setattr(makemore.page.building, "MAX_FRAMES", room)
        number = most_frames(model.network)
        frames = [Frame(i, model.network, 1.0, None) for i in range(number)]
        content = content_of(page_html(model, frames=frames))
        told, last = content["frames"], content["weights"]
        assert isinstance(told, list)
        assert isinstance(last, str)
        size = sum(len(frame.get("weights", "")) for frame in told) + len(last)
        assert number == 2 or size <= room + 4 * number
    assert number == 2


def test_labels_are_described(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {(0, 1): 5, (1, 1): 30, (2, 2): 4, (2, 0): 7}
    labels = labels_of({"gender": ["F", "M"], "</script>": ["<b>", "Thai"]}, counts)
    model = model_of("abc", members=2, labels=labels)
    page = page_html(model)
    content = content_of(page)
    described, points = content["labels"], content["points"]
    assert isinstance(described, dict)
    assert isinstance(points, list)
    assert described["rows"] == [0, 1, 1, 1, 2, 0, 2, 2]
    assert described["counts"] == [5, 30, 7, 4]
    assert described["left_out"] == 0
    names = [(column["name"], column["values"]) for column in described["columns"]]
    assert names == [("gender", ["F", "M"]), ("</script>", ["<b>", "Thai"])]
    assert all(len(column["points"]) == 4 for column in points)
    members = content_of(page)["members"]
    assert isinstance(members, list)
    assert [member["labels"] for member in members] == [6, 6]
    assert Parts(page).tags == Parts(page_html(model_of("abc"))).tags

    monkeypatch.setattr(makemore.page.building, "MAX_COMBINATIONS", 2)
    described = content_of(page_html(model))["labels"]
    assert isinstance(described, dict)
    assert (described["rows"], described["counts"]) == ([1, 1, 2, 0], [30, 7])
    assert described["left_out"] == 2
    assert content_of(page_html(model_of("abc")))["labels"] is None


def test_labels_that_are_not_the_networks_are_refused() -> None:
    labels = labels_of({"gender": ["F", "M"]}, {(1,): 1})
    with pytest.raises(DataError, match="the network needs labels"):
        page_html(replace(model_of("abc", labels=labels), labels=None))
    with pytest.raises(DataError, match="the network was made without labels"):
        page_html(replace(model_of("abc"), labels=labels))


def test_the_word_that_a_page_opens_with() -> None:
    model = model_of("abé")
    assert content_of(page_html(model))["word"] is None
    assert content_of(page_html(model, word=""))["word"] == ""
    assert content_of(page_html(model, word="Abe\u0301\u200b"))["word"] == "abé"
    with pytest.raises(DataError, match=r"^the character '7' is not in the vocabulary 'abé'$"):
        page_html(model, word="ab7")
    with pytest.raises(UsageError, match=r"^the page's word has 101 characters: a page's longest"):
        page_html(model, word="a" * 101)


def test_the_command(
    small_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert page_main([]) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"wrote page\.html, \d{3} KB: open it in a browser\n", out)
    assert err.startswith("makemore-page: there is no run in out/")
    assert content_of(Path("page.html").read_text(encoding="utf-8"))["parameters"] == 76_579

    assert page_main(["bare.html", "--without-words", "--word", "Emma"]) == 0
    content = content_of(Path("bare.html").read_text(encoding="utf-8"))
    assert content["word"] == "emma"
    assert content["words"] is None

    save_model(model_of("abc", members=3), "ensemble")
    assert page_main(["ensemble.html", "--model", "ensemble"]) == 0
    members = content_of(Path("ensemble.html").read_text(encoding="utf-8"))["members"]
    assert isinstance(members, list)
    assert len(members) == 3

    assert page_main(["two.html", "--model", "ensemble", "--compare", "bundled", "--without-words"]) == 0
    content = content_of(Path("two.html").read_text(encoding="utf-8"))
    assert content["names"] == ["ensemble", "bundled"]
    other = content["other"]
    assert isinstance(other, dict)
    assert other["characters"] == load_model().vocabulary.characters

    capsys.readouterr()
    save_model(small_model, "small")
    assert page_main(["--model", "small"]) == 0
    assert (
        "cannot say which words are new: the model file does not name a word list" in capsys.readouterr().err
    )
    content = content_of(Path("page.html").read_text(encoding="utf-8"))
    assert (content["words"], content["source"], content["network"]) == (None, "", "hierarchical")


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--model", "none"], 2, "makemore-page: cannot read none: No such file"),
        (["none/page.html"], 1, "makemore-page: cannot write none/page.html: No such file"),
        (["/"], 1, "makemore-page: cannot write /: it is not a regular file"),
        (["--data", "none"], 2, "makemore-page: cannot read the word list none"),
        (["--data", "other", "--without-words"], 2, "choose one"),
        (["--data", "other"], 2, "other is not the word list that the model was trained on"),
        (
            ["--word", "emma7", "--without-words"],
            2,
            "makemore-page: the character '7' is not in the vocabulary",
        ),
        (["--word", "a" * 101, "--without-words"], 2, "a page's longest word has 100"),
        (["--frames", "none", "--without-words"], 2, "makemore-page: cannot read none/model.safetensors"),
        (["--frames", "out", "--model", "shipped"], 2, "choose one"),
        (["--compare", "none", "--without-words"], 2, "makemore-page: cannot read none: No such file"),
    ],
)
def test_mistakes_are_one_line(
    flags: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other").write_text("a\nb\nc\nd\ne\nf\n", encoding="utf-8")
    save_model(load_model(), "shipped")
    try:
        ended = page_main(flags)
    except SystemExit as stop:
        ended = int(stop.code or 0)
    out, err = capsys.readouterr()
    assert ended == code
    told = [line for line in err.splitlines() if "no run in out/" not in line and "cannot say" not in line]
    assert len(told) == 1
    assert message in told[0]
    assert out == ""
    assert not Path("page.html").exists()
