"""Model files: what they keep, and that neither a failed write nor a foreign file does any harm."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import safetensors.torch
import torch
from forged_files import content_of, forged, signed, with_header
from hypothesis import example, given, settings
from hypothesis import strategies as st

from makemore.core.errors import ModelFileError, UsageError, WriteError
from makemore.core.layer import Layer
from makemore.core.shapes import shapes_only
from makemore.lecture.layers import Sequential
from makemore.lecture.words import Vocabulary
from makemore.paper.networks import hierarchical
from makemore.run.architecture import describe, register_layer
from makemore.run.catalog import NETWORKS, Plan, network_plan
from makemore.run.model_file import VERSION, Model, Progress, load_model, model_bytes, save_model
from makemore.training.ensemble import Ensemble
from makemore.training.evaluation import Evaluation

FORGED_CASES = 400 if os.environ.get("MAKEMORE_CASES") == "full" else 40
OTHER_PLAN = "has an invalid plan: it is not that of its network"

PRE_RELEASE = "was written by a pre-release of makemore; train it again"


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
    model = Model(small_model.network, small_model.vocabulary, small_model.plan, progress())
    save_model(model, path)
    return path


@pytest.fixture(scope="module")
def whole(small_model: Model, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a model file."""
    path = tmp_path_factory.mktemp("whole") / "model"
    save_model(replace(small_model, progress=progress()), path)
    return path.read_bytes()


def members_in(content: dict[str, Any]) -> list[Any]:
    """The descriptions of the members in the content of an ensemble's file."""
    members = content["network"]["arguments"]["members"]
    assert isinstance(members, list)
    return members


def set_members(content: dict[str, Any], value: Any) -> None:
    content["network"]["arguments"]["members"] = value


def rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The file with its content changed and its sha256 computed again."""
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
    save_model(Model(network, vocabulary, NETWORKS[name]), tmp_path / "model.safetensors")
    model = load_model(tmp_path / "model.safetensors")
    assert model.vocabulary.characters == vocabulary.characters
    assert model.progress is None
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, model.network.state_dict()[key])
        assert tensor.dtype == model.network.state_dict()[key].dtype


def test_networks_in_networks_come_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The first tensor is not named 0.weight then."""

    def nested(vocab_size: int, block_size: int, n_embd: int, n_hidden: int) -> list[Layer]:
        first, *others = hierarchical(vocab_size, block_size, n_embd, n_hidden)
        return [Sequential([first]), Sequential(others)]

    plan = Plan("nested", 4, 2, 3, nested)
    monkeypatch.setitem(NETWORKS, "nested", plan)
    network = plan.build(3)
    save_model(Model(network, Vocabulary("ab"), plan), tmp_path / "model")
    loaded = load_model(tmp_path / "model").network
    assert bits_of(loaded.state_dict()) == bits_of(network.state_dict())
    assert all(p.requires_grad for p in loaded.parameters())


def test_frozen_parameters_stay_frozen(tmp_path: Path) -> None:
    network, path = NETWORKS["wavenet"].build(3), tmp_path / "model"
    network.layers[0].weight.requires_grad = network.layers[-1].bias.requires_grad = False
    for each in (network, Ensemble([network, NETWORKS["wavenet"].build(3)])):
        save_model(Model(each, Vocabulary("ab")), path)
        loaded = load_model(path).network
        frozen = [name for name, p in loaded.named_parameters() if not p.requires_grad]
        assert frozen == [name for name, p in each.named_parameters() if not p.requires_grad]
        assert len(frozen) == 2
        assert model_bytes(Model(loaded, Vocabulary("ab"))) == path.read_bytes()


def test_a_network_built_by_hand_or_frozen_as_a_whole_is_one_to_be_trained(tmp_path: Path) -> None:
    network = Sequential(hierarchical(3, 4, 2, 3))
    assert not any(p.requires_grad for p in network.parameters())
    save_model(Model(network, Vocabulary("ab")), tmp_path / "model")
    assert all(p.requires_grad for p in load_model(tmp_path / "model").network.parameters())


