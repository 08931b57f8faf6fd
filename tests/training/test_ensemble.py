"""Ensembles: each member is trained as if it were alone, with every recipe and engine."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from makemore.backprop.engine import BackpropEngine
from makemore.backprop.windows import WindowsEngine
from makemore.data.word_list import read_words
from makemore.lecture.evaluation import split_loss
from makemore.lecture.layers import Sequential
from makemore.modern.recipe import ModernRecipe
from makemore.modern.trainer import ModernTrainer
from makemore.run.catalog import network_plan
from makemore.training.engine import AutogradEngine
from makemore.training.ensemble import Ensemble, EnsembleEngine
from makemore.training.recipe import LectureRecipe
from makemore.training.trainer import Trainer


def networks(*block_sizes: int) -> list[Sequential]:
    return [
        network_plan("hierarchical", size, 4, 8).build(9, Generator().manual_seed(i))
        for i, size in enumerate(block_sizes)
    ]


def test_ensembles_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="one block size, got none"):
        Ensemble([])
    with pytest.raises(ValueError, match=r"one block size, got \[4, 8\]"):
        Ensemble(networks(4, 8))
    with pytest.raises(
        ValueError,
        match=r"no hand-derived gradient for Ensemble\(1 network\): train with the autograd engine",
    ):
        BackpropEngine(Ensemble(networks(4)))


def trained(network: Sequential, make: Any, recipe: Any, data: Any, engine: Any) -> tuple[Tensor, Trainer]:
    trainer = make(network, data, recipe, Generator().manual_seed(9), engine)
    losses = []
    for done in trainer.run(10):
        losses.append(done)
        trainer.evaluate("val")
    trainer.finish()
    return torch.cat(losses), trainer


@pytest.mark.full
@pytest.mark.parametrize(
    ("make", "recipe"),
    [
        (Trainer, LectureRecipe(steps=30, lr_drop=20)),
        (ModernTrainer, ModernRecipe(steps=30, batch_size=256)),
    ],
)
@pytest.mark.parametrize("engine", [WindowsEngine, AutogradEngine])
def test_members_are_trained_as_if_alone(make: Any, recipe: Any, engine: Any, word_file: Path) -> None:
    """On the same batches. In float64, as weights of the same shape are orthogonalized together."""
    data, plan = read_words(word_file).data(8), network_plan("hierarchical", 8, 4, 8)
    ensemble = Ensemble([plan.build(len(data.vocabulary), Generator().manual_seed(i)) for i in range(3)]).to(
        dtype=torch.float64
    )
    alone = copy.deepcopy(ensemble).members
    mean, together = trained(ensemble, make, recipe, data, partial(EnsembleEngine, make_engine=engine))
    each = [trained(network, make, recipe, data, engine)[0] for network in alone]
    torch.testing.assert_close(mean, torch.stack(each).mean(0), atol=1e-6, rtol=0)
    for member, network in zip(ensemble.members, alone, strict=True):
        for name, tensor in network.state_dict().items():
            torch.testing.assert_close(member.state_dict()[name], tensor, atol=1e-9, rtol=1e-9)
    assert together.evaluations[-1].val == pytest.approx(split_loss(ensemble, data.val), abs=1e-9)
