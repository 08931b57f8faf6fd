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
        "BatchNorm1d", "Convolution", "Data", "Embedding", "Examples", "Filters", "FlattenConsecutive",
        "HistoricBatchNorm1d", "LectureRecipe", "Linear", "Model", "ModernRecipe", "ModernTrainer",
        "NETWORKS", "Network", "Sequential", "Tanh", "Trainer", "Vocabulary", "WordList", "draw_nodes",
        "generate", "generate_scored", "load_model", "load_words", "log_likelihoods", "loss",
        "network_plan", "plot_losses", "read_words", "sample_word", "save_model", "split_loss", "summary",
    ]  # fmt: skip
    for name in makemore.__all__:
        assert getattr(makemore, name) is not None
        assert name in dir(makemore)
    with pytest.raises(AttributeError, match="no attribute 'Conv1d'"):
        makemore.Conv1d  # noqa: B018


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(makemore.__file__).read_text())
    seen = {a.asname for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names if a.asname}
    assert seen == set(makemore.__all__)


@pytest.mark.parametrize("command", ["train", "sample"])
@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_do_without_torch(command: str, flag: str) -> None:
    code = (
        "import sys; from makemore.commands.cli import *\n"
        f"try: {command}_main(['{flag}'])\n"
        "finally: assert not {'torch', 'matplotlib', 'numpy', 'tqdm'} & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert f"makemore-{command}" in run.stdout


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("layers", ["makemore"]),
        ("words", ["makemore.networks", "makemore.training", "makemore.layers"]),
        ("networks", ["makemore.commands.cli", "makemore.commands.train", "makemore.training", "matplotlib"]),
        ("training", ["makemore.commands.cli", "makemore.commands.train", "matplotlib"]),
        ("run", ["makemore.commands.cli", "argparse", "matplotlib"]),
    ],
)
def test_arrows_point_one_way(module: str, forbidden: list[str]) -> None:
    source = Path(makemore.__file__).with_name(f"{module}.py").read_text()
    top_level = [
        node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.parse(source).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert not [name for name in top_level for bad in forbidden if f"{name}.".startswith(f"{bad}.")]
