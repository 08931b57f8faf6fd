"""Model files: what is kept, that a failing write harms nothing, and that no foreign file can."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from forging import content_of, forged

from makemore.errors import ModelFileError, WriteError
from makemore.model_file import VERSION, Model, Progress, load_model, save_model
from makemore.networks import NETWORKS
from makemore.training import Evaluation
from makemore.words import Vocabulary


def progress(**changes: Any) -> Progress:
    values: dict[str, Any] = {
        "settings": {"steps": 5, "lr": 0.1},
        "fingerprint": "ab",
        "finished": False,
        "step": 3,
        "losses": torch.tensor([3.0, 2.5, 2.25]),
        "evaluations": [Evaluation(2, val=2.5)],
        "generator": torch.Generator().manual_seed(5).get_state(),
        "state": {"a": torch.tensor([1.5])},
    }
    return Progress(**(values | changes))


@pytest.fixture
def saved(small_model: Model, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    model = Model(small_model.plan, small_model.vocabulary, small_model.network, progress())
    save_model(model, path)
    return path


def rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The file with its content changed, and signed."""
    content = content_of(path.read_bytes())
    change(content)
    path.write_bytes(forged(content))
    return path


def test_everything_comes_back(small_model: Model, saved: Path) -> None:
    model = load_model(saved)
    assert model.plan == small_model.plan
    assert model.vocabulary.stoi == small_model.vocabulary.stoi
    assert not model.network.training
    for name, tensor in small_model.network.state_dict().items():
        assert torch.equal(tensor, model.network.state_dict()[name])
    expected, got = progress(), model.progress
    assert got is not None
    assert torch.equal(got.losses, expected.losses)
    assert torch.equal(got.generator, expected.generator)
    assert (got.settings, got.step, got.evaluations) == (expected.settings, 3, expected.evaluations)
    assert got.fingerprint == "ab"
    assert torch.equal(got.state["a"], expected.state["a"])
    assert not got.finished


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_network_and_alphabet(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    vocabulary = Vocabulary("añ漢😀. '")
    network = NETWORKS[name].build(len(vocabulary)).to(dtype=dtype)
    save_model(Model(NETWORKS[name], vocabulary, network), tmp_path / "model.safetensors")
    model = load_model(tmp_path / "model.safetensors")
    assert model.vocabulary.characters == vocabulary.characters
    assert model.progress is None
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, model.network.state_dict()[key])
        assert tensor.dtype == model.network.state_dict()[key].dtype


def test_loading_leaves_torchs_own_generator_alone(saved: Path) -> None:
    before = torch.get_rng_state()
    load_model(saved)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_truncation_is_refused(saved: Path) -> None:
    whole = saved.read_bytes()
    lengths = [*range(0, 200), *random.Random(0).sample(range(len(whole)), 200), len(whole) - 1]
    for length in lengths:
        saved.write_bytes(whole[:length])
        with pytest.raises(ModelFileError, match=r"is not a makemore model file|damaged"):
            load_model(saved)


def test_every_flipped_bit_is_refused(saved: Path) -> None:
    whole = saved.read_bytes()
    rng = random.Random(0)
    header = 8 + int.from_bytes(whole[:8], "little")
    for position in [*range(header), *(rng.randrange(header, len(whole)) for _ in range(300))]:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << rng.randrange(8)
        saved.write_bytes(damaged)
        with pytest.raises(ModelFileError):
            load_model(saved)


def test_any_reader_of_safetensors_opens_it(saved: Path, small_model: Model) -> None:
    with safetensors.safe_open(saved, framework="pt") as file:
        assert set(file.metadata()) == {"makemore"}
        names = set(file.keys())
        weight = file.get_tensor("network.2.weight")
    assert torch.equal(weight, small_model.network.state_dict()["2.weight"])
    own = {f"network.{name}" for name in small_model.network.state_dict()}
    assert names == own | {"losses", "generator", "state.a"}


def test_the_same_model_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    save_model(load_model(saved), tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == saved.read_bytes()


def test_losses_that_are_no_numbers_come_back(small_model: Model, tmp_path: Path) -> None:
    """A split without words has the loss nan, which JSON does not know."""
    model = replace(small_model, progress=progress(evaluations=[Evaluation(1, 0.1, math.nan, None)]))
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model").progress
    assert loaded is not None
    (evaluation,) = loaded.evaluations
    assert (evaluation.train, evaluation.test) == (0.1, None)
    assert evaluation.val is not None
    assert math.isnan(evaluation.val)


def test_pickled_files_are_refused_unopened(tmp_path: Path) -> None:
    """Those of makemore 0.1, and whatever else torch.save writes."""
    torch.save({"format": "makemore model"}, tmp_path / "model.pt")
    with pytest.raises(ModelFileError, match=r"model\.pt is no safetensors file: makemore 0\.1 wrote"):
        load_model(tmp_path / "model.pt")


def test_foreign_safetensors_are_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.ones(3)}, tmp_path / "other", {"format": "pt"})
    with pytest.raises(ModelFileError, match=r"other is not a makemore model file$"):
        load_model(tmp_path / "other")


