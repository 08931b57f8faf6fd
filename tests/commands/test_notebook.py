"""The package inside a notebook: a real Jupyter kernel runs what a person types there."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import torch

from makemore import draw_losses, draw_nodes, network_plan, plot_losses
from makemore.commands.cli import main, sample_main

# Jupyter's packages warn about each other's changes.
pytestmark = pytest.mark.filterwarnings("ignore")

WITHOUT_INLINE = (
    "import sys; sys.modules['matplotlib_inline'] = None;"
    "from makemore.commands.cli import main; sys.exit(main(sys.argv[1:]))"
)
"""A command in an environment without the package that has Jupyter's backend."""

Run = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def run_cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Runs a cell in one kernel: its text, the types of its rich outputs, and its error."""
    pytest.importorskip("ipykernel")
    manager = pytest.importorskip("jupyter_client.manager")
    directory = tmp_path_factory.mktemp("notebook")
    source = str(Path(__file__).parents[2])
    env = os.environ | {"PYTHONPATH": source, "COLUMNS": "200"}
    env.pop("MPLBACKEND", None)
    kernel, client = manager.start_new_kernel(cwd=str(directory), env=env)

    def run(code: str) -> dict[str, Any]:
        found: dict[str, Any] = {"text": "", "types": [], "error": ""}

        def note(message: dict[str, Any]) -> None:
            content = message["content"]
            found["text"] += content.get("text", "")
            found["types"] += content.get("data", {})
            found["error"] += content.get("evalue", "")

        client.execute_interactive(code, timeout=120, output_hook=note)
        return found

    yield run
    client.stop_channels()
    kernel.shutdown_kernel(now=True)


@pytest.mark.full
def test_a_shell_command_of_another_environment(run_cell: Run, word_file: Path) -> None:
    assert "inline" in run_cell("import os; print(os.environ['MPLBACKEND'])")["text"]
    python = f'!"{sys.executable}" -P -c "{WITHOUT_INLINE}"'
    drawn = run_cell(f"{python} draw nodes x.png")["text"]
    assert "wrote x.png" in drawn
    assert "Traceback" not in drawn
    trained = run_cell(f'{python} train --data "{word_file}" --steps 3 --samples 1')["text"]
    assert "wrote out/model.safetensors, out/losses.csv, out/loss.png" in trained


@pytest.mark.full
def test_the_commands_within_the_kernel(run_cell: Run) -> None:
    sampled = run_cell("%run -m makemore sample --model bundled -n 3 --seed 1")
    assert sampled["error"] == ""
    assert len(sampled["text"].splitlines()) == 3
    assert run_cell("%run -m makemore sample --model none")["text"].startswith(
        "makemore-sample: cannot read none"
    )
    assert run_cell("print('still here')")["text"] == "still here\n"


@pytest.mark.full
def test_a_figure_is_shown_as_a_picture(run_cell: Run) -> None:
    code = "from makemore import *\ndraw_nodes(load_model().network, 'emma')"
    assert "image/png" in run_cell(code)["types"]
    assert "image/png" in run_cell("plot_losses([3.0, 2.0])")["types"]
    run_cell("%matplotlib inline")
    assert run_cell("draw_nodes(load_model().network, 'emma')")["types"].count("image/png") == 1


@pytest.mark.full
def test_a_network_loaded_in_inference_mode_is_trained(run_cell: Run) -> None:
    code = """
import torch
from makemore import *
with torch.inference_mode():
    model = load_model()
data = load_words().data(model.block_size)
trainer = Trainer(model.network, data, LectureRecipe(steps=3, lr_drop=2), torch.Generator(), BackpropEngine)
print(sum(len(losses) for losses in trainer.run(3)))
"""
    assert run_cell(code) == {"text": "3\n", "types": [], "error": ""}


def test_text_goes_to_a_stream_without_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["-n", "3", "--seed", "1", "--model", "bundled"]
    for command in (lambda: sample_main(flags), lambda: main(["sample", *flags])):
        with contextlib.redirect_stdout(io.StringIO()) as text:
            assert command() == 0
            assert sys.stdout is text
        assert len(text.getvalue().splitlines()) == 3
    assert capsys.readouterr() == ("", "")


@pytest.mark.full
@pytest.mark.parametrize("backend", ["module://no_such_package.backend", "no-such-backend", "agg"])
def test_commands_need_no_backend(backend: str, tmp_path: Path) -> None:
    got = subprocess.run(
        [sys.executable, "-m", "makemore", "draw", str(tmp_path / "x.png"), "--model", "bundled"],
        env=os.environ | {"MPLBACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (got.returncode, got.stderr) == (0, "")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_figures_show_themselves() -> None:
    for figure in (
        plot_losses([3.0, 2.0]),
        draw_losses(torch.ones(3)),
        draw_nodes(network_plan().build(27), "ab"),
    ):
        assert isinstance(figure, matplotlib.figure.Figure)
        assert figure._repr_png_().startswith(b"\x89PNG")
