"""The public names, and that importing and asking for help stay quick."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import makemore


def test_public_names() -> None:
    assert sorted(makemore.__all__) == [
        "AutogradEngine", "BackpropEngine", "BatchNorm1d", "Convolution", "Data", "Dropout", "Embedding",
        "Ensemble", "EnsembleEngine", "Examples", "Filters", "FlattenConsecutive", "FlattenDilated",
        "GatedActivation", "HistoricBatchNorm1d", "LabelDistribution", "LabelledEmbedding", "Labels", "Layer",
        "LayerNorm", "LectureRecipe", "Linear", "Model", "ModernRecipe", "ModernTrainer", "NETWORKS", "Plan",
        "RMSNorm", "ReLU", "ResidualBlock", "Sequential", "SkipConnections", "TakeLast", "Tanh", "Trainer",
        "Vocabulary", "Window", "WindowsEngine", "WordList", "build_dataset", "conditioned", "context_length",
        "draw_activations", "draw_batchnorm", "draw_embedding", "draw_gradients", "draw_losses", "draw_nodes",
        "draw_probabilities", "draw_tree", "from_module", "generate", "generate_scored", "label_probs",
        "load_model", "load_words", "log_likelihoods", "loss", "network_plan", "page_html", "plot_losses",
        "read_words", "register_layer", "sample_word", "save_model", "split_loss", "split_words", "summary",
        "to_module", "train",
    ]  # fmt: skip
    for name in makemore.__all__:
        assert getattr(makemore, name) is not None
        assert name in dir(makemore)
    with pytest.raises(AttributeError, match="no attribute 'Conv1d'"):
        makemore.Conv1d  # noqa: B018


def test_type_checkers_see_the_same_names() -> None:
    """They read the star imports; what is imported lazily comes from the same modules."""
    starred = {name.removeprefix("makemore.") for name in imports()["makemore.__init__"]} - {"importlib"}
    assert {n for n in starred if not n.startswith(("importlib", "typing"))} == set(makemore._NAMES)


@pytest.mark.parametrize("command", ["train", "sample", "draw", "page", "export", "search"])
@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_do_without_torch(command: str, flag: str) -> None:
    code = (
        "import sys; from makemore.commands.cli import *\n"
        f"try: {command}_main(['{flag}'])\n"
        "finally: assert not {'torch', 'matplotlib', 'numpy', 'tqdm', 'optuna'} & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert f"makemore-{command}" in run.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--help"], 0, "train"),
        (["draw", "--help"], 0, "usage: makemore-draw"),
        (["train", "--steps", "0"], 2, "makemore-train: argument --steps: must be a whole number from 1"),
        (["paint"], 2, "makemore: argument command: invalid choice: 'paint'"),
        ([], 2, "makemore: the following arguments are required: command (see"),
    ],
)
def test_as_a_module(arguments: list[str], code: int, message: str) -> None:
    argv = [sys.executable, "-m", "makemore", *arguments]
    run = subprocess.run(argv, capture_output=True, text=True)
    assert run.returncode == code
    assert message in run.stdout + run.stderr
    assert len(run.stderr.splitlines()) == (code > 0)


@pytest.mark.full
def test_training_and_sampling_do_without_torchs_compiler() -> None:
    """It takes a second to import."""
    code = """
import sys, torch
import makemore.commands.sample, makemore.commands.train
from makemore.run.catalog import network_plan
network_plan(n_hidden=100).num_values(27)
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_garbage_is_looked_for_again_once_torch_is_imported() -> None:
    code = """
import gc, sys
from makemore.commands.cli import answer
assert answer("", "builtins:int") == 0
assert "torch" in sys.modules and gc.isenabled() and gc.get_freeze_count() > 100_000
"""
    subprocess.run([sys.executable, "-c", code], check=True)