@pytest.mark.parametrize(
    ("frozen", "message"),
    [
        ("0.weight", "has invalid frozen parameters"),
        ([0], "has invalid frozen parameters"),
        (None, "has invalid frozen parameters"),
        (["9.weight"], "has frozen parameters that it does not have"),
        (["3.running_mean"], "has frozen parameters that it does not have"),
    ],
)
def test_forged_frozen_parameters_are_refused(saved: Path, frozen: Any, message: str) -> None:
    content = content_of(saved.read_bytes())
    content["frozen"] = frozen
    saved.write_bytes(forged(content))
    with pytest.raises(ModelFileError, match=message):
        load_model(saved)


def test_whole_numbers_of_a_layer_come_back(tmp_path: Path) -> None:
    class Counter(Layer):
        BUFFERS = ("batches",)

        def __init__(self) -> None:
            self.batches = torch.zeros((), dtype=torch.int64)

        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            self.batches += 1
            return x

    register_layer(Counter)
    network = Sequential([Sequential([Counter(), *hierarchical(3, 4, 2, 3)])]).to(dtype=torch.float64)
    network.block_size = 4
    network(torch.zeros((5, 4), dtype=torch.int64))
    save_model(Model(network, Vocabulary("ab")), tmp_path / "model")
    loaded = load_model(tmp_path / "model").network.state_dict()
    assert bits_of(loaded) == bits_of(network.state_dict())
    assert loaded["0.0.batches"].item() == 1
    assert loaded["0.0.batches"].dtype == torch.int64


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
        assert set(file.metadata()) == {"format", "makemore"}
        assert file.metadata()["format"] == "pt"  # accelerate and transformers ask for it
        names = set(file.keys())
        weight = file.get_tensor("2.weight")
    own = small_model.network.state_dict()
    assert torch.equal(weight, own["2.weight"])
    assert names == own.keys() | {"run:losses", "run:generator", "run:state.a"}


def test_the_tensors_of_a_network_have_the_names_of_its_state_dict(
    small_model: Model, tmp_path: Path
) -> None:
    save_model(small_model, tmp_path / "model")
    tensors = safetensors.torch.load_file(tmp_path / "model")
    assert bits_of(tensors) == bits_of(small_model.network.state_dict())
    other = small_model.plan.build(len(small_model.vocabulary))
    other.load_state_dict(tensors)


def test_accelerate_takes_the_file(small_model: Model, tmp_path: Path) -> None:
    load_state_dict = pytest.importorskip("accelerate.utils").load_state_dict
    save_model(small_model, tmp_path / "model.safetensors")
    assert bits_of(load_state_dict(str(tmp_path / "model.safetensors"))) == bits_of(
        small_model.network.state_dict()
    )


def test_the_same_model_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    save_model(load_model(saved), tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == saved.read_bytes()


bit_patterns = st.binary(max_size=40)


def tensor_of(kind: torch.dtype, pattern: bytes, flat: bool) -> torch.Tensor:
    """A tensor of these bits; without ``flat``, of its first value and without dimensions."""
    size = torch.empty((), dtype=kind).element_size()
    count = len(pattern) // size
    whole = (
        torch.frombuffer(bytearray(pattern), dtype=kind, count=count) if count else torch.empty(0).to(kind)
    )
    return whole[0] if count and not flat else whole


kinds = st.sampled_from([torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool])
tensors = st.builds(tensor_of, kinds.filter(lambda kind: kind != torch.bool), bit_patterns, st.booleans())
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=6,
)
a_loss = st.none() | st.floats(0) | st.just(math.nan)
progresses = st.integers(0, 9).flatmap(
    lambda step: st.builds(
        Progress,
        settings=st.dictionaries(st.text(), json_values, max_size=4),
        fingerprint=st.text(),
        finished=st.booleans(),
        step=st.just(step),
        losses=st.lists(st.floats(width=32), min_size=step, max_size=step).map(torch.tensor),
        evaluations=st.lists(
            st.builds(Evaluation, st.integers(0, step), a_loss, a_loss, a_loss, a_loss, a_loss), max_size=3
        ),
        generator=st.integers(0, 2**63).map(lambda seed: torch.Generator().manual_seed(seed).get_state()),
        state=st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), tensors, max_size=4),
    )
)