@pytest.mark.parametrize("length", [0, 2, 2**31, 2**63, 2**64 - 1])
def test_headers_of_any_length_are_refused(saved: Path, length: int) -> None:
    whole = saved.read_bytes()
    saved.write_bytes(length.to_bytes(8, "little") + whole[8:])
    with pytest.raises(ModelFileError):
        load_model(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(version=VERSION + 1), f"has format version {VERSION + 1}; this makemore reads"),
        (lambda c: c["plan"].update(n_hidden=2**30), "has an invalid plan"),
        (lambda c: c["plan"].update(n_hidden=2**40), "has an invalid plan"),
        (lambda c: c["plan"].update(n_hidden=2**70), "damaged"),
        (lambda c: c["plan"].update(n_hidden=0), "has an invalid plan: n_hidden must be 1 or more"),
        (lambda c: c["plan"].update(block_size=2**20), "has an invalid plan"),
        (lambda c: c["plan"].update(name="hierarchical-bug", block_size=2**28), "has an invalid plan"),
        (lambda c: c["plan"].update(block_size="8"), "has an invalid plan"),
        (lambda c: c["plan"].update(name="lstm"), "has an invalid plan: unknown network 'lstm'"),
        (lambda c: c["plan"].update(extra=1), "has an invalid plan"),
        (lambda c: c["plan"].update(name=3), "has an invalid plan: unknown network 3"),
        (lambda c: c["plan"].pop("n_embd"), "has an invalid plan"),
        (lambda c: c.update(characters="ba"), "has an invalid vocabulary"),
        (lambda c: c.update(characters=[1]), "has an invalid vocabulary"),
        (lambda c: c["tensors"].pop("network.3.gamma"), "damaged"),
        (lambda c: c["tensors"].update({"network.x": torch.ones(1)}), "has an invalid x"),
        (lambda c: c["tensors"].update({"network.3.gamma": torch.ones(17)}), r"has an invalid 3\.gamma"),
        (
            lambda c: c["tensors"].update({"network.3.gamma": torch.full((16,), torch.nan)}),
            r"has an invalid 3\.gamma",
        ),
        (lambda c: c["tensors"].update({"network.3.gamma": torch.ones(16).double()}), r"invalid 3\.gamma"),
        (
            lambda c: c["tensors"].update({"network.3.running_var": -torch.ones(16)}),
            r"invalid 3\.running_var",
        ),
        (lambda c: c["progress"].update(step=-1), "has an invalid step"),
        (lambda c: c["progress"].update(step=10**12), "has an invalid step"),
        (lambda c: c["progress"].update(finished=1), "has an invalid progress"),
        (lambda c: c["tensors"].update(losses=torch.ones(3, 2)), "has an invalid losses"),
        (lambda c: c["tensors"].update(losses=torch.ones(3).double()), "has an invalid losses"),
        (lambda c: c["tensors"].update(generator=torch.zeros(4)), "has an invalid generator state"),
        (lambda c: c["progress"].update(evaluations=[[1, 2]]), "has an invalid evaluations"),
        (lambda c: c["progress"].update(evaluations=[["1", None, None, None]]), "invalid evaluations"),
        (lambda c: c["progress"].update(evaluations=[[1, None, -1.0]]), "has an invalid evaluations"),
        (lambda c: c["progress"].update(evaluations=[[1, None, "inf"]]), "has an invalid evaluations"),
        (lambda c: c["progress"].update(evaluations=[[10**400]]), "has an invalid evaluations"),
        (lambda c: c["progress"].pop("fingerprint"), "damaged"),
        (lambda c: c["progress"].update(extra=1), "damaged"),
        (lambda c: c.pop("progress"), "damaged"),
        (lambda c: c.clear(), "damaged"),
    ],
)
def test_forged_content_is_refused(
    saved: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(ModelFileError, match=message):
        load_model(rewritten(saved, change))


def test_missing_files_and_directories_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"cannot read .*none: No such file"):
        load_model(tmp_path / "none")
    with pytest.raises(ModelFileError, match=r"cannot read .*: Is a directory"):
        load_model(tmp_path)


def test_a_failing_write_leaves_the_old_file(
    saved: Path, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match=r"cannot write .*model\.safetensors: No space left on device"):
        save_model(small_model, saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_the_target_is_replaced_only_once_all_is_on_disk(
    saved: Path, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, order = saved.read_bytes(), []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(fd: int) -> None:
        assert saved.read_bytes() == before
        order.append("fsync")
        fsync(fd)

    def noted_replace(source: Path, target: Path) -> None:
        assert load_model(source).plan == small_model.plan
        order.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    save_model(small_model, saved)
    assert order == ["fsync", "replace"]
    assert load_model(saved).progress is None
