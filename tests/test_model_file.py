"""Model files: what is kept, that a failing write harms nothing, and that no foreign file can."""

from __future__ import annotations

import io
import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from makemore.errors import ModelFileError, WriteError
from makemore.model_file import FORMAT, VERSION, Model, Progress, load_model, save_model
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


def content_of(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The file with its content changed."""
    content = content_of(path)
    change(content)
    torch.save(content, path)
    return path


def rezipped(
    path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED
) -> Path:
    """The file with its archive's entries changed."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, value in entries.items():
            archive.writestr(name, change(name, value))
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


def test_flipped_bytes_are_refused_or_harmless(saved: Path, small_model: Model) -> None:
    whole = saved.read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(300):
        position = rng.randrange(len(whole))
        damaged = bytearray(whole)
        damaged[position] ^= 1 << rng.randrange(8)
        saved.write_bytes(damaged)
        try:
            model = load_model(saved)
        except ModelFileError:
            refused += 1
            continue
        for name, tensor in small_model.network.state_dict().items():
            assert torch.equal(tensor, model.network.state_dict()[name])
    assert refused > 200


class Planted:
    """Pickles to a call that leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("zipped", [True, False])
def test_hostile_pickles_do_not_run(saved: Path, tmp_path: Path, protocol: int, zipped: bool) -> None:
    trace = tmp_path / "trace"
    evil = pickle.dumps(Planted(trace), protocol)
    if zipped:
        rezipped(saved, lambda name, value: evil if name.endswith("data.pkl") else value)
    else:
        saved.write_bytes(evil)
    with pytest.raises(ModelFileError):
        load_model(saved)
    assert not trace.exists()
    pickle.loads(evil)
    assert trace.exists(), "the pickle does what it is feared for"


def test_allocations_that_the_file_does_not_fill_are_refused(saved: Path) -> None:
    """torch's own safe loader allows bytearray, which would allocate and clear what a number asks for."""
    bomb = b"\x80\x02c__builtin__\nbytearray\n" + pickle.dumps(2**45, 2)[2:-1] + b"\x85R."
    assert pickle.dumps(2**45, 2)[2:-1] in bomb
    rezipped(saved, lambda name, value: bomb if name.endswith("data.pkl") else value)
    with pytest.raises(ModelFileError, match="asks for '__builtin__ bytearray'"):
        load_model(saved)


def test_compressed_archives_are_refused(saved: Path) -> None:
    rezipped(saved, lambda name, value: value, zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelFileError, match="its archive is not plain"):
        load_model(saved)


def test_records_shorter_than_they_claim_are_never_read_past_the_file(saved: Path) -> None:
    """With the records cut to 4 bytes, the tensors claim far more than the whole file holds."""
    rezipped(saved, lambda name, value: value[:4] if "/data/" in name else value)
    with pytest.raises(ModelFileError):
        load_model(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format="other"), "is not a makemore model file"),
        (lambda c: c.update(version=VERSION + 1), f"has format version {VERSION + 1}; this makemore reads"),
        (lambda c: c["plan"].update(n_hidden=2**30), "its plan cannot be"),
        (lambda c: c["plan"].update(n_hidden=2**40), "its n_hidden cannot be"),
        (lambda c: c["plan"].update(block_size=2**20), "its plan cannot be"),
        (lambda c: c["plan"].update(block_size="8"), "its block_size cannot be"),
        (lambda c: c["plan"].update(extra=1), "damaged"),
        (lambda c: c["plan"].pop("name"), "damaged"),
        (lambda c: c.update(characters="ba"), "its characters cannot be"),
        (lambda c: c.update(characters=[1]), "its characters cannot be"),
        (lambda c: c["tensors"].pop("3.gamma"), "damaged"),
        (lambda c: c["tensors"].update(x=torch.ones(1)), "its x cannot be"),
        (lambda c: c["tensors"].update({"3.gamma": torch.ones(1).expand(10**9)}), r"its 3\.gamma cannot be"),
        (lambda c: c["tensors"].update({"3.gamma": torch.full((16,), torch.nan)}), r"its 3\.gamma cannot be"),
        (lambda c: c["tensors"].update({"3.gamma": "x"}), "damaged"),
        (lambda c: c["progress"].update(step=-1), "its losses cannot be"),
        (lambda c: c["progress"].update(step=10**12), "its step cannot be"),
        (lambda c: c["progress"].update(losses=torch.ones(1).expand(3, 10**9)), "its losses cannot be"),
        (lambda c: c["progress"].update(generator=torch.zeros(4)), "its generator cannot be"),
        (lambda c: c["progress"].update(evaluations=[[1, 2]]), "damaged"),
        (lambda c: c["progress"].update(evaluations=[["1", None, None, None]]), "its evaluations cannot be"),
        (lambda c: c["progress"].update(evaluations=[[1, None, -1.0]]), "its evaluations cannot be"),
        (lambda c: c["progress"].update(evaluations=[[10**400]]), "its evaluations cannot be"),
        (lambda c: c["progress"].pop("fingerprint"), "damaged"),
        (lambda c: c["progress"].update(state={"a": torch.ones(1).expand(10**9)}), "its state cannot be"),
        (lambda c: c.pop("progress"), "damaged"),
    ],
)
def test_forged_content_is_refused(
    saved: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(ModelFileError, match=message):
        load_model(rewritten(saved, change))


@pytest.mark.parametrize("content", [None, 3, [], {}, {"format": FORMAT}, {"format": FORMAT, "version": 1}])
def test_other_torch_files_are_refused(content: object, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    torch.save(content, path)
    with pytest.raises(ModelFileError, match=r"model\.pt (is not|has format)"):
        load_model(path)


def test_missing_files_and_directories_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"cannot read .*none\.pt: No such file"):
        load_model(tmp_path / "none.pt")
    with pytest.raises(ModelFileError, match=r"cannot read .*: Is a directory"):
        load_model(tmp_path)


def test_a_failing_write_leaves_the_old_file(
    saved: Path, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match=r"cannot write .*model\.pt: No space left on device"):
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


def test_model_files_can_be_copied_and_read_from_anywhere(saved: Path, tmp_path: Path) -> None:
    shutil.copy(saved, tmp_path / "copy")
    content = io.BytesIO((tmp_path / "copy").read_bytes())
    assert torch.load(content, weights_only=True)["format"] == FORMAT
    assert load_model(tmp_path / "copy").plan == load_model(saved).plan