def bits_of(values: Mapping[str, torch.Tensor]) -> dict[str, tuple[torch.dtype, torch.Size, bytes]]:
    return {name: (t.dtype, t.shape, t.detach().numpy().tobytes()) for name, t in values.items()}


@pytest.mark.full
@given(progress=progresses)
@settings(derandomize=True, deadline=None, database=None)
def test_any_progress_comes_back_bit_for_bit(small_model: Model, progress: Progress) -> None:
    with TemporaryDirectory() as directory:
        first, second = Path(directory, "first"), Path(directory, "second")
        save_model(replace(small_model, progress=progress), first)
        got = load_model(first).progress
        assert got is not None
        save_model(replace(small_model, progress=got), second)
        assert first.read_bytes() == second.read_bytes()
    plain = ("settings", "fingerprint", "finished", "step")
    assert [getattr(got, name) for name in plain] == [getattr(progress, name) for name in plain]
    assert repr(got.evaluations) == repr(progress.evaluations)  # nan is not equal to itself
    assert bits_of(got.state) == bits_of(progress.state)
    assert bits_of({"": got.losses}) == bits_of({"": progress.losses})
    assert torch.equal(got.generator, progress.generator)


def test_pickled_files_are_refused_and_not_opened(tmp_path: Path) -> None:
    """Those of the first format, and whatever else torch.save writes."""
    torch.save({"format": "makemore model"}, tmp_path / "model.pt")
    with pytest.raises(ModelFileError, match=rf"model\.pt {PRE_RELEASE}$"):
        load_model(tmp_path / "model.pt")


@pytest.mark.parametrize("version", [0, 1, 2, 3, 4])
def test_files_of_earlier_versions_are_refused_by_one_clear_line(saved: Path, version: int) -> None:
    """Whatever else is in them: they did not describe the network's layers."""

    def as_it_was(content: dict[str, Any]) -> None:
        content["version"] = version
        del content["network"]

    with pytest.raises(ModelFileError, match=rf"model\.safetensors {PRE_RELEASE}$"):
        load_model(rewritten(saved, as_it_was))


