"""Generation by cached nodes against one word at a time through the layers.

Reference: ``generate_plain``, with trained networks. Behaviour: the same words from any batch size; the
filters; what is refused.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
import torch
from plain_generation import generate_plain
from torch import Generator

from makemore.core.errors import DataError
from makemore.core.random import default_generator
from makemore.data.encoding import decode_words, encode_words
from makemore.inference.convolution import Convolution
from makemore.inference.generation import (
    SEEDED_WORDS,
    Accept,
    Filters,
    NothingFits,
    Sample,
    generate,
    generate_scored,
    sample_symbols,
    uniform_numbers,
)
from makemore.inference.predictor import NetworkPredictor, as_predictor
from makemore.inference.scoring import log_likelihoods
from makemore.lecture.layers import Embedding, FlattenConsecutive, Linear, Sequential, Tanh
from makemore.lecture.sampling import next_symbol_probs
from makemore.lecture.words import Examples, Vocabulary
from makemore.run.catalog import Plan, network_plan
from makemore.training.engine import AutogradEngine

TEXT = "anna hannah nathan ethan tia tiana dana diana adina hana aidan ian dian nadia ada"
WORDS = TEXT.split()
VOCABULARY = Vocabulary("".join(WORDS))
V = len(VOCABULARY)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def trained(plan: Plan) -> Sequential:
    network = plan.build(V, seeded())
    X, Y = Examples(encode_words(VOCABULARY, WORDS), plan.block_size)[:]
    AutogradEngine(network).sgd_steps(X.expand(60, -1, -1), Y.expand(60, -1), [0.1] * 60)
    # The two ways add in different orders. In float64 this changes no symbol, in float32 about one in 1e6:
    # 3 words of 300,000 differed between the two precisions.
    for p in network.parameters():
        p.requires_grad = False
    return network.to(dtype=torch.float64).eval()


PLANS = {
    "pairs": network_plan("hierarchical", 8, 6, 24),
    "flat": network_plan("mlp", 3, 6, 24),
}
TRAINED = {name: trained(plan) for name, plan in PLANS.items()}
with default_generator(seeded(1)):
    TRAINED["deep"] = Sequential(  # layers that concatenate nothing; 4 positions at once
        [
            *[Embedding(V, 5), FlattenConsecutive(2), Linear(10, 8), Tanh(), Linear(8, 7), Tanh()],
            *[FlattenConsecutive(4), Linear(28, 9), Tanh(), Linear(9, 8), Tanh(), Linear(8, V)],
        ]
    ).to(dtype=torch.float64)
CONVOLUTIONS = {name: Convolution.from_network(network) for name, network in TRAINED.items()}
PAIRS = CONVOLUTIONS["pairs"]
HISTORIC = trained(network_plan("hierarchical-bug", 8, 6, 24))
"""A network that no convolution equals."""


@pytest.mark.parametrize(("name", "number"), [("pairs", 1200), ("flat", 500), ("deep", 300)])
def test_words_are_those_of_the_plain_way(name: str, number: int) -> None:
    plain = list(generate_plain(TRAINED[name], VOCABULARY, seeded(1), number))
    words = list(generate(CONVOLUTIONS[name], VOCABULARY, seeded(1), number))
    assert words == [sample.word for sample in plain]
    assert len(set(words)) > number // 4
    scored = list(generate_scored(CONVOLUTIONS[name], VOCABULARY, seeded(1), number))
    assert [sample.word for sample in scored] == words
    for fast, slow in zip(scored, plain, strict=True):
        assert fast.log_likelihood == pytest.approx(slow.log_likelihood, abs=1e-10)


def test_a_network_that_no_convolution_equals_has_the_words_of_the_plain_way() -> None:
    """For more words than go through the layers at once, and for fewer."""
    plain = list(generate_plain(HISTORIC, VOCABULARY, seeded(1), 400))
    scored = list(generate_scored(HISTORIC, VOCABULARY, seeded(1), 400))
    assert [sample.word for sample in scored] == [sample.word for sample in plain]
    assert len({sample.word for sample in plain}) > 100
    for fast, slow in zip(scored, plain, strict=True):
        assert fast.log_likelihood == pytest.approx(slow.log_likelihood, abs=1e-10)
    assert list(generate(HISTORIC, VOCABULARY, seeded(1), 7)) == [sample.word for sample in plain[:7]]


@pytest.mark.parametrize("name", TRAINED)
def test_a_network_its_convolution_and_its_predictors_give_the_same_words(name: str) -> None:
    network, number = TRAINED[name], 50
    words = list(generate(network, VOCABULARY, seeded(1), number))
    for predictor in (CONVOLUTIONS[name], as_predictor(network), NetworkPredictor(network)):
        assert list(generate(predictor, VOCABULARY, seeded(1), number)) == words


FILTERED = {
    "temperature": (Filters(temperature=0.5), ""),
    "cold": (Filters(temperature=0), "na"),
    "all": (Filters(temperature=1.3, min_length=4, top_k=4, top_p=0.8, max_length=6), ""),
    "all cut": (Filters(temperature=1.3, min_length=4, top_k=4, top_p=0.8, max_length=6, cut=True), ""),
    "prefix": (Filters(max_length=9, top_p=0.9), "han"),
    "prefix is all": (Filters(max_length=3), "ian"),
    "prefix is cut": (Filters(max_length=3, cut=True), "dan"),
    "may be empty": (Filters(min_length=0, max_length=6), ""),
    "all empty": (Filters(min_length=0, max_length=0, cut=True), ""),
}


@pytest.mark.full
@pytest.mark.parametrize("network", [TRAINED["pairs"], HISTORIC], ids=["pairs", "historic"])
@pytest.mark.parametrize(("filters", "prefix"), FILTERED.values(), ids=FILTERED)
def test_filters_and_scores_are_those_of_the_plain_way(
    filters: Filters, prefix: str, network: Sequential
) -> None:
    plain = list(generate_plain(network, VOCABULARY, seeded(2), 60, filters, prefix=prefix))
    fast = list(generate_scored(network, VOCABULARY, seeded(2), 60, filters, prefix=prefix))
    words = [sample.word for sample in fast]
    assert words == [sample.word for sample in plain]
    assert words == list(generate(network, VOCABULARY, seeded(2), 60, filters, prefix=prefix))
    assert all(word.startswith(prefix) for word in words)
    assert all(filters.min_length <= len(word) <= filters.max_length for word in words)
    scores = torch.tensor([sample.log_likelihood for sample in fast], dtype=torch.float64)
    torch.testing.assert_close(scores, log_likelihoods(network, VOCABULARY, words), atol=1e-10, rtol=0)


@pytest.mark.full
@pytest.mark.parametrize("plan", [PLANS["pairs"], network_plan("hierarchical-bug", 8, 6, 24)])
def test_words_do_not_depend_on_the_batch_size(plan: Plan) -> None:
    single = as_predictor(plan.build(V, seeded()))  # float32
    number = 3 * SEEDED_WORDS + 100
    words = list(generate(single, VOCABULARY, seeded(3), number))
    for batch in (1, 2 * SEEDED_WORDS, 10 * SEEDED_WORDS):
        assert list(generate(single, VOCABULARY, seeded(3), number, batch=batch)) == words
    assert list(generate(single, VOCABULARY, seeded(3), 50)) == words[:50]
    assert list(itertools.islice(generate(single, VOCABULARY, seeded(3)), number)) == words


def odd(words: Sequence[str]) -> list[bool]:
    return [len(word) % 2 == 1 for word in words]


@pytest.mark.parametrize("network", [TRAINED["pairs"], HISTORIC], ids=["pairs", "historic"])
def test_rejected_words_are_passed_over_as_in_the_plain_way(network: Sequential) -> None:
    filters, number = Filters(max_length=4, min_length=2), 40
    plain = list(generate_plain(network, VOCABULARY, seeded(2), number, filters, accept=odd))
    fast = list(generate_scored(network, VOCABULARY, seeded(2), number, filters, accept=odd))
    assert [sample.word for sample in fast] == [sample.word for sample in plain]
    assert {len(sample.word) for sample in fast} == {3}
    scores = log_likelihoods(network, VOCABULARY, [sample.word for sample in fast])
    assert scores.tolist() == pytest.approx([sample.log_likelihood for sample in fast], abs=1e-10)


def test_no_word_begins_or_ends_with_a_blank() -> None:
    vocabulary = Vocabulary(" ab\N{NO-BREAK SPACE}\N{IDEOGRAPHIC SPACE}")
    network = network_plan("mlp", 3, 6, 24).build(len(vocabulary), seeded()).to(dtype=torch.float64)
    words = list(generate(network, vocabulary, seeded(), 200))
    assert all(word == word.strip() for word in words)
    assert any(" " in word for word in words)
    plain = generate_plain(
        network, vocabulary, seeded(), 200, accept=lambda words: [word == word.strip() for word in words]
    )
    assert words == [sample.word for sample in plain]
    assert all(
        word.startswith(" a") and word == word.rstrip()
        for word in generate(network, vocabulary, seeded(), 50, prefix=" a")
    )


@pytest.mark.parametrize("accept", [None, odd], ids=["any word", "odd lengths"])
def test_accepted_words_do_not_depend_on_the_batch_size_or_the_part(accept: Accept | None) -> None:
    filters, number = Filters(max_length=4), 3 * SEEDED_WORDS + 100

    def samples(number: int | None, **more: int | range) -> Iterator[Sample]:
        return generate_scored(PAIRS, VOCABULARY, seeded(3), number, filters, accept=accept, **more)

    whole = list(samples(number))
    words = [sample.word for sample in whole]
    assert len(words) == number
    assert max(map(len, words)) == 4 - (accept is odd)
    for batch in (1, 2 * SEEDED_WORDS):
        assert [sample.word for sample in samples(number, batch=batch)] == words
    assert [sample.word for sample in samples(50)] == words[:50]
    assert [sample.word for sample in itertools.islice(samples(None), number)] == words
    for part in (range(0, 0), range(5, 900), range(1000, 2500), range(2048, 9999)):
        assert list(samples(number, part=part)) == whole[part.start : part.stop], "bit for bit"


def test_a_word_keeps_its_probability_given_that_it_is_accepted() -> None:
    """The distribution of the words of at most 3 characters, against all such words, listed."""
    network, number, letters = TRAINED["flat"], 20_000, VOCABULARY.characters
    every = ["".join(each) for n in (1, 2, 3) for each in itertools.product(letters, repeat=n)]
    scores = log_likelihoods(network, VOCABULARY, every).exp()
    expected = dict(zip(every, (scores / scores.sum()).tolist(), strict=True))
    found = Counter(generate(network, VOCABULARY, seeded(6), number, Filters(max_length=3)))
    assert set(found) <= set(every)
    distance = sum(abs(found[word] / number - p) for word, p in expected.items()) / 2
    noise = sum(math.sqrt(p * (1 - p) / number) for p in expected.values()) / 2  # sqrt(pi / 2) times the mean
    assert distance < 1.1 * noise


def test_words_are_yielded_before_nothing_fits_any_more() -> None:
    common = Counter(generate(PAIRS, VOCABULARY, seeded(7), 3000)).most_common(1)[0][0]
    seen: list[str] = []

    def ten_only(words: Sequence[str]) -> list[bool]:
        answers = []
        for word in words:
            answers.append(word == common and len(seen) < 10)
            seen.extend([word] * answers[-1])
        return answers

    words = generate(PAIRS, VOCABULARY, seeded(7), 50, accept=ten_only)
    assert list(itertools.islice(words, 10)) == [common] * 10
    with pytest.raises(NothingFits, match=r"^the last [\d,]+ sampled words were all rejected: 0 ") as error:
        next(words)
    assert error.value.sampled > 10_000


@pytest.mark.parametrize("filters", [Filters(temperature=0, max_length=2), Filters(top_k=1, max_length=2)])
def test_nothing_fits_if_all_words_are_too_long(filters: Filters) -> None:
    with pytest.raises(NothingFits, match=r"had more than max_length characters, 0 were not accepted$"):
        next(generate(PAIRS, VOCABULARY, seeded(), 3, filters, prefix="ha"))


def test_no_word_is_empty_unless_asked_for() -> None:
    with default_generator(seeded(1)):
        untrained = Sequential([Embedding(3, 2), FlattenConsecutive(2), Linear(4, 3)])
    vocabulary = Vocabulary("ab")
    assert "" in set(generate(untrained, vocabulary, seeded(), 100, Filters(min_length=0)))
    assert "" not in set(generate(untrained, vocabulary, seeded(), 1000))
    assert "" not in set(generate(untrained, vocabulary, seeded(), 1000, Filters(cut=True)))


def test_there_is_one_random_number_for_each_candidate_and_position() -> None:
    whole, size = range(3 * SEEDED_WORDS), 3 * SEEDED_WORDS
    many = uniform_numbers([(1, whole), (50, whole)])
    parts = [(1, range(10)), (50, range(1000, 3000)), (1, range(SEEDED_WORDS, SEEDED_WORDS + 5))]
    few = uniform_numbers(parts)
    rows = [i + size * (seed == 50) for seed, part in parts for i in part]
    positions = [(next(few), next(many)) for _ in range(3)]
    assert all(torch.equal(u, v[rows]) for u, v in positions)
    assert len({float(x) for _, v in positions for x in v}) == 6 * size


def test_words_follow_the_probabilities() -> None:
    number = 20_000
    first = [word[:1] for word in generate(PAIRS, VOCABULARY, seeded(4), number, Filters(min_length=0))]
    expected = PAIRS.logits(torch.zeros((1, 1), dtype=torch.int64))[0, 0].softmax(dim=0)
    for symbol, p in enumerate(expected.tolist()):
        share = first.count("" if symbol == 0 else VOCABULARY.itos[symbol]) / number
        assert abs(share - p) < 5 * (p * (1 - p) / number) ** 0.5 + 1e-9


def test_no_impossible_symbol_is_sampled_even_at_the_edges() -> None:
    probs = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0]])
    below_one = torch.nextafter(torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64))
    u = torch.stack([torch.zeros_like(below_one), torch.full_like(below_one, 0.25), below_one])
    assert sample_symbols(probs, torch.tensor([0, 0, 0]), u).tolist() == [1, 3, 3]
    assert sample_symbols(probs, torch.tensor([1, 1, 1]), u).tolist() == [4, 4, 4]
    uneven = torch.rand((200, 9), generator=seeded()) * (torch.rand((200, 9), generator=seeded(1)) < 0.5)
    uneven[:, 4] += 1e-8
    rows = torch.arange(200).repeat(100)
    drawn = sample_symbols(uneven, rows, torch.rand(20_000, dtype=torch.float64, generator=seeded(2)))
    assert (uneven[rows, drawn] > 0).all()
    assert (
        uneven[torch.arange(200), sample_symbols(uneven, torch.arange(200), below_one.expand(200))] > 0
    ).all()


def test_next_symbol_probs_applies_the_filters_in_order() -> None:
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()

    def probs(*args: float | None, may_stop: bool = True) -> list[float]:
        found = next_symbol_probs(logits, *args, may_stop=may_stop)  # type: ignore[arg-type]
        return [round(p, 4) for p in found[0].tolist()]

    assert probs() == [0.4, 0.3, 0.2, 0.1]
    assert probs(0.5) == [0.5333, 0.3, 0.1333, 0.0333]
    assert probs(0) == [1, 0, 0, 0]
    assert probs(0, may_stop=False) == [0, 1, 0, 0]
    assert probs(1e-50) == [1, 0, 0, 0]
    assert probs(1e-50, may_stop=False) == [0, 1, 0, 0]
    assert probs(1, 2) == [0.5714, 0.4286, 0, 0]
    assert probs(1, 2, may_stop=False) == [0, 0.6, 0.4, 0]
    assert probs(1, None, 0.6) == [0.5714, 0.4286, 0, 0]
    assert probs(1, None, 0.75) == [0.4444, 0.3333, 0.2222, 0]
    assert probs(0.5, None, 0.6) == [0.64, 0.36, 0, 0]  # of the probabilities after the temperature
    assert probs(1, 2, 0.5) == [1, 0, 0, 0]  # of those that top_k leaves
    assert probs(1, 9, 1) == [0.4, 0.3, 0.2, 0.1]
    even = next_symbol_probs(torch.zeros((1, 4)), top_k=2)
    assert even.tolist() == [[0.5, 0.5, 0, 0]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -1}, "temperature must be 0 or more, got -1"),
        ({"temperature": float("nan")}, "temperature must be 0 or more, got nan"),
        ({"top_k": 0}, "top_k must be 1 or more, got 0"),
        ({"top_p": 0}, "top_p must be above 0 and at most 1, got 0"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1, got 1.5"),
        ({"min_length": 4, "max_length": 3}, "min_length must be from 0 to max_length 3, got 4"),
        ({"max_length": -1}, "max_length must be 0 or more, got -1"),
    ],
)
def test_filters_out_of_range_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Filters(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("plain", [True, False])
def test_impossible_prefixes_are_refused(plain: bool) -> None:
    def words(prefix: str) -> list[str]:
        filters = Filters(max_length=5)
        if plain:
            return [
                s.word
                for s in generate_plain(TRAINED["flat"], VOCABULARY, seeded(), 1, filters, prefix=prefix)
            ]
        return list(generate(PAIRS, VOCABULARY, seeded(), 1, filters, prefix=prefix))

    with pytest.raises(ValueError, match="the prefix 'hannah' has 6 characters, more than max_length 5"):
        words("hannah")
    with pytest.raises(DataError, match="'z'"):
        words("z")


def test_no_words_at_all() -> None:
    for network in (PAIRS, HISTORIC):
        assert list(generate(network, VOCABULARY, seeded(), 0)) == []
        assert list(generate_scored(network, VOCABULARY, seeded(), 0)) == []
    assert Sample("a", -1.0) == ("a", -1.0, ())


def test_decode_words_undoes_encode_words() -> None:
    words = ["anna", "", "tia", "", ""]
    assert decode_words(VOCABULARY, encode_words(VOCABULARY, words)) == words
