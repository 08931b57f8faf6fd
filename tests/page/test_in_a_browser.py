"""The page in a browser: its probabilities against the package's, and everything a person can do with it."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from string import ascii_letters, ascii_lowercase
from typing import Any

import pytest
import torch
from pages import (
    ODD,
    SET,
    WIDTHS,
    assert_fits,
    checked_by_axe,
    layers_of,
    log_probs,
    model_of,
    percents,
    resize,
    sample_again,
    texts,
    violations,
    write,
    written,
)
from torch import Generator, Tensor

from makemore import Filters, Model, generate, load_model, load_words, page_html
from makemore.data.capitals import Capitals
from makemore.inference.generation import sample_symbols
from makemore.lecture.sampling import next_symbol_probs
from makemore.page.building import pack_words

pytestmark = pytest.mark.full


def page_log_probs(page: Any, words: list[str]) -> list[Tensor]:
    """The log-probabilities that the page computes."""
    told = page.execute_script(
        "return arguments[0].map((word) => [...word, ''].map((_, i) => "
        "makemore.logProbs([...word].slice(0, i).join(''))))",
        words,
    )
    return [torch.tensor(rows, dtype=torch.float64) for rows in told]


def likeliest(model: Model, prefix: str = "") -> str:
    return next(
        generate(model.network, model.vocabulary, Generator(), 1, Filters(temperature=0), prefix=prefix)
    )


def test_log_probabilities_are_the_packages_for_200_words(open_page: Any, bundled_page: Path) -> None:
    model = load_model()
    page = open_page(bundled_page)
    sampled = list(generate(model.network, model.vocabulary, Generator().manual_seed(7), 99))
    words = [*load_words().words[::447][:100], *sampled, "abcdefghijklmnopqrstuvwxyz"]
    assert len(words) == 200
    for word, told in zip(words, page_log_probs(page, words), strict=True):
        torch.testing.assert_close(told, log_probs(model, word), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "sizes",
    [
        {"block_size": 2},
        {"block_size": 16},
        {"name": "mlp"},
        {"name": "mlp", "block_size": 1},
        {"name": "mlp-8", "n_hidden": 7},
        {"members": 3},
        {"name": "hierarchical-bug"},
        {"name": "hierarchical-bug", "block_size": 16, "members": 2},
        {"name": "gated"},
        {"name": "dropout"},
        {"name": "layernorm"},
        {"name": "layernorm", "members": 2},
        {"name": "wavenet-paper"},
        {"name": "wavenet-paper", "block_size": 15, "stacks": 2},
        {"name": "wavenet-paper", "members": 2},
    ],
)
def test_other_networks(sizes: dict[str, Any], open_page: Any, bundled_page: Path) -> None:
    model = model_of("abc$é😀", **sizes)
    content = page_html(model).split('id="content">')[1].split("</script>")[0]
    told = open_page(bundled_page).execute_script(
        "const other = new makemore.network.constructor(JSON.parse(arguments[0]));"
        "return arguments[1].map((word) => [...word, ''].map((_, i) => "
        "Array.from(other.logProbs(other.encode([...word].slice(0, i).join(''))))))",
        content,
        words := ["", "ab", "é😀$abcabcabcé😀", "c" * 40],
    )
    for word, rows in zip(words, told, strict=True):
        torch.testing.assert_close(
            torch.tensor(rows, dtype=torch.float64), log_probs(model, word), atol=1e-5, rtol=0
        )


def test_capitals_are_put_back(open_page: Any, tmp_path: Path) -> None:
    texts_of = "return arguments[0].map((word) => makemore.network.restore([...word]))"
    for rule in (Capitals(), Capitals(everywhere=True), Capitals(after=" -'", small=("on", "ßé"))):
        model = replace(model_of("abhnoséßå -'"), capitals=rule)
        known = [rule.restore(word) for word in ("han", "san-on bo", "é", "ßé-ß")]
        page = open_page(written(tmp_path / "page.html", model, known))
        words = ["", "han", "on", "san-on", "é-on-a", "--a", "'on' b", "ß-ßé-é", "åb-a"]
        assert page.execute_script(texts_of, words) == [rule.restore(word) for word in words]
        assert page.execute_script("return arguments[0].map(makemore.isKnown)", known) == [True] * len(known)
        assert page.execute_script("return makemore.isKnown('Bo')") is False
        field = page.find_element("id", "word")
        field.clear()
        field.send_keys("SAN-o")
        assert field.get_attribute("value") == rule.restore("san-o")
        assert page.execute_script("return makemore.state.symbols") == model.vocabulary.encode("san-o")
        sample_again(page)
        sampled = texts(page, "#sampled bdi:not(.label)")
        assert sampled == [rule.restore(rule.lower(word)) for word in sampled]


def test_filters_and_samples_are_those_of_makemore_sample(open_page: Any, bundled_page: Path) -> None:
    page = open_page(bundled_page)
    logits = torch.randn(6, 9, generator=Generator().manual_seed(1), dtype=torch.float64) * 3
    logits[0, 3:6] = logits[0].max()  # equally likely ones
    logs = logits.log_softmax(dim=1)
    u = [0.0, 0.2, 0.5, 0.999, 1 - 2**-53]
    tries = [(1, 9), (0, 9), (0.3, 9), (2, 3), (1, 1), (1e-3, 4), (0.7, 100)]
    for (temperature, top_k), may_stop in product(tries, (True, False)):
        probs = next_symbol_probs(logs, temperature, top_k, may_stop=may_stop)
        told = page.execute_script(
            "const [logs, t, k, u, mayStop] = arguments;"
            "const probs = logs.map((row) => makemore.filtered(row, t, k, mayStop));"
            "return [probs, probs.map((row) => u.map((x) => makemore.pick(row, x)))]",
            logs.tolist(), temperature, top_k, u, may_stop,
        )  # fmt: skip
        torch.testing.assert_close(torch.tensor(told[0], dtype=torch.float64), probs, atol=1e-12, rtol=0)
        for row, symbols in zip(probs, told[1], strict=True):
            ids, numbers = torch.zeros(len(u), dtype=torch.int64), torch.tensor(u, dtype=torch.float64)
            assert symbols == sample_symbols(row[None], ids, numbers).tolist()


def test_words_sampled_at_temperature_0_are_the_packages(open_page: Any, bundled_page: Path) -> None:
    model, page = load_model(), open_page(bundled_page)
    for prefix in ("", "ma", "xq"):
        told = page.execute_script("return makemore.sample(arguments[0], {temperature: 0})", prefix)
        assert told == likeliest(model, prefix)


def test_the_whole_list_is_in_the_page(open_page: Any, bundled_page: Path) -> None:
    page = open_page(bundled_page)
    words = ["", "a", "ab", "é", "e\u0301", "😀", "😀a", "\u202ex", "x" * 200]
    told = page.execute_async_script(
        "makemore.unpackWords(arguments[0]).then((words) => arguments[1]([...words]))",
        pack_words(sorted(words)),
    )
    assert sorted(told) == sorted(words)
    listed = load_words().words
    assert page.execute_script("return arguments[0].every(makemore.isKnown)", listed[::100])
    assert not page.execute_script("return ['', 'zzzz', 'emm'].some(makemore.isKnown)")


PICTURES = "return [...document.querySelectorAll('canvas')].map((c) => c.toDataURL())"
"""The pictures of the nodes, row by row."""


def test_typing_moves_the_probabilities_and_the_tree(open_page: Any, bundled_page: Path) -> None:
    page, model = open_page(bundled_page), load_model()
    box = page.switch_to.active_element
    page.execute_script("document.getElementById('word').focus()")
    box = page.switch_to.active_element
    page.execute_script("document.getElementById('word').select()")
    seen = set()
    for i, ch in enumerate("ÉMma", start=1):  # capitals are understood, unknown characters left out
        box.send_keys(ch)
        word = "mma"[: i - 1]
        assert page.execute_script("return document.getElementById('word').value") == word
        expected = log_probs(model, word)[-1].exp()
        told = percents(page, "#next .how")
        assert told == pytest.approx([*expected[1:].tolist(), expected[0].item()], abs=6e-4)
        seen.add(tuple(page.execute_script(PICTURES)))
        context = [*"." * (8 - len(word)), *word]
        assert texts(page, ".leaf") == context
    assert len(seen) == 4
    assert len(next(iter(seen))) == 8 + 4 + 2 + 1 + 1
    assert texts(page, "#note") == [""]
    box.send_keys("é7")
    assert page.execute_script("return document.getElementById('word').value") == "mma"
    assert texts(page, "#note") == ["The network does not know 7: it has 26 characters."]


def test_every_tile_shows_what_the_layers_compute(open_page: Any, bundled_page: Path) -> None:
    page, model = open_page(bundled_page), load_model()
    told = page.execute_script(
        "const [member] = makemore.network.members;"
        "return member.nodes(makemore.network.context(makemore.network.encode('emma')))"
        ".map((row) => row.map((node) => Array.from(node)))"
    )
    context = torch.tensor([[0] * 4 + model.vocabulary.encode("emma")])
    with model.network.evaluating():
        model.network(context)
    layers = layers_of(model.network)
    shown = [layer.out for layer in layers if type(layer).__name__ in ("Embedding", "Tanh")]
    for row, out in zip(told, [*shown, layers[-1].out], strict=True):
        torch.testing.assert_close(torch.tensor(row), out.view(len(row), -1), atol=1e-5, rtol=0)
    write(page, "emma")
    pixels = page.execute_script(
        "const tile = document.querySelectorAll('canvas')[11];"  # the fourth of the first hidden layer
        "return Array.from(tile.getContext('2d').getImageData(0, 0, tile.width, tile.height).data)"
    )
    painted = torch.tensor(pixels, dtype=torch.float64).view(-1, 4)[:128, :3]
    blue, none, orange = (torch.tensor(rgb) for rgb in ([0, 114, 178], [243, 240, 233], [213, 94, 0]))
    for square, value in zip(painted, shown[1][0, 3].tolist(), strict=True):
        expected = none + ((blue if value < 0 else orange) - none) * abs(value)
        torch.testing.assert_close(square, expected.double(), atol=1, rtol=0)


def test_the_nodes_of_each_member_and_of_residual_and_skip_connections(
    open_page: Any, tmp_path: Path
) -> None:
    model = model_of("abc", "wavenet-paper", members=2)
    page = open_page(written(tmp_path / "page.html", model))
    rows = [8, 4, 4, 2, 1, 2, 1, 1, 1, 1, 1]  # gates, residuals and skips of three blocks; three to end
    first = page.execute_script(PICTURES)
    assert len(first) == sum(rows)
    assert page.execute_script("return document.querySelectorAll('#tree path.added').length") == 4 + 2 + 1 + 1
    page.execute_script("document.querySelector('#tree .row:last-child .node').focus()")
    seen = page.execute_script("return [...document.querySelectorAll('.node.seen, .node.chosen')].length")
    assert seen == sum(rows), "all of them are below the outputs"
    page.execute_script("document.getElementById('member').value = 1")
    page.execute_script("document.getElementById('member').dispatchEvent(new Event('change'))")
    second = page.execute_script(PICTURES)
    assert len(second) == len(first)
    assert second != first


def test_a_click_on_a_sampled_word_shows_where_it_came_from(open_page: Any, bundled_page: Path) -> None:
    page, model = open_page(bundled_page), load_model()
    word = texts(page, "#sampled bdi")[4]
    page.execute_script("document.querySelectorAll('#sampled button')[4].click()")
    symbols = [*model.vocabulary.encode(word), 0]
    logs = log_probs(model, word)
    own = [logs[i, symbol].exp().item() for i, symbol in enumerate(symbols)]
    assert texts(page, "#steps .char") == [*word, "end"]
    assert percents(page, "#steps .how") == pytest.approx(own, abs=6e-4)
    nats = -sum(map(math.log, own))
    assert f"{nats:.2f} nats" in texts(page, "#fact")[0]
    assert page.execute_script("return document.activeElement === document.querySelector('.step')")
    page.execute_script("document.getElementById('as-table').open = true")
    page.execute_async_script("setTimeout(arguments[0], 20)")
    rows = texts(page, "#table tr")
    assert len(rows) == len(symbols)
    for i, row in enumerate(rows):
        ranks = logs[i].argsort(descending=True).tolist()
        context = ("." * 8 + word)[i : i + 8]
        ch = [*word, ". (the end)"][i]
        assert row == f"{context}{ch}{100 * own[i]:.1f} %{1 + ranks.index(symbols[i])}"


def press(page: Any, *keys: str) -> None:
    for key in keys:
        page.switch_to.active_element.send_keys(key)


def label(page: Any) -> str:
    return page.execute_script(
        "const one = document.activeElement; return one.getAttribute('aria-label') || one.id"
    )


def test_everything_works_by_keyboard(open_page: Any, bundled_page: Path) -> None:
    keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
    page = open_page(bundled_page)
    stops = page.execute_script(
        "return [...document.querySelectorAll('[role=toolbar]')]"
        ".map((bar) => [...bar.querySelectorAll('button')].filter((b) => b.tabIndex === 0).length)"
    )
    assert stops == [1, 1, 1], "one stop of the Tab key each"
    page.execute_script("document.getElementById('word').focus()")
    page.switch_to.active_element.send_keys(keys.CONTROL, "a")
    press(page, "e", "m")
    order = []
    for _ in range(17):
        press(page, keys.TAB)
        order.append(label(page))
    assert order[:3] == ["finish", "clear", "play"]
    assert order[3].startswith("? next, character 3")
    assert order[4] == ""  # the summary of the table
    assert order[5].startswith("Embedding 1 of 8, has seen: start")
    assert order[6].startswith("a ")
    assert order[7:12] == ["temperature", "top-k", "number", "shortest", "longest"]
    assert order[12:15] == ["begin", "novel", "sample"]
    assert page.switch_to.active_element.tag_name == "button"

    page.execute_script("document.getElementById('word').focus()")
    press(page, keys.ENTER)
    assert texts(page, "#steps .char")[-1] == "end"
    press(page, keys.CONTROL + "a" + keys.NULL, "e", "m")
    assert texts(page, "#steps .char") == ["e", "m", "?"]

    page.execute_script("document.querySelector('#tree [tabindex=\"0\"]').focus()")
    press(page, keys.END, keys.ARROW_DOWN, keys.ARROW_DOWN)
    assert label(page) == "Layer 2, node 2 of 2, has seen: start start e m"
    assert texts(page, ".leaf.seen") == [".", ".", "e", "m"]
    assert texts(page, "#node")[0].startswith("Layer 2, node 2 of 2 has seen ..em: 128 numbers from -")
    press(page, keys.ARROW_LEFT, keys.ARROW_DOWN)
    assert label(page).startswith("Layer 3, node 1 of 1")

    page.execute_script("document.querySelector('#next [tabindex=\"0\"]').focus()")
    press(page, keys.ARROW_DOWN, keys.ARROW_RIGHT)
    assert label(page).startswith("c ")
    press(page, keys.ENTER)
    assert page.execute_script("return document.getElementById('word').value") == "emc"
    press(page, keys.END, keys.ENTER)
    assert texts(page, "#steps .char")[-1] == "end"
    page.execute_script("document.querySelector('.step').focus()")
    press(page, keys.ARROW_RIGHT, keys.ENTER)
    assert texts(page, "#after")[0].startswith("after “e” came m (")
    page.execute_async_script("setTimeout(arguments[0], 700)")
    assert texts(page, "#status")[0].startswith("Likeliest next: ")


def test_settings_change_the_sampled_words(open_page: Any, bundled_page: Path) -> None:
    page = open_page(bundled_page)
    page.execute_script(SET, "temperature", "0")
    assert texts(page, "#temperature-value") == ["0.00"]
    always = [likeliest(load_model())] * 12
    assert sample_again(page) == always
    page.execute_script(SET, "temperature", "1")
    page.execute_script(SET, "top-k", "1")
    assert sample_again(page) == always
    page.execute_script(SET, "top-k", "")
    page.execute_script("document.getElementById('begin').click(); document.getElementById('novel').click()")
    page.execute_script(SET, "word", "mar")
    words = sample_again(page)
    assert all(word.startswith("mar") for word in words)
    assert not set(words) & set(load_words().words)


@pytest.mark.parametrize("refused", ["-4", "0", "2.5", "28"])
def test_a_top_k_that_cannot_be_is_refused(refused: str, open_page: Any, bundled_page: Path) -> None:
    page = open_page(bundled_page)
    before = texts(page, "#sampled bdi")
    page.execute_script(SET, "top-k", refused)
    assert texts(page, "#top-k-is") == ["must be a whole number from 1 to 27"]
    assert page.execute_script("return document.getElementById('top-k').ariaInvalid") == "true"
    assert texts(page, "#others") == [""], "the probabilities are those of all characters"
    page.execute_script("document.getElementById('sample').click()")
    assert texts(page, "#sampled bdi") == before
    page.execute_script(SET, "top-k", "3")
    assert texts(page, "#top-k-is") == ["characters at each step (top k)"]
    assert page.execute_script("return document.getElementById('top-k').ariaInvalid") == "false"
    assert sample_again(page) != before


def test_playing_an_empty_word_says_why_nothing_happens(open_page: Any, bundled_page: Path) -> None:
    page = open_page(bundled_page)
    for empty in ("clear", "finish"):
        page.execute_script("document.getElementById('clear').click()")
        if empty == "finish":  # the empty word itself
            page.execute_script("document.querySelector('#next button:last-child').click()")
            assert texts(page, "#steps .char") == ["end"]
        page.execute_script("document.getElementById('play').click()")
        assert texts(page, "#note") == [
            "There is no character to go through yet: type a beginning, or press “Finish it”."
        ]
        assert page.execute_script("return document.getElementById('play').ariaPressed") == "false"
    write(page, "em")
    assert texts(page, "#note") == [""]
    page.execute_script("document.getElementById('play').click()")
    assert texts(page, "#play") == ["Stop"]
    assert page.execute_script("return makemore.state.at") == 0


def test_what_stands_for_a_word_that_cannot_be_seen_looks_like_no_word(
    open_page: Any, tmp_path: Path
) -> None:
    """A word "U+200D" can be sampled, too: only the style tells them apart."""
    model = model_of("empty word+U20D\u200d", "mlp", block_size=1)
    with torch.no_grad():
        weights = model.network.layers[-1].state_dict()
        weights["weight"].zero_()
        weights["bias"].fill_(-50.0)
        weights["bias"][[0, *model.vocabulary.encode("\u200d")]] = 0.0  # the end, or that one character
    page = open_page(written(tmp_path / "page.html", model))
    for word, seen in zip(page.execute_script(SAMPLED_WORDS), texts(page, "#sampled bdi"), strict=True):
        assert seen == " ".join(["U+200D"] * len(word)) != ""
    styles = "return [...document.querySelectorAll('#sampled bdi')].map((e) => getComputedStyle(e).fontStyle)"
    assert page.execute_script(styles) == ["italic"] * 12
    with torch.no_grad():
        weights["bias"].fill_(-50.0)
        weights["bias"][[0, *model.vocabulary.encode("e")]] = 0.0
    page = open_page(written(tmp_path / "page.html", model))
    assert page.execute_script(styles) == ["normal"] * 12


SAMPLED_WORDS = (
    "return [...document.querySelectorAll('#sampled button')].map((b) =>"
    " makemore.network.decode(b.dataset.symbols.split(',').filter(Boolean).map(Number)))"
)
"""A script that returns the sampled words as they are."""


def test_words_are_understood_in_any_unicode_form(open_page: Any, tmp_path: Path) -> None:
    model = model_of("Zoénl\u0302")
    page = open_page(written(tmp_path / "page.html", model, ["Zoe\u0301", "x"]))
    for typed in ("Zoé", "Zoe\u0301", "\ufeffZo\u200bé\u2066"):
        write(page, typed)
        assert page.execute_script("return document.getElementById('word').value") == "Zoé"
        assert texts(page, "#note") == [""]
        assert page.execute_script("return makemore.isKnown(arguments[0])", typed[:4]) == (typed[0] == "Z")
    told = page.execute_script("return ['Zoé', 'Zoe\u0301'].map(makemore.logProbs)")
    assert told[0] == told[1]
    write(page, "Z\u0304\u200d")
    assert texts(page, "#note") == ["The network does not know U+0304 U+200D: it has 6 characters."]
    page = open_page(written(tmp_path / "page.html", model_of("e\u0301")))
    write(page, "é")
    assert page.execute_script("return document.getElementById('word').value") == "e\u0301"


def test_one_of_anything_is_not_several(open_page: Any, tmp_path: Path) -> None:
    model = model_of("a", "mlp", n_embd=1, n_hidden=1)
    page = open_page(written(tmp_path / "page.html", model, ["a"]))
    write(page, "b")
    shown = page.execute_script("return document.body.innerText")
    assert "after 1 word." in shown
    assert "not among the 1 word it was trained on" in shown
    assert "The network does not know b: it has 1 character." in shown
    assert "embedding, 1 number a character" in shown
    assert not re.search(r"\b1 (words|numbers|characters)\b", shown)


def test_a_network_without_new_words_says_so(open_page: Any, tmp_path: Path) -> None:
    model = model_of("ab", "mlp", block_size=1)
    with torch.no_grad():
        weights = layers_of(model.network)[-1].state_dict()
        weights["weight"].zero_()
        weights["bias"].copy_(torch.tensor([50.0, 0.0, 0.0]))  # always the end
    page = open_page(written(tmp_path / "page.html", model, ["a", "b"]))
    page.execute_script("document.getElementById('novel').click(); document.getElementById('sample').click()")
    page.execute_async_script(
        "const look = () => document.getElementById('sampled-note').textContent ? arguments[0]()"
        " : setTimeout(look, 5); look()"
    )
    assert texts(page, "#sampled-note") == ["0 of 12: none of the last 2,000 sampled was new."]


def test_nothing_breaks_out_of_the_page(open_page: Any, tmp_path: Path) -> None:
    model = model_of(ODD)
    source = "</title><script>window.broken = 1</script><img src=x onerror='window.broken = 1'>.txt"
    path = written(tmp_path / "page.html", model, [ODD[:9], "<b>", "\u202e"], source)
    page = open_page(path)
    assert page.title == f"makemore: wavenet, trained on {source}"
    for number in range(12):
        page.execute_script("document.querySelectorAll('#sampled button')[arguments[0]].click()", number)
    page.execute_script("document.getElementById('as-table').open = true")
    page.execute_async_script("setTimeout(arguments[0], 20)")
    write(page, "\u202e\u2028")
    assert texts(page, "#after") == ["after “U+202E U+2028”"]
    write(page, "<i></script><script>i")
    assert texts(page, "#after bdi") == texts(page, "#begin-text bdi") == ["<i></script><script>i"]
    tags = page.execute_script("return [...document.querySelectorAll('*')].map((e) => e.localName)")
    assert tags.count("script") == 2
    assert not {"b", "i", "img"} & set(tags)
    shown = texts(page, "#next .char")
    assert "space" in shown
    assert {"U+2028", "U+202E", "U+200D", "U+FE0F", "◌\u0301", "😀", "ש", "<"} <= set(shown)
    words = ["", ODD[::-1], ODD, "\u202e" * 9]
    for word, told in zip(words, page_log_probs(page, words), strict=True):
        torch.testing.assert_close(told, log_probs(model, word), atol=1e-5, rtol=0)
    assert page.execute_script("return performance.getEntriesByType('resource').length") == 0
    page.execute_script(
        "const script = document.createElement('script'); script.textContent = 'window.broken = 1';"
        "document.body.append(script); document.body.insertAdjacentHTML('beforeend', arguments[0])",
        "<img src='data:,' onerror='window.broken = 1'>",
    )
    page.execute_async_script("setTimeout(arguments[0], 50)")
    refused = [entry["message"] for entry in page.get_log("browser")]
    assert len(refused) >= 2
    assert all("Content Security Policy" in message for message in refused)
    assert page.execute_script("return window.broken") is None


@pytest.mark.parametrize("characters", ["abcd", "".join(map(chr, range(0x4E00, 0x4E00 + 4999)))])
def test_few_and_many_symbols(characters: str, open_page: Any, tmp_path: Path) -> None:
    model = model_of(characters)
    with torch.no_grad():
        layers_of(model.network)[-1].state_dict()["bias"][0] += 9  # words end
    page = open_page(written(tmp_path / "page.html", model, [characters[:3]]), 360)
    word = characters[1] + characters[0]
    write(page, word)
    expected = log_probs(model, word)[-1].exp()
    if len(characters) < 64:
        order = [*range(1, 5), 0]
        assert texts(page, "#others") == [""]
    else:
        order = expected.argsort(descending=True)[:40].tolist()
        assert texts(page, "#others")[0].startswith("The likeliest 40 of 5,000; all others together: ")
    assert percents(page, "#next .how") == pytest.approx(expected[order].tolist(), abs=6e-4)
    assert page.execute_script("return document.documentElement.scrollWidth") == 360


def brightness(color: str) -> int:
    """The sum of the three numbers of "rgb(r, g, b)", from 0 to 765."""
    return sum(map(int, color.removeprefix("rgb(").removesuffix(")").split(",")))


LAYOUT = """
const height = (e) => e.getBoundingClientRect().height, all = (s) => [...document.querySelectorAll(s)];
const lines = all("#next .how").map((e) => {
  const text = document.createRange();
  text.selectNodeContents(e);
  return text.getClientRects().length === 1 && e.scrollWidth <= e.clientWidth;
});
const widths = new Set(all("#next .bar").map((e) => Math.round(e.getBoundingClientRect().width)));
const [tree, next] = all(".pair > section").map((e) => e.getBoundingClientRect());
const blank = tree.bottom - document.getElementById("node").getBoundingClientRect().bottom;
return [lines.every(Boolean), widths.size, next.top >= tree.bottom || blank < 0.4 * tree.height];
"""
"""Whether each probability is in one line, how many lengths bars have, whether the tree fills its panel."""


@pytest.mark.parametrize(
    "characters", [ascii_lowercase, ascii_letters, "".join(map(chr, range(0x4E00, 0x4E80)))]
)
def test_the_probabilities_of_few_and_many_characters_fill_their_panel(
    characters: str, open_page: Any, tmp_path: Path
) -> None:
    model = model_of(characters)
    with torch.no_grad():
        model.network.layers[-1].state_dict()["bias"][1:24:2] -= 10  # unlikely ones
    page = open_page(written(tmp_path / "page.html", model), WIDTHS[0])
    for width in [*WIDTHS, 1000]:
        resize(page, width)
        for word in ("", characters[:2]):
            write(page, word)
            assert len(characters) > 64 or "0.0" in "".join(texts(page, "#next .how")), "such as 0.017 %"
            assert page.execute_script(LAYOUT) == [True, 1, True], (width, word)
            page.execute_script("document.querySelector('.next:not(.likely) .how').textContent = '<0.001 %'")
            assert page.execute_script(LAYOUT) == [True, 1, True], (width, word)
        assert_fits(page, width)


@pytest.mark.parametrize("dark", [False, True])
def test_every_width_light_and_dark(dark: bool, open_page: Any, bundled_page: Path) -> None:
    page = open_page(bundled_page, WIDTHS[0], dark)
    for width in WIDTHS:
        assert_fits(page, width)
    paper, ink = (
        page.execute_script("return getComputedStyle(document.body)[arguments[0]]", name)
        for name in ("backgroundColor", "color")
    )
    assert (brightness(paper) < 150 and brightness(ink) > 600) == dark


def test_nothing_moves_if_reduced_motion_is_preferred(open_page: Any, bundled_page: Path) -> None:
    moving = "document.getElementById('clear').click(); return document.getAnimations().length"
    assert open_page(bundled_page, calm=True).execute_script(moving) == 0
    assert open_page(bundled_page, calm=False).execute_script(moving) > 0


@pytest.mark.parametrize("dark", [False, True])
def test_accessibility_by_axe(dark: bool, axe: str, open_page: Any, bundled_page: Path) -> None:
    page = open_page(bundled_page, 1280, dark)
    page.execute_script("document.getElementById('as-table').open = true")
    page.execute_script("document.querySelector('#sampled button').click()")
    found = checked_by_axe(page, axe)
    assert violations(found) == []
    assert len(found["passes"]) > 30