def test_a_header_of_any_length_is_read(small_model: Model, tmp_path: Path) -> None:
    """The file begins with its length, and 19,280 reads as "PK", as a zip file begins."""
    path = tmp_path / "model.safetensors"
    save_model(replace(small_model, progress=progress(settings={"a": ""})), path)
    missing = 19_280 - int.from_bytes(path.read_bytes()[:8], "little")
    save_model(replace(small_model, progress=progress(settings={"a": missing * "a"})), path)
    assert path.read_bytes().startswith(b"PK\0")
    read = load_model(path).progress
    assert read is not None
    assert read.settings == {"a": missing * "a"}


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
        (lambda c: c.update(version="3\n4"), "has an invalid format version"),
        (lambda c: c.update(version=float(VERSION)), "has an invalid format version"),
        (lambda c: c.update(extra=1), "has missing or unexpected fields: it needs sha256, version"),
        (lambda c: c.update(sha256=""), "its sha256 does not match"),
        (
            lambda c: c.update(version=VERSION + 1),
            f"has format version {VERSION + 1}, but this makemore reads {VERSION}: update makemore",
        ),
        (lambda c: c.update(version=VERSION - 1), PRE_RELEASE),
        (lambda c: c.update(version=-(2**70)), PRE_RELEASE),
        (lambda c: c.update(version=2**70), "update makemore"),
        (lambda c: c.pop("network"), "has missing or unexpected fields: it needs .*, network"),
        (lambda c: c.pop("shared"), "has missing or unexpected fields: it needs .*, shared"),
        (lambda c: c.pop("plan"), "has missing or unexpected fields: it needs .*, plan"),
        (lambda c: c["plan"].update(n_hidden=2**20), OTHER_PLAN),
        (lambda c: c["plan"].update(name="layernorm"), OTHER_PLAN),
        (lambda c: c["plan"].update(n_hidden=2**40), "has an invalid plan: its n_hidden is out of range"),
        (lambda c: c["plan"].update(n_hidden=2**70), "has an invalid plan: its n_hidden is out of range"),
        (
            lambda c: c["plan"].update(n_hidden=0),
            "invalid plan: network hierarchical: n_hidden must be",
        ),
        (lambda c: c["plan"].update(block_size=2**20), "has an invalid plan: its block_size is out of range"),
        (lambda c: c["plan"].update(block_size=4096), OTHER_PLAN),
        (
            lambda c: c["plan"].update(block_size=10),
            "has an invalid plan: network hierarchical: .* a power of two",
        ),
        (lambda c: c["plan"].update(block_size=True), "has an invalid plan: its block_size is out of range"),
        (lambda c: c["plan"].update(name="hierarchical-bug", block_size=4096), OTHER_PLAN),
        (lambda c: c["plan"].update(block_size="8"), "has an invalid plan: its block_size is out of range"),
        (
            lambda c: c["plan"].update(name="lstm"),
            "has the network 'lstm', which this makemore does not know",
        ),
        (lambda c: c["plan"].update(extra=1), "has missing or unexpected fields: it needs name, block_size"),
        (lambda c: c["plan"].update(name=3), "has the network 3, which this makemore does not know"),
        (lambda c: c["plan"].update(name=[]), "damaged"),
        (lambda c: c["plan"].pop("n_embd"), "has missing or unexpected fields: it needs name, block_size"),
        (lambda c: c.update(characters="ba"), "has an invalid vocabulary"),
        (lambda c: c.update(characters=[1]), "has an invalid vocabulary"),
        (lambda c: c["tensors"].pop("3.gamma"), "missing or unexpected tensors"),
        (lambda c: c["tensors"].update(x=torch.ones(1)), "missing or unexpected tensors"),
        (lambda c: c["tensors"].pop("run:losses"), "has missing or unexpected tensors"),
        (lambda c: c.update(progress=None), "has missing or unexpected tensors"),
        (lambda c: c["tensors"].update({"8.x": torch.ones(1)}), "missing or unexpected tensors"),
        (lambda c: c["tensors"].update({"run:x": torch.ones(1)}), "has missing or unexpected tensors"),
        (
            lambda c: c["tensors"].update({"3.gamma": torch.ones(17)}),
            r"an invalid network: 3\.gamma has shape \(17,\), not \(16,\)",
        ),
        (
            lambda c: c["tensors"].update({"3.gamma": torch.full((16,), torch.nan)}),
            r"an invalid network: 3\.gamma has values that are not finite",
        ),
        (
            lambda c: c["tensors"].update({"3.gamma": torch.ones(16).int()}),
            r"3\.gamma has dtype torch\.int32",
        ),
        (
            lambda c: c["tensors"].update({"3.running_var": -torch.ones(16)}),
            r"3\.running_var has negative values",
        ),
        (lambda c: c["progress"].update(step=-1), "has an invalid step"),
        (lambda c: c["progress"].update(step=10**12), "has an invalid step"),
        (lambda c: c["progress"].update(step=True), "has an invalid step"),
        (lambda c: c["progress"].update(finished=1), "has invalid progress"),
        (lambda c: c["progress"].update(fingerprint=1), "has an invalid fingerprint"),
        (lambda c: c["progress"].update(settings=[]), "has invalid settings"),
        (lambda c: c["progress"]["settings"].update(lr=math.nan), "has NaN in its JSON"),
        (lambda c: c["progress"]["settings"].update(lr=math.inf), "has Infinity in its JSON"),
        (lambda c: c["tensors"].update({"run:losses": torch.ones(3, 2)}), "has an invalid step"),
        (lambda c: c["tensors"].update({"run:losses": torch.ones(3).double()}), "has invalid losses"),
        (lambda c: c["tensors"].update({"run:generator": torch.zeros(4)}), "has an invalid generator state"),
        (lambda c: c["progress"].update(evaluations=[[1, 2.5]]), "has invalid evaluations"),
        (lambda c: c["progress"].update(evaluations=[["1", *[None] * 5]]), "has invalid evaluations"),
        (lambda c: c["progress"].update(evaluations=[["nan", *[None] * 5]]), "has invalid evaluations"),
        (lambda c: c["progress"].update(evaluations=[[4, *[None] * 5]]), "has invalid evaluations"),
        (lambda c: c["progress"].update(evaluations=[[1, -1.0, *[None] * 4]]), "has invalid evaluations"),
        (lambda c: c["progress"].update(evaluations=[[1, "2.5", *[None] * 4]]), "has invalid evaluations"),
        (lambda c: c["progress"].update(evaluations=[[10**400, *[None] * 5]]), "has invalid evaluations"),
        (
            lambda c: c["progress"].pop("fingerprint"),
            "unexpected fields: it needs settings, fingerprint",
        ),
        (
            lambda c: c["progress"].update(extra=1),
            "unexpected fields: it needs settings, fingerprint",
        ),
        (lambda c: c.pop("progress"), "has missing or unexpected fields: it needs sha256, version"),
        (lambda c: c.clear(), "damaged"),
    ],
)
def test_forged_content_is_refused(
    saved: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(ModelFileError, match=message):
        load_model(rewritten(saved, change))


def test_of_several_faults_always_the_same_is_reported(saved: Path) -> None:
    """safetensors gives a file's tensors in another order each time."""
    nans = {f"{layer}.gamma": torch.full((16,), torch.nan) for layer in (3, 7)}
    forged = rewritten(saved, lambda content: content["tensors"].update(nans))
    reported = set()
    for _ in range(20):
        with pytest.raises(ModelFileError) as error:
            load_model(forged)
        reported.add(str(error.value))
    assert len(reported) == 1


@pytest.fixture
def ensemble(small_model: Model, saved: Path) -> Path:
    """The file of an ensemble of three networks."""
    networks = [small_model.plan.build(len(small_model.vocabulary)) for _ in range(3)]
    save_model(replace(small_model, network=Ensemble(networks), progress=progress()), saved)
    return saved


def test_an_ensemble_comes_back(ensemble: Path, tmp_path: Path) -> None:
    model = load_model(ensemble)
    assert isinstance(model.network, Ensemble)
    assert len(model.network.members) == 3
    assert not model.network.members[2].training
    save_model(model, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == ensemble.read_bytes()
    content = content_of(ensemble.read_bytes())
    assert (content["version"], len(members_in(content))) == (VERSION, 3)
    for name, tensor in model.network.members[2].state_dict().items():
        assert torch.equal(tensor, content["tensors"][f"2.{name}"])


@pytest.mark.full
@pytest.mark.parametrize(
    ("change", "message"),
    [
        *[
            (
                partial(set_members, value=value),
                "has an invalid network: Ensemble cannot have members = ",
            )
            for value in list[Any]((0, True, 3.0, "3", None, [3], [[]]))
        ],
        (lambda c: members_in(c).clear(), "Ensemble cannot be created: .*, got none"),
        (lambda c: c.update(network=members_in(c)[0]), "missing or unexpected tensors"),
        (lambda c: members_in(c).pop(), "missing or unexpected tensors"),
        (lambda c: members_in(c).append(members_in(c)[0]), "missing or unexpected tensors"),
        (lambda c: members_in(c).extend(1000 * members_in(c)), "missing or unexpected tensors"),
        (lambda c: c["plan"].update(n_hidden=40), OTHER_PLAN),
        (
            lambda c: members_in(c)[2].update(block_size=4),
            "Ensemble cannot be created: .*block_size is 4, but",
        ),
        (lambda c: c["tensors"].pop("2.3.gamma"), "missing or unexpected tensors"),
        (lambda c: c["tensors"].update({"2.3.gamma": torch.ones(17)}), r"2\.3\.gamma has shape \(17,\)"),
    ],
)
def test_forged_ensembles_are_refused(
    ensemble: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(ModelFileError, match=message):
        load_model(rewritten(ensemble, change))


def test_a_network_and_an_ensemble_of_one_have_different_files(small_model: Model, saved: Path) -> None:
    content = content_of(saved.read_bytes())
    assert (content["version"], content["network"]["layer"]) == (VERSION, "Sequential")
    assert not isinstance(load_model(saved).network, Ensemble)
    save_model(replace(small_model, network=Ensemble([small_model.network])), saved)
    assert len(members_in(content_of(saved.read_bytes()))) == 1
    assert isinstance(load_model(saved).network, Ensemble)


names = st.sampled_from(["run:losses", "run:generator", "run:state.a", "0.weight", "3.running_var"])
numbers = st.integers(0, 70) | st.sampled_from([2**31, 2**62, 2**63, 2**64, -1]) | st.just(1.5)
entries = {
    "dtype": st.sampled_from(["F32", "F64", "I32", "U8", "BOOL", "F16", "BF16", "C64", "F4", "X", "", None]),
    "shape": st.lists(numbers, max_size=3) | numbers,
    "data_offsets": st.lists(numbers, max_size=3) | numbers,
}


def redescribed(header: dict[str, Any], name: str, entry: str, value: Any) -> None:
    """Change the name, dtype, shape or place of a tensor, or swap two tensors."""
    if entry == "name":
        header[value] = header.pop(name)
    elif entry == "swap":
        header[name], header[value] = header[value], header[name]
    else:
        header[name][entry] = value


changes = st.one_of(
    *(st.tuples(names, st.just(entry), values) for entry, values in entries.items()),
    st.tuples(names, st.just("name"), st.text(max_size=5) | names),
    st.tuples(names, st.just("swap"), names),
)


@given(change=changes)
@settings(derandomize=True, deadline=None, database=None, max_examples=FORGED_CASES)
@example(change=("run:losses", "shape", [0, 2**62]))
@example(change=("run:losses", "shape", [2**62, 2**62]))
@example(change=("run:losses", "dtype", "U8"))
def test_changed_descriptions_of_tensors_are_refused(whole: bytes, change: tuple[str, str, Any]) -> None:
    bent = with_header(whole, lambda header: redescribed(header, *change))
    with TemporaryDirectory() as directory:
        path = Path(directory, "model")
        path.write_bytes(bent)
        try:
            model = load_model(path)
        except ModelFileError:
            return
        # The trainer alone knows what its state should be; everything else is as before.
        save_model(model, path)
        own, again = content_of(whole)["tensors"], content_of(path.read_bytes())["tensors"]
        for name in own.keys() - {"run:state.a"}:
            assert torch.equal(own[name], again[name])


def test_duplicate_names_are_refused(saved: Path) -> None:
    whole = saved.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    header = whole[8:end].rstrip()
    for twice in (
        header.replace(rb"\"finished\": ", rb"\"finished\": true, \"finished\": "),
        header[:-1] + b',"run:losses":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}',
        header[:-1] + b',"__metadata__":{"makemore":"{}"}}',
    ):
        saved.write_bytes(signed(len(twice).to_bytes(8, "little") + twice + whole[end:]))
        with pytest.raises(
            ModelFileError, match=r"has a duplicate JSON key|is not a makemore model file, or it is damaged"
        ):
            load_model(saved)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"[]", "invalid JSON"),
        (b"[" * 10**6, "damaged"),
        (b'{"__metadata__":{"makemore":"[]"}}', "invalid JSON"),
        (b'{"__metadata__":{"makemore":"%s"}}' % (b"[" * 10**6), "damaged"),
        (b'{"__metadata__":{"makemore":1}}', "damaged"),
        (b'{"__metadata__":"makemore"}', "damaged"),
        (b'{"__metadata__":null}', "damaged"),
        (b"\xff\xfe", "damaged"),
    ],
)
def test_headers_of_any_kind_are_refused(tmp_path: Path, header: bytes, message: str) -> None:
    path = tmp_path / "model"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ModelFileError, match=message):
        load_model(path)


