"""The bundled network: its file and its losses."""

from __future__ import annotations

from pathlib import Path

import pytest
import trained_network
from safetensors import safe_open

from makemore import load_model, load_words, network_plan
from makemore.commands.cli import draw_main, sample_main
from makemore.run.model_file import BUNDLED, save_model


def test_its_losses() -> None:
    """As printed by ``scripts/release/trained_network.py``, to be run again when the default run changes."""
    expected = {"train": 2.1518, "val": 2.2765, "test": 2.2735}
    assert trained_network.losses(load_model()) == pytest.approx(expected, abs=1e-4)


def test_its_file_has_the_default_network_on_the_bundled_list_and_nothing_else(tmp_path: Path) -> None:
    model = load_model()
    assert model.plan == network_plan()
    assert model.vocabulary.characters == load_words().vocabulary.characters
    assert model.progress is None
    with safe_open(BUNDLED, "pt") as file:
        assert set(file.keys()) == model.network.state_dict().keys()
    content = BUNDLED.read_bytes()
    assert b"/" not in content[: int.from_bytes(content[:8], "little") + 8], "no paths of a machine"
    assert 300_000 < len(content) < 320_000
    save_model(model, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == content


@pytest.mark.full
def test_the_script_writes_a_network_without_its_run(
    word_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data", str(word_file), "--n-hidden", "8", "--steps", "5"]
    assert trained_network.main(["--to", str(tmp_path / "small"), "--", *flags]) == 0
    assert "\ntrain  3." in capsys.readouterr().out
    model = load_model(tmp_path / "small")
    assert (model.plan.n_hidden, model.progress) == (8, None)
    assert str(word_file).encode() not in (tmp_path / "small").read_bytes()


@pytest.mark.full
def test_commands_use_it_unless_there_is_a_run(
    word_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sample_main(["-n", "50", "--seed", "1", "--novel"]) == 0
    words, err = capsys.readouterr()
    assert len(words.splitlines()) == 50
    assert not set(words.splitlines()) & set(load_words().words)
    assert err.startswith("makemore-sample: there is no run in out/")
    assert "makemore-train" in err
    assert len(err.splitlines()) == 1
    assert sample_main([str(BUNDLED), "-n", "50", "--seed", "1"]) == 0
    bundled, err = capsys.readouterr()
    assert err == ""
    assert set(words.splitlines()) & set(bundled.splitlines())
    assert draw_main([]) == 0
    assert capsys.readouterr().err.startswith("makemore-draw: there is no run in out/")
    assert sample_main(["-n", "5", "--novel", "--data", str(word_file)]) == 2
    assert "is not the word list that the model was trained on" in capsys.readouterr().err

    Path("out").mkdir()
    trained_network.main(["--to", "out/model.safetensors", "--", "--data", str(word_file), "--steps", "2"])
    capsys.readouterr()
    assert sample_main(["-n", "50", "--seed", "1"]) == 0
    own, err = capsys.readouterr()
    assert err == ""
    assert own != bundled
    Path("out/model.safetensors").write_bytes(b"")
    assert sample_main([]) == 2
    assert "out/model.safetensors is not a makemore model file" in capsys.readouterr().err


@pytest.mark.slow
def test_the_script_writes_the_bundled_file(tmp_path: Path) -> None:
    """With the same losses, up to what another machine may round differently."""
    assert trained_network.main(["--to", str(tmp_path / "again")]) == 0
    again, bundled = (trained_network.losses(load_model(path)) for path in (tmp_path / "again", BUNDLED))
    assert again == pytest.approx(bundled, abs=3e-3)
