"""Sampled words in the page: how many, how long, copied and saved; and the word that the page opens with."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from pages import SAMPLED, SET, layers_of, model_of, sample_again, texts, written
from torch import Generator

from makemore import Filters, Model, generate
from makemore.data.capitals import Capitals
from makemore.page.building import page_html

pytestmark = pytest.mark.full

DONE = """
const look = () => document.getElementById("sampled-note").textContent.includes(arguments[0])
  ? arguments[1]() : setTimeout(look, 5);
look();
"""
"""A script that waits for a note below the words."""


def set_numbers(page: Any, **numbers: object) -> None:
    for name, number in numbers.items():
        page.execute_script(SET, name, str(number))


def short_words() -> Model:
    """A network whose words have one or two characters, more or less."""
    model = model_of("abc")
    with torch.no_grad():
        layers_of(model.network)[-1].state_dict()["bias"][0] += 2
    return model


def test_so_many_words_of_these_lengths(open_page: Any, bundled_page: Path) -> None:
    page = open_page(bundled_page)
    for number, shortest, longest in ((40, 3, 5), (1, 1, 100), (25, 4, 4)):
        set_numbers(page, longest=longest, shortest=shortest, number=number)
        assert texts(page, "#sample") == [f"Sample {number} word{'s' * (number > 1)}"]
        page.execute_script("document.getElementById('sample').click()")
        page.execute_async_script(SAMPLED.replace("12", str(number)))
        lengths = {len(word) for word in texts(page, "#sampled bdi")}
        assert lengths <= set(range(shortest, longest + 1))


def test_a_longer_word_is_not_cut_but_sampled_again(open_page: Any, tmp_path: Path) -> None:
    """The words of each length are as frequent as those of makemore-sample."""
    model = short_words()
    page = open_page(written(tmp_path / "page.html", model))
    number = 4000
    told = page.execute_script(
        "const words = []; while (words.length < arguments[0]) {"
        "  const word = makemore.sample('', {shortest: 2, longest: 3}); if (word !== null) words.push(word);"
        "} return words",
        number,
    )
    assert {len(word) for word in told} == {2, 3}
    filters = Filters(min_length=2, max_length=3)
    expected = Counter(generate(model.network, model.vocabulary, Generator().manual_seed(1), 40_000, filters))
    found = Counter(told)
    for word, times in expected.most_common(12):
        share = times / 40_000
        assert found[word] / number == pytest.approx(share, abs=5 * math.sqrt(share / number))


def test_lengths_and_numbers_that_cannot_be_are_refused(open_page: Any, bundled_page: Path) -> None:
    page = open_page(bundled_page)
    before = texts(page, "#sampled bdi")
    for name, value, message in (
        ("number", "0", "must be a whole number from 1 to 500"),
        ("number", "", "must be a whole number from 1 to 500"),
        ("number", "501", "must be a whole number from 1 to 500"),
        ("shortest", "0", "must be whole numbers up to 100, the smaller one first"),
        ("shortest", "2.5", "must be whole numbers up to 100, the smaller one first"),
        ("longest", "101", "must be whole numbers up to 100, the smaller one first"),
    ):
        valid = page.find_element("id", name).get_attribute("value")
        set_numbers(page, **{name: value})
        help_text = "#number-is" if name == "number" else "#lengths-are"
        assert texts(page, help_text) == [message]
        assert page.find_element("id", name).get_attribute("aria-invalid") == "true"
        page.execute_script("document.getElementById('sample').click()")
        assert texts(page, "#sampled bdi") == before
        set_numbers(page, **{name: valid})
        assert page.find_element("id", name).get_attribute("aria-invalid") == "false"
    set_numbers(page, longest=3, shortest=4)
    assert texts(page, "#lengths-are") == ["must be whole numbers up to 100, the smaller one first"]


def test_words_that_do_not_fit_are_given_up(open_page: Any, tmp_path: Path) -> None:
    model = model_of("ab")
    with torch.no_grad():
        layers_of(model.network)[-1].state_dict()["bias"][0] -= 60  # no end
    page = open_page(written(tmp_path / "page.html", model), wait=False)
    set_numbers(page, longest=9)
    page.execute_script("document.getElementById('sample').click()")
    page.execute_async_script(DONE, "0 of 12: none of the last 2,000 sampled was at most 9 characters long.")
    assert not page.find_element("id", "copy").is_enabled()
    page.execute_script("document.getElementById('finish').click()")
    assert texts(page, "#note") == ["No word that begins like this ended within 100 characters."]


def test_words_are_copied_and_saved(open_page: Any, bundled_page: Path, tmp_path: Path) -> None:
    page = open_page(bundled_page)
    words = sample_again(page)
    text = "".join(f"{word}\n" for word in words)
    permissions = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    page.execute_cdp_cmd("Browser.grantPermissions", permissions)
    page.find_element("id", "copy").click()
    page.execute_async_script(DONE, "12 words copied.")
    assert page.execute_async_script("navigator.clipboard.readText().then(arguments[0])") == text

    page.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    page.find_element("id", "save").click()
    saved = tmp_path / "words.txt"
    page.execute_async_script("setTimeout(arguments[0], 300)")
    for _ in range(50):
        if saved.exists():
            break
        page.execute_async_script("setTimeout(arguments[0], 50)")
    assert saved.read_text(encoding="utf-8") == text

    page.execute_script("navigator.clipboard.writeText = () => Promise.reject()")
    page.find_element("id", "copy").click()
    page.execute_async_script(DONE, "This browser did not let the page copy: save the words as a file.")


def test_the_page_opens_with_a_word(open_page: Any, tmp_path: Path) -> None:
    capitals = Capitals(after="-")
    plain = model_of("abÉé-")
    for model, word, shown in (
        (plain, "", ""),
        (plain, "bÉa", "bÉa"),
        (plain, "AB", "ab"),
        (model_of("abe\u0301-"), "bé-A", "be\u0301-a"),
        (Model(model_of("abé-").network, model_of("abé-").vocabulary, capitals=capitals), "É-b", "É-B"),
        (plain, "ab" * 50, "ab" * 50),
    ):
        path = tmp_path / "page.html"
        path.write_text(page_html(model, word=word), encoding="utf-8")
        page = open_page(path)
        assert page.find_element("id", "word").get_attribute("value") == shown
        assert len(texts(page, "#steps .char")) == len(shown) + 1
        assert texts(page, "#note") == [""]


def test_no_word_is_empty(open_page: Any, tmp_path: Path) -> None:
    model = model_of("ab", "mlp", block_size=1)
    with torch.no_grad():
        weights = layers_of(model.network)[-1].state_dict()
        weights["weight"].zero_()
        weights["bias"].copy_(torch.tensor([9.0, 0.0, 0.0]))  # nearly always the end
    page = open_page(written(tmp_path / "page.html", model))
    assert set(texts(page, "#sampled bdi")) == {"a", "b"}
    page.execute_script("document.getElementById('clear').click(); document.getElementById('finish').click()")
    assert page.find_element("id", "word").get_attribute("value") in ("a", "b")


def test_capitals_in_another_unicode_form(open_page: Any, tmp_path: Path) -> None:
    model = model_of("zoe\u0301")
    model = Model(model.network, model.vocabulary, capitals=Capitals())
    page = open_page(written(tmp_path / "page.html", model, ["Éz", "Zoé"]))
    told = page.execute_script("return ['Éz', 'éz', 'E\u0301Z'].map((w) => makemore.logProbs(w))")
    assert told[0] == told[1] == told[2]
    assert page.execute_script("return ['Éz', 'E\u0301z', 'ZOÉ', 'zo'].map(makemore.isKnown)") == [
        True, True, True, False,
    ]  # fmt: skip