def test_further_metadata_is_refused(saved: Path) -> None:
    saved.write_bytes(with_header(saved.read_bytes(), lambda header: header["__metadata__"].update(more="")))
    with pytest.raises(ModelFileError, match="has unknown metadata"):
        load_model(saved)


def test_a_long_context_needs_no_large_file_and_is_refused(tmp_path: Path) -> None:
    """A tree of 2**24 characters has 24 layers: a few kB, for which sampling would take 6 GB."""
    plan, vocabulary = network_plan("hierarchical", 2**24, 1, 1), Vocabulary("ab")
    network = plan.build(3)
    with pytest.raises(UsageError, match="cannot be saved: a context of 16777216 characters: it must be"):
        save_model(Model(network, vocabulary, plan), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
    small = network_plan("hierarchical", 4, 1, 1)
    content = content_of(model_bytes(Model(small.build(3), vocabulary)))
    content["network"] = describe(network)
    content["tensors"] = network.state_dict()
    whole = forged(content)
    assert len(whole) < 20_000
    (tmp_path / "model").write_bytes(whole)
    with pytest.raises(ModelFileError, match="has an invalid network: a context of 16777216 characters"):
        load_model(tmp_path / "model")
    del content["network"]["block_size"]
    (tmp_path / "model").write_bytes(forged(content))
    with pytest.raises(ModelFileError, match="has an invalid network: a context of 16,777,216 characters"):
        load_model(tmp_path / "model")


MEMORY = """
import sys
from pathlib import Path
from makemore.core.errors import ModelFileError
from makemore.run.model_file import load_model
first, *others = sys.argv[1:]
load_model(first)
before = used()
for path in others:
    try:
        load_model(path)
    except ModelFileError:
        continue
    raise SystemExit(f"{path} was loaded")
print(used() - before)
"""


@pytest.mark.full
def test_refusing_a_file_takes_no_memory(saved: Path, tmp_path: Path, peak_memory: str) -> None:
    whole = saved.read_bytes()
    forgeries: list[bytes] = [
        with_header(whole, lambda header: header["run:losses"].update(shape=[2**40])),
        with_header(whole, lambda header: header["run:losses"].update(data_offsets=[0, 2**40])),
        (2**40).to_bytes(8, "little") + whole[8:],
    ]
    for sizes in (
        {"n_hidden": 2**20},
        {"n_embd": 2**20, "n_hidden": 2**20},
        {"n_hidden": 2**30},
        {"name": "mlp", "block_size": 4096, "n_hidden": 2**20},
        {"name": "hierarchical-bug", "block_size": 4096, "n_hidden": 2**20},
        {"block_size": 2**1000, "n_embd": 1, "n_hidden": 1},
    ):
        content = content_of(whole)
        content["plan"].update(sizes)
        forgeries.append(forged(content))
    for name in ("wavenet", "mlp", "hierarchical-bug"):
        with shapes_only():
            layers = describe(network_plan(name, n_embd=2**20, n_hidden=2**20).build(27))
        content = content_of(whole)
        content["network"] = layers
        forgeries.append(forged(content))
    for layer, arguments in (
        ("FlattenConsecutive", {"n": 2**40}),
        ("FlattenDilated", {"n": 2**40, "dilation": 1}),
        ("HistoricBatchNorm1d", {"dim": 2**31, "positions": 2**31}),
        ("Linear", {"fan_in": 2**31, "fan_out": 2**20}),
    ):
        content = content_of(whole)
        content["network"]["arguments"]["layers"][1] = {"layer": layer, "arguments": arguments}
        forgeries.append(forged(content))
    content = content_of(whole)
    content["progress"]["step"] = 2**40
    forgeries.append(forged(content))
    paths = [tmp_path / f"forged-{i}" for i in range(len(forgeries))]
    for path, forgery in zip(paths, forgeries, strict=True):
        path.write_bytes(forgery)
    got = subprocess.run(
        [sys.executable, "-c", peak_memory + MEMORY, saved, *paths],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(got.stdout) < 20, "MB for files of 20 kB"


def test_missing_files_and_directories_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"cannot read .*none: No such file"):
        load_model(tmp_path / "none")
    with pytest.raises(ModelFileError, match=r"cannot read .*model\.safetensors: No such file"):
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


def test_a_link_stays_a_link_and_a_pipe_a_pipe(small_model: Model, tmp_path: Path) -> None:
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    (tmp_path / "far").mkdir()
    link.symlink_to("far/model.safetensors")
    for _ in range(2):  # a new file, and one that is replaced
        save_model(small_model, link)
        assert link.is_symlink()
        assert load_model(tmp_path / "far" / "model.safetensors").plan == small_model.plan
    os.mkfifo(pipe)
    with pytest.raises(WriteError, match=r"cannot write .*pipe: it is not a regular file"):
        save_model(small_model, pipe)
    assert pipe.is_fifo()


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
