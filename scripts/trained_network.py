"""Write the network that ships with the package: the default command's, without its run.

    python scripts/trained_network.py

Trains in a directory that is removed afterwards, with the default settings and whatever flags of
``makemore-train`` are given behind ``--``. Of the run's model file the network and its vocabulary are kept;
its settings, with the paths of this machine, its losses and its random generator are not. Prints the losses
that ``tests/test_trained_network.py`` pins.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from makemore.commands.cli import train_main
from makemore.convolution import loss
from makemore.model_file import MODEL_FILE, TRAINED, Model, load_model, save_model
from makemore.words import load_words


def losses(model: Model) -> dict[str, float]:
    """Nats per character of each split of the bundled list."""
    data = load_words().data(model.plan.block_size)
    return {split: loss(model.network, getattr(data, split)) for split in ("train", "val", "test")}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train the network that ships with the package.")
    parser.add_argument("--to", type=Path, default=TRAINED, metavar="FILE", help=f"default: {TRAINED.name}")
    parser.add_argument("flags", nargs="*", help="flags for makemore-train, behind --")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as directory:
        code = train_main(["--out-dir", directory, *args.flags])
        if code != 0:
            return code
        model = load_model(Path(directory) / MODEL_FILE)
    save_model(replace(model, progress=None), args.to)
    print(f"\nwrote {args.to}, {args.to.stat().st_size:,} bytes")
    for split, nats in losses(load_model(args.to)).items():
        print(f"{split:<6} {nats:.4f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
