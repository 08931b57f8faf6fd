"""The bundled list: real names of many languages, lower case, sorted, without duplicates."""

from __future__ import annotations

import re

from makemore.data.word_list import load_words


def test_bundled_list() -> None:
    names = load_words().words
    assert len(names) >= 6_000
    assert len(set(names)) == len(names)
    assert names == sorted(names)
    assert [name for name in names if re.fullmatch("[a-z]{2,15}", name) is None] == []


def test_names_of_many_languages_are_there() -> None:
    names = set(load_words().words)
    sample = (
        "emma olivia siobhan llewellyn joost heidi bjorn sigridur amelie yannick inigo jordi"
        " joao chiara ionut eleni besnik wojciech jiri zsofia aino tiiu oksana goran ilze"
        " giorgi hasmik mehmet shirin yusuf aaliyah noam berik gulnara arjun lakshmi anjali"
        " thuy somchai bayu hiroshi yuki minjun xiaoming oyuna amara chukwuemeka kwame thabo"
        " makena tadesse abebe keanu aroha citlali nayra"
    ).split()
    assert [name for name in sample if name not in names] == []
