"""``makemore-export``: what is in the files, that other programs compute the same, and its errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Generator

from makemore.commands.cli import export_main
from makemore.core.errors import MakemoreError, UsageError
from makemore.core.layer import Layer
from makemore.data.word_list import WordList
from makemore.export import files
from makemore.lecture.layers import Embedding, FlattenConsecutive, Linear, Sequential
from makemore.run.catalog import network_plan
from makemore.run.label_choice import choose_labels
from makemore.run.model_file import Model, load_model, save_model

LISTED = ["anna", "bert", "cora", "dora", "emil", "otto", "lena", "nora"]


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """The path of a model whose words have labels."""
    data = WordList.of(LISTED, labels={"ending": [word[-1] for word in LISTED]}).data(8)
    plan = network_plan("wavenet", n_embd=4, n_hidden=6)
    network = plan.build(len(data.vocabulary), Generator().manual_seed(1), data.labels.sizes)
    network.layers[0].label_weight.detach().normal_(generator=Generator().manual_seed(2))
    save_model(Model(network, data.vocabulary, plan, labels=data.labels), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def facts_and_logits(path: Path, X: torch.Tensor) -> tuple[dict, torch.Tensor]:
    """What a program that knows torch or onnxruntime alone reads from a file."""
    if path.suffix == ".pt2":
        extra = {"makemore": ""}
        logits = torch.export.load(path, extra_files=extra).module()(X)
        return json.loads(extra["makemore"]), logits
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path)
    facts = session.get_modelmeta().custom_metadata_map["makemore"]
    (logits,) = session.run(["logits"], {"contexts": X.numpy()})
    return json.loads(facts), torch.from_numpy(logits)


@pytest.mark.full
@pytest.mark.parametrize("name", ["network.pt2", "network.onnx"])
def test_the_file_has_the_network_and_its_labels(
    name: str, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name.endswith("onnx"):
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package)
    path, model = tmp_path / name, load_model(labelled)
    assert export_main([str(path), "--model", str(labelled)]) == 0
    assert capsys.readouterr().out.startswith(f"wrote {path}, ")
    X = torch.randint(4, (3, 9), generator=Generator().manual_seed(1))
    X[:, 0] = torch.tensor([0, 3, 1])
    facts, logits = facts_and_logits(path, X)
    assert facts == {
        "characters": "abcdeilmnort",
        "block_size": 8,
        "stop": 0,
        "labels": [{"name": "ending", "values": ["a", "l", "o", "t"]}],
        "capitals": None,
    }
    with model.network.evaluating():
        torch.testing.assert_close(logits, model.network(X), rtol=1e-4, atol=1e-4)

    chosen = tmp_path / f"chosen-{name}"
    assert export_main([str(chosen), "--model", str(labelled), "--label", "o"]) == 0
    facts, logits = facts_and_logits(chosen, X[:, 1:])
    assert facts["labels"] == []
    plain = choose_labels(model, ["o"]).network
    with plain.evaluating():
        torch.testing.assert_close(logits, plain(X[:, 1:]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["network.txt"], "the file ends in .onnx or .pt2, not as 'network.txt'"),
        (["network.pt2", "--label", "Irish"], "trained on words without labels"),
        (["network.pt2", "--model", "missing"], "cannot read missing"),
    ],
)
def test_what_cannot_be_exported(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = export_main(argv)
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code == 2
    assert message in capsys.readouterr().err
    assert not Path("network.pt2").exists()


class OfValues(Layer):
    """Looks at the values of a batch, which no graph can."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.out = x if float(x.detach().sum()) > 0 else -x
        return self.out


def test_a_layer_that_torch_cannot_follow_is_refused() -> None:
    network = Sequential([Embedding(5, 3), FlattenConsecutive(2), OfValues(), Linear(6, 5)])
    network.block_size = 2
    with pytest.raises(UsageError, match="torch cannot export this network"):
        files.torch_program(network, {})


@pytest.mark.full
def test_a_file_with_other_logits_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Sequential([Embedding(5, 3), FlattenConsecutive(2), Linear(6, 5)])
    to_module = files.to_module

    def wrong(layer: Layer) -> torch.nn.Module:
        module = to_module(layer)
        with torch.no_grad():
            next(module.parameters()).add_(1)
        return module

    monkeypatch.setattr(files, "to_module", wrong)
    with pytest.raises(MakemoreError, match="gives other logits"):
        files.torch_program(network, {})
