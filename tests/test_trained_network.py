"""The network that ships with the package: what is in its file, and its losses."""

from __future__ import annotations

from pathlib import Path

import pytest
import trained_network
from safetensors import safe_open

from makemore import load_model, load_words, network_plan
from makemore.commands.cli import draw_main, sample_main
from makemore.model_file import TRAINED, save_model


def test_its_losses() -> None:
    """As printed by ``scripts/trained_network.py``, which is to be run anew when the default run changes."""
    expected = {"train": 2.1518, "val": 2.2765, "test": 2.2735}
    assert trained_network.losses(load_model()) == pytest.approx(expected, abs=1e-4)


def test_it_is_the_default_network_on_the_bundled_list_and_no_more(tmp_path: Path) -> None:
    model = load_model()
    assert model.plan == network_plan()
    assert model.vocabulary.characters == load_words().vocabulary.characters
    assert model.progress is None
    with safe_open(TRAINED, "pt") as file:
        assert all(name.startswith("network.") for name in file.keys())  # noqa: SIM118
    content = TRAINED.read_bytes()
    assert b"/" not in content[: int.from_bytes(content[:8], "little") + 8], "no path of any machine"
    assert 300_000 < len(content) < 320_000
    save_model(model, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == content


def test_the_script_writes_such_a_file(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data", str(word_file), "--n-hidden", "8", "--steps", "5"]
    assert trained_network.main(["--to", str(tmp_path / "small"), "--", *flags]) == 0
    assert "\ntrain  3." in capsys.readouterr().out
    model = load_model(tmp_path / "small")
    assert (model.plan.n_hidden, model.progress) == (8, None)
    assert str(word_file).encode() not in (tmp_path / "small").read_bytes()


def test_it_is_what_commands_use_without_a_file_and_a_run(
    word_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sample_main(["-n", "50", "--seed", "1", "--novel"]) == 0
    words, said = capsys.readouterr()
    assert len(words.splitlines()) == 50
    assert not set(words.splitlines()) & set(load_words().words)
    assert said.startswith("makemore-sample: no run in out/")
    assert "makemore-train" in said
    assert len(said.splitlines()) == 1
    assert sample_main([str(TRAINED), "-n", "50", "--seed", "1"]) == 0
    shipped, said = capsys.readouterr()
    assert said == ""
    assert set(words.splitlines()) & set(shipped.splitlines())
    assert draw_main([]) == 0
    assert capsys.readouterr().err.startswith("makemore-draw: no run in out/")
    assert sample_main(["-n", "5", "--novel", "--data", str(word_file)]) == 2
    assert "are not those the model was trained on" in capsys.readouterr().err

    Path("out").mkdir()
    trained_network.main(["--to", "out/model.safetensors", "--", "--data", str(word_file), "--steps", "2"])
    capsys.readouterr()
    assert sample_main(["-n", "50", "--seed", "1"]) == 0
    own, said = capsys.readouterr()
    assert said == ""
    assert own != shipped
    Path("out/model.safetensors").write_bytes(b"")
    assert sample_main([]) == 2
    assert "out/model.safetensors is not a makemore model file" in capsys.readouterr().err


@pytest.mark.slow
def test_the_script_writes_the_shipped_file(tmp_path: Path) -> None:
    """With the same digits; another machine may round otherwise."""
    assert trained_network.main(["--to", str(tmp_path / "again")]) == 0
    again, shipped = (trained_network.losses(load_model(path)) for path in (tmp_path / "again", TRAINED))
    assert again == pytest.approx(shipped, abs=3e-3)
