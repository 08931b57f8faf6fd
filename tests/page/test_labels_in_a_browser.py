"""Labels in the page: probabilities, blends and sampled labels against the package's, and every control."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from pages import (
    ODD,
    SAMPLED,
    SET,
    WIDTHS,
    assert_fits,
    checked_by_axe,
    labels_of,
    layers_of,
    model_of,
    percents,
    sample_again,
    texts,
    violations,
    write,
    written,
)
from torch import Tensor

from makemore import LabelDistribution, Model, conditioned
from makemore.pictures.embedding import principal_components
from makemore.run.label_choice import ChosenLabels, typical_network
from makemore.training.ensemble import members_of

pytestmark = pytest.mark.full

LABELS = labels_of(
    {"gender": ["F", "M"], "country": ["Irish", "Japanese", "Thai", "Welsh"]},
    {(0, 1): 5, (1, 1): 30, (1, 2): 10, (2, 2): 40, (2, 3): 15, (1, 0): 20},
)
"""Two columns; some words have no gender, or no country, and none is Welsh."""

CHOICES: list[dict[str, Any]] = [
    {"gender": "F", "country": "Irish"},
    {"gender": "M", "country": ""},
    {"gender": "F", "country": {"Irish": 0.7, "Japanese": 0.3}},
    {"gender": {"F": 1, "M": 3}, "country": {"Thai": 0.25, "Irish": 0.25, "Japanese": 0.5}},
    {"country": "Thai"},
    {"country": "Welsh"},
    {"country": {"Irish": 0.5, "Thai": 0.5}},
    {"gender": ""},
    {},
]


def log_probs(model: Model, word: str, choice: Mapping[str, Any]) -> Tensor:
    """Each context of the word through the layers, in float64; where no label is chosen, at the mean."""
    chosen = conditioned(model.network, choice) if choice else model.network
    assert model.labels is not None
    distribution = LabelDistribution.of(model.labels, choice)
    network = typical_network(ChosenLabels(chosen, distribution if distribution.columns else None))
    size = model.block_size
    symbols = [0] * size + model.vocabulary.encode(word)
    contexts = torch.tensor([symbols[i : i + size] for i in range(len(word) + 1)])
    members = [copy.deepcopy(member).to(torch.float64) for member in members_of(network)]
    each = []
    for member in members:
        with member.evaluating():
            each.append(torch.log_softmax(member(contexts), dim=1).exp())
    return torch.stack(each).mean(0).log()


@pytest.mark.parametrize(
    "sizes", [{}, {"members": 3}, {"name": "wavenet-paper"}, {"name": "mlp"}, {"name": "gated", "members": 2}]
)
def test_probabilities_for_labels_and_blends_are_the_networks(
    sizes: dict[str, Any], open_page: Any, tmp_path: Path
) -> None:
    model = model_of("abcdefg", labels=LABELS, **sizes)
    page = open_page(written(tmp_path / "page.html", model))
    words = ["", "ab", "gfedcbabc"]
    for choice in CHOICES:
        told = page.execute_script(
            "return arguments[0].map((word) => [...word, ''].map((_, i) =>"
            " makemore.logProbs(word.slice(0, i), arguments[1])))",
            words,
            choice,
        )
        for word, rows in zip(words, told, strict=True):
            expected = log_probs(model, word, choice)
            torch.testing.assert_close(torch.tensor(rows, dtype=torch.float64), expected, atol=4e-6, rtol=0)


def fields(page: Any, number: int = 0) -> list[Any]:
    """The two fields and the slider of a column."""
    return page.find_elements("css selector", ".column")[number].find_elements(
        "css selector", "select, input"
    )


CHANGE = (
    "const [field, value] = arguments; field.value = value;"
    "for (const type of ['input', 'change']) field.dispatchEvent(new Event(type, {bubbles: true}))"
)
"""A script that sets a field as a person does."""


def test_the_chooser_and_the_slider(open_page: Any, tmp_path: Path) -> None:
    model = model_of("abcdefg", labels=LABELS)
    page = open_page(written(tmp_path / "page.html", model))
    write(page, "abc")
    (gender, _, _), (country, blend, slider) = fields(page), fields(page, 1)

    def check(choice: dict[str, Any], told: str) -> None:
        expected = log_probs(model, "abc", choice)[-1].exp()
        assert percents(page, "#next .how") == pytest.approx(
            [*expected[1:].tolist(), expected[0].item()], abs=6e-4
        )
        fact = re.sub("[\u2068\u2069]", "", texts(page, "#fact")[0])
        assert fact.startswith(f"With {told} in "), fact

    assert texts(page, ".column:first-child select:first-of-type option")[:4] == [
        "any: as in the list", "no label", "F", "M",
    ]  # fmt: skip
    check({}, "the mean of the labels, one word")
    assert not blend.is_enabled()
    page.execute_script(CHANGE, country, 3)
    check({"country": "Thai"}, "Thai and the mean of the other labels, one word")
    page.execute_script(CHANGE, gender, 1)
    check({"gender": "F", "country": "Thai"}, "F, Thai, one sampled word")
    assert blend.is_enabled()
    assert not slider.is_displayed()
    page.execute_script(CHANGE, blend, 1)
    assert slider.is_displayed()
    page.execute_script(CHANGE, slider, 30)
    check(
        {"gender": "F", "country": {"Thai": 0.7, "Irish": 0.3}}, "F, 70 % Thai, 30 % Irish, one sampled word"
    )
    page.execute_async_script(SAMPLED)
    assert {re.sub("[\u2068\u2069]", "", t) for t in texts(page, "#sampled .labels")} == {
        "F, 70 % Thai, 30 % Irish"
    }
    page.execute_script(CHANGE, slider, 100)
    check({"gender": "F", "country": "Irish"}, "F, Irish, one sampled word")
    page.execute_script(CHANGE, gender, 0)
    check({"gender": "", "country": "Irish"}, "no label, Irish, one sampled word")
    page.execute_script(CHANGE, gender, "")
    page.execute_script(CHANGE, country, "")
    check({}, "the mean of the labels, one word")


def test_sampled_labels_are_as_frequent_as_in_the_list(open_page: Any, tmp_path: Path) -> None:
    page = open_page(written(tmp_path / "page.html", model_of("abcdefg", labels=LABELS)))
    number = 20_000
    for choice in CHOICES:
        told = page.execute_script(
            "const { labels } = makemore.network, choice = labels.choiceOf(arguments[0]);"
            "const weights = labels.weights(choice);"
            "return Array.from({length: arguments[1]}, () => labels.sample(choice, weights)"
            "  .flatMap((shares, k) => choice[k] ? [] : [labels.text(k, shares[0][0])]).join())",
            choice,
            number,
        )
        expected = LabelDistribution.of(LABELS, choice)
        names = [",".join(name or "no label" for name in names) for names in expected.names]
        found = Counter(told)
        assert set(found) == set(names)
        for name, prob in zip(names, expected.probs.tolist(), strict=True):
            assert found[name] / number == pytest.approx(
                prob, abs=5 * (prob * (1 - prob) / number) ** 0.5 + 1e-9
            )


def test_each_sampled_word_has_its_labels_and_shows_where_it_came_from(
    open_page: Any, tmp_path: Path
) -> None:
    model = model_of("abcdefg", labels=LABELS)
    page = open_page(written(tmp_path / "page.html", model))
    page.execute_script(SET, "number", "60")
    page.execute_script("document.getElementById('sample').click()")
    page.execute_async_script(SAMPLED.replace("12", "60"))
    told = [re.sub("[\u2068\u2069]", "", text).split(", ") for text in texts(page, "#sampled .labels")]
    pairs = {tuple("" if text == "no label" else text for text in pair) for pair in told}
    assert pairs == {LABELS.names(i) for i in range(len(LABELS))}
    for i in (0, 1, 2, 59):
        page.execute_script("document.querySelectorAll('#sampled button')[arguments[0]].click()", i)
        word = texts(page, "#sampled bdi")[i]
        choice = {"gender": told[i][0], "country": told[i][1]}
        choice = {name: "" if text == "no label" else text for name, text in choice.items()}
        logs = log_probs(model, word, choice)
        symbols = [*model.vocabulary.encode(word), 0]
        own = [logs[j, symbol].exp().item() for j, symbol in enumerate(symbols)]
        assert percents(page, "#steps .how") == pytest.approx(own, abs=6e-4)
        assert (
            f": {-sum(logs[j, s].item() for j, s in enumerate(symbols)):.2f} nats" in texts(page, "#fact")[0]
        )
        assert ", ".join(told[i]) in re.sub("[\u2068\u2069]", "", texts(page, "#fact")[0])
    write(page, "a")
    assert "mean of the labels" in texts(page, "#fact")[0]
    page.execute_script("document.getElementById('finish').click()")
    assert "mean of the labels" not in texts(page, "#fact")[0], "it was sampled with some labels"


def test_two_labels_side_by_side_and_as_points(open_page: Any, tmp_path: Path) -> None:
    labels = labels_of({"country": ["A", "B", "C", "D", "E"]}, {(i,): 10 * i for i in range(1, 6)})
    model = model_of("abcdefghijklmnop", labels=labels, members=2)
    page = open_page(written(tmp_path / "page.html", model))
    write(page, "ab")

    def check(names: list[str]) -> None:
        told = [re.sub("[\u2068\u2069]", "", t) for t in texts(page, "#two-table th")]
        assert told == ["Next", *names]
        logs = [log_probs(model, "ab", {"country": name})[-1].exp() for name in names]
        order = torch.maximum(*logs).argsort(descending=True)[:12].tolist()
        faces = [model.vocabulary.itos[i] if i else "end" for i in order]
        assert texts(page, "#two-table .char") == faces
        shown = percents(page, "#two-table .how")
        assert shown[::2] == pytest.approx([logs[0][i].item() for i in order], abs=6e-4)
        assert shown[1::2] == pytest.approx([logs[1][i].item() for i in order], abs=6e-4)

    check(["E", "D"])
    first, second = page.find_elements("css selector", "#two select")
    page.execute_script(CHANGE, first, 1)
    check(["A", "D"])
    page.execute_script(CHANGE, second, 1)
    check(["A", "A"])
    chosen, blend, _ = fields(page)
    page.execute_script(CHANGE, chosen, 2)
    page.execute_script(CHANGE, blend, 3)
    check(["B", "C"])  # a blend is compared

    rows = members_of(model.network)[0].modules()
    weight = next(layer.label_weight for layer in rows if hasattr(layer, "label_weight"))
    points, shares = principal_components(weight[1:])
    told = page.execute_script("return makemore.network.points[0].points")
    torch.testing.assert_close(
        torch.tensor(told, dtype=torch.float64).view(5, 2), points / points.abs().max(), atol=1e-4, rtol=0
    )
    assert f"({100 * sum(shares):.0f} % of the variance)" in texts(page, "#points-is")[0]
    places = page.execute_script(
        "return Object.fromEntries([...document.querySelectorAll('#points circle')]"
        ".map((e) => [e.textContent.slice(1, 2), Number(e.getAttribute('cx'))]))"
    )
    assert sorted(places, key=places.__getitem__) == ["ABCDE"[i] for i in points[:, 0].argsort().tolist()]


HOSTILE = {
    "</script><img src=x onerror='window.broken = 1'>": [ODD, "<b>", "\u202eabc", "any", "no label"],
    "שם": ["long " * 12 + "label", "x" * 80, "עיר"],
    "country of origin": [f"Land {i}" for i in range(40)],
}


def hostile_model() -> Model:
    combinations = {(i % 6, i % 4, i % 41): i + 1 for i in range(200)}
    columns = {name: sorted(values) for name, values in HOSTILE.items()}
    return model_of("abc", labels=labels_of(columns, combinations), members=2)


def many_labels() -> Model:
    names = sorted(f"{'abcdefghij'[i % 10] * (1 + i % 4)} {i}" for i in range(5000))
    model = model_of("abc", labels=labels_of({"town": names}, {(i + 1,): 1 + i % 7 for i in range(5000)}))
    layers_of(model.network)[-1].state_dict()["bias"][0] += 3  # short words
    return model


def test_labels_are_never_markup(open_page: Any, tmp_path: Path) -> None:
    page = open_page(written(tmp_path / "page.html", hostile_model()))
    for i in range(3):
        page.execute_script(SET.replace("'input'", "'change'"), "column", str(i))
    page.execute_script("document.querySelector('#sampled button').click()")
    tags = page.execute_script("return [...document.querySelectorAll('*')].map((e) => e.localName)")
    assert tags.count("script") == 2
    assert not {"b", "img"} & set(tags)
    assert page.execute_script("return window.broken") is None
    assert texts(page, ".column label > bdi")[::2] == list(HOSTILE)
    first = page.execute_script(
        "return [...document.querySelector('.column select').options].map((o) => o.text)"
    )
    assert len(first) == 7


def test_five_thousand_labels_are_searched(open_page: Any, tmp_path: Path) -> None:
    model = many_labels()
    assert model.labels is not None
    path = written(tmp_path / "page.html", model)
    assert path.stat().st_size < 1_000_000
    page = open_page(path)
    write(page, "ab")
    town, blend, slider = fields(page)
    assert town.get_attribute("list") == blend.get_attribute("list")
    assert len(texts(page, "datalist option")) == 5000
    name = model.labels.columns[0].values[777]
    town.send_keys(name.upper())
    assert texts(page, "#labels-note") == [""]
    town.send_keys("\t")
    expected = log_probs(model, "ab", {"town": name})[-1].exp()
    told = percents(page, "#next .how")
    assert told == pytest.approx([*expected[1:].tolist(), expected[0].item()], abs=6e-4)
    blend.send_keys("nowhere\t")
    assert (
        re.sub("[\u2068\u2069]", "", texts(page, "#labels-note")[0]) == "There is no label nowhere in town."
    )
    assert blend.get_attribute("aria-invalid") == "true"
    assert not slider.is_displayed()
    page.execute_script(CHANGE, blend, model.labels.columns[0].values[3])
    assert texts(page, "#labels-note") == [""]
    assert slider.is_displayed()
    page.execute_script(CHANGE, town, "")
    assert percents(page, "#next .how") != told
    assert len(page.find_elements("css selector", "#points circle")) == 5000
    assert page.execute_script(
        "const start = performance.now(); document.getElementById('clear').click();"
        "return performance.now() - start"
    ) < 500  # fmt: skip


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("make", [hostile_model, many_labels])
def test_every_width_light_and_dark_with_labels(
    make: Any, dark: bool, open_page: Any, tmp_path: Path
) -> None:
    page = open_page(written(tmp_path / "page.html", make(), ["a"]), WIDTHS[0], dark)
    column = fields(page)
    values = [1, 2] if make is hostile_model else list(make().labels.columns[0].values[:2])
    for field, value in zip(column, values, strict=False):
        page.execute_script(CHANGE, field, value)
    sample_again(page)
    for width in WIDTHS:
        assert_fits(page, width)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("make", [hostile_model, many_labels])
def test_accessibility_of_labels_by_axe(
    make: Any, dark: bool, axe: str, open_page: Any, tmp_path: Path
) -> None:
    page = open_page(written(tmp_path / "page.html", make(), ["a"]), 1280, dark)
    town, *_ = fields(page)
    page.execute_script(CHANGE, town, 1 if make is hostile_model else "none of them")
    assert violations(checked_by_axe(page, axe)) == []