ARROWS = {
    "core": "",
    "lecture": "core",
    "paper": "lecture",
    "data": "lecture",
    "training": "data paper",
    "export": "core",
    "backprop": "paper training",
    "inference": "data training",
    "modern": "backprop inference",
    "parallel": "backprop training",
    "pictures": "inference",
    "run": "modern parallel pictures paper",
    "page": "run",
    "search": "run",
    "commands": "page run export search",
}
"""Which packages each package may import, besides those that they may import themselves."""

LARGEST_LECTURE = 900
"""The most lines that the lecture's package may have."""

WITHOUT_TORCH = {
    "makemore.core.errors", "makemore.core.atomic_write", "makemore.core.settings", "makemore.core.system",
    "makemore.run.catalog",
    "makemore.run.settings", "makemore.training.recipe", "makemore.modern.recipe",
}  # fmt: skip


def imports() -> dict[str, set[str]]:
    """What each module of the package imports, wherever in the file."""
    package = Path(makemore.__file__).parent
    found = {}
    for path in sorted(package.rglob("*.py")):
        name = ".".join(["makemore", *path.relative_to(package).with_suffix("").parts])
        nodes = list(ast.walk(ast.parse(path.read_text())))
        assert not [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level], "relative"
        found[name] = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)} | {
            alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names
        }
    return found


def package_of(module: str) -> str:
    """The package within makemore that a module belongs to, or the module itself at the top."""
    return module.split(".")[1] if "." in module else "__init__"


def allowed() -> dict[str, set[str]]:
    """All packages that each package may import, directly or through others."""
    reach: dict[str, set[str]] = {}
    for name, below in ARROWS.items():  # each comes after those that it names
        reach[name] = set(below.split()).union(*(reach[other] for other in below.split()))
    return reach


def test_arrows_point_one_way() -> None:
    modules, reach = imports(), allowed()
    assert {package_of(module) for module in modules} == {*ARROWS, "__init__", "__main__"}
    for module, imported in modules.items():
        package = package_of(module)
        for other in {package_of(name) for name in imported if name.startswith("makemore.")} - {package}:
            assert package in ("__init__", "__main__") or other in reach[package], f"{module} imports {other}"


def test_the_lecture_stands_alone_and_is_short() -> None:
    modules = imports()
    lecture = [module for module in modules if package_of(module) == "lecture"]
    for module in lecture:
        used = {name for name in modules[module] if name.startswith("makemore")}
        assert {package_of(name) for name in used} <= {"core", "lecture"}, module
    folder = Path(makemore.__file__).parent / "lecture"
    assert sum(len(path.read_text().splitlines()) for path in folder.glob("*.py")) <= LARGEST_LECTURE


def test_no_module_imports_itself_by_way_of_others() -> None:
    modules = imports()
    del modules["makemore.__init__"]  # which imports when asked for a name, and is imported for its version
    needs = {
        module: {name if name in modules else f"{name}.__init__" for name in imported} & modules.keys()
        for module, imported in modules.items()
    }
    while ready := [module for module in needs if not needs[module] & needs.keys()]:
        for module in ready:
            del needs[module]
    assert not needs


def test_who_imports_what() -> None:
    modules = imports()
    assert {name for name, needs in modules.items() if "argparse" in needs} == {"makemore.commands.cli"}
    figures = ("matplotlib", "makemore.core.figure")
    drawing = {name for name, needs in modules.items() if any(n.startswith(figures) for n in needs)}
    pictures = {name for name in modules if name.startswith("makemore.pictures.")}
    assert drawing - pictures == {
        "makemore.core.figure",
        "makemore.lecture.plotting",
        "makemore.run.pictures",
        "makemore.commands.draw",
        "makemore.search.pictures",
    }
    assert "makemore.pictures.recorder" not in drawing, "a training that draws nothing does not wait for it"
    assert {name for name, needs in modules.items() if "torch.distributed" in needs} <= {
        "makemore.parallel.processes"
    }
    code = f"import sys\nfor name in {sorted(WITHOUT_TORCH)}: __import__(name)\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "safetensors"} & set(loaded.stdout.split())
