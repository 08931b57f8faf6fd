"""A head start: which values a new network takes over, and the run that begins with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from makemore.commands.cli import train_main
from makemore.core.errors import UsageError
from makemore.core.layer import Layer
from makemore.data.labels import Labels
from makemore.data.word_list import WordList
from makemore.lecture.words import Vocabulary
from makemore.run.catalog import Plan, build_network, network_plan
from makemore.run.head_start import start_from
from makemore.run.model_file import Model, load_model

OLD = ["adam", "anna", "bert", "dora", "emil", "nora", "otto"]
NEW = ["zoé", "anna", "bea", "dan", "ezra", "noa", "tom"]


def model(
    words: list[str], seed: int, labels: list[str] | None = None, members: int = 1, plan: Plan | None = None
) -> Model:
    """A model with drawn values in all its tensors, the rows of labels and the statistics included."""
    given = WordList.of(words, labels=None if labels is None else {"kind": labels})
    data = given.data(8)
    plan = network_plan("wavenet", n_embd=6, n_hidden=10) if plan is None else plan
    sizes = () if data.labels is None else data.labels.sizes
    generator = Generator().manual_seed(seed)
    network = build_network(plan, members, len(data.vocabulary), generator, sizes)
    for tensor in network.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape, generator=generator))
    return Model(network, data.vocabulary, plan, labels=data.labels)


def rows_of(vocabulary: Vocabulary, table: Tensor) -> dict[str, Tensor]:
    return {vocabulary.itos[symbol]: table[symbol] for symbol in vocabulary.itos}


def label_rows(labels: Labels, network: Layer) -> dict[str, Tensor]:
    return dict(zip(("", *labels.columns[0].values), network.layers[0].label_weight, strict=True))


def test_common_characters_keep_their_rows_and_new_ones_are_drawn() -> None:
    trained, new = model(OLD, 1), model(NEW, 2)
    before = model(NEW, 2).network.state_dict()
    start_from(new, trained)
    first, last = new.network.layers[0].weight, new.network.layers[-1]
    for own, drawn, old in (
        (first, before["0.weight"], trained.network.layers[0].weight),
        (last.weight.t(), before["13.weight"].t(), trained.network.layers[-1].weight.t()),
        (last.bias, before["13.bias"], trained.network.layers[-1].bias),
    ):
        known = rows_of(trained.vocabulary, old)
        fresh = rows_of(new.vocabulary, drawn)
        for ch, row in rows_of(new.vocabulary, own).items():
            assert torch.equal(row, known.get(ch, fresh[ch])), ch
    assert {"z", "é"} <= {*new.vocabulary.characters} - {*trained.vocabulary.characters}
    between = [name for name in before if not name.startswith(("0.", "13."))]
    for name in between:
        assert torch.equal(new.network.state_dict()[name], trained.network.state_dict()[name]), name
    assert all(p.requires_grad for p in new.network.parameters())


def test_as_many_characters_as_before_are_still_told_apart() -> None:
    """Symbol 3 of one alphabet is another character in the other, although both have as many."""
    trained, new = model(["ab", "bc", "ca", "a", "b", "c"], 1), model(["xa", "ax", "bx", "a", "b", "x"], 2)
    assert len(trained.vocabulary) == len(new.vocabulary)
    drawn = new.network.layers[0].weight.clone()
    start_from(new, trained)
    weight, old = new.network.layers[0].weight, trained.network.layers[0].weight
    assert torch.equal(weight[:3], old[:3])  # the stop, a and b
    assert torch.equal(weight[3], drawn[3])  # x, not c


def test_common_labels_keep_their_rows() -> None:
    trained = model(OLD, 1, ["Irish", "Greek", "Irish", "Greek", "Czech", "Irish", "Czech"])
    new = model(NEW, 2, ["Dutch", "Irish", "Czech", "Irish", "Dutch", "Irish", "Czech"])
    drawn = {name: row.clone() for name, row in label_rows(new.labels, new.network).items()}
    start_from(new, trained)
    known = label_rows(trained.labels, trained.network)
    for name, row in label_rows(new.labels, new.network).items():
        assert torch.equal(row, known.get(name, drawn[name])), name
    without = model(NEW, 2)
    start_from(without, trained)  # a network without labels takes the rest
    labelled = model(NEW, 3, ["a"] * 7)
    rows = labelled.network.layers[0].label_weight.clone()
    start_from(labelled, model(OLD, 1))  # and the other way round
    assert torch.equal(labelled.network.layers[0].label_weight, rows)


def test_members_start_from_the_members_in_turn() -> None:
    trained, new = model(OLD, 1, members=2), model(OLD, 2, members=3)
    start_from(new, trained)
    for i, member in enumerate(new.network.members):
        source = trained.network.members[i % 2].state_dict()
        assert all(torch.equal(tensor, source[name]) for name, tensor in member.state_dict().items())


@pytest.mark.parametrize(
    "plan",
    [
        network_plan("wavenet", n_embd=6, n_hidden=11),
        network_plan("wavenet", n_embd=5, n_hidden=10),
        network_plan("gated", n_embd=6, n_hidden=10),
        network_plan("wavenet", block_size=4, n_embd=6, n_hidden=10),
    ],
    ids=lambda plan: f"{plan.name}-{plan.block_size}-{plan.n_embd}-{plan.n_hidden}",
)
def test_other_layers_are_refused(plan: Plan) -> None:
    with pytest.raises(UsageError, match="--init-from needs a network with the same layers"):
        start_from(model(NEW, 2), model(OLD, 1, plan=plan))


def test_a_run_with_a_head_start(
    word_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has the layers of the trained network and lower learning rates, and a lower loss at the start."""
    monkeypatch.chdir(tmp_path)
    small = ["--data", str(word_file), "--samples", "0"]
    argv = [*small, "--network", "gated", "--n-embd", "6", "--n-hidden", "10", "--ensemble", "1"]
    assert train_main([*argv, "--steps", "60", "--lr", "0.04", "--lr-adamw", "0.02"]) == 0
    capsys.readouterr()
    assert train_main([*small, "--init-from", "out", "--steps", "4", "--out-dir", "next"]) == 0
    out = capsys.readouterr().out
    assert "network   gated, block size 8, n_embd 6, n_hidden 10\n" in out
    first, started = load_model("out").progress, load_model("next").progress
    assert started.losses[0] < first.losses[0] - 0.3
    settings = started.settings
    assert settings["init_from"] == "out"
    assert train_main([*small, "--steps", "4", "--ensemble", "1", "--out-dir", "plain"]) == 0
    plain = load_model("plain").progress.settings
    for name in ("lr", "lr_adamw"):
        assert settings[name] == pytest.approx(plain[name] / 4)
    capsys.readouterr()
    for flags, message in (
        (["--init-from", "bundled", "--n-hidden", "12"], "needs a network with the same layers"),
        (["--init-from", "missing"], "No such file or directory"),
    ):
        assert train_main([*small, *flags, "--out-dir", "other"]) == 2
        assert message in capsys.readouterr().err
