"""Train the bundled network and write its file into the package.

    python scripts/release/trained_network.py

Trains with the default settings of ``makemore-train`` in a temporary directory; flags of ``makemore-train``
can be given after ``--``. The file has the network and its vocabulary, but not the run: no settings, no
paths of this machine, no losses and no random generator. Prints the losses that
``tests/scripts/test_trained_network.py`` pins.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from makemore.commands.cli import train_main
from makemore.data.word_list import load_words
from makemore.inference.scoring import loss
from makemore.run.model_file import BUNDLED, MODEL_FILE, Model, load_model, save_model


def losses(model: Model, source: str | None = None) -> dict[str, float]:
    """The loss of a model on each split of a list, by default the bundled one, in nats per symbol."""
    data = load_words(source).data(model.block_size)
    return {split: loss(model.network, getattr(data, split)) for split in ("train", "val", "test")}


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--to", type=Path, default=BUNDLED, metavar="FILE", help=f"file to write (default: {BUNDLED.name})"
    )
    parser.add_argument("flags", nargs="*", help="flags of makemore-train, after --")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as directory:
        code = train_main(["--out-dir", directory, *args.flags])
        if code != 0:
            return code
        model = load_model(Path(directory) / MODEL_FILE)
    assert model.progress is not None
    source = model.progress.settings["data"]
    save_model(replace(model, progress=None), args.to)
    print(f"\nwrote {args.to}, {args.to.stat().st_size:,} bytes")
    for split, nats in losses(load_model(args.to), source).items():
        print(f"{split:<6} {nats:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
