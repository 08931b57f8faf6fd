"""The literal networks of the performance log against the plans of any size."""

from __future__ import annotations

import pytest
import torch
from torch import Generator

from makemore.core.random import default_generator
from makemore.lecture import networks
from makemore.run.catalog import NETWORKS


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("mlp", 12_097),
        ("mlp-8", 22_097),
        ("hierarchical-bug", 22_397),
        ("hierarchical", 22_397),
        ("wavenet", 76_579),
    ],
)
def test_the_literal_network_is_the_plan_to_the_bit(name: str, parameters: int) -> None:
    torch.manual_seed(42)
    literal = getattr(networks, name.replace("-", "_"))(27)
    built = NETWORKS[name].build(27, Generator().manual_seed(42))
    assert repr(literal) == repr(built)
    assert sum(p.numel() for p in literal.parameters()) == parameters
    assert all(p.requires_grad for p in literal.parameters())
    assert literal.state_dict().keys() == built.state_dict().keys()
    for key, tensor in literal.state_dict().items():
        assert torch.equal(tensor, built.state_dict()[key]), key


def test_the_default_generator_draws_the_same_numbers_and_is_put_back() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    generator, twin = Generator().manual_seed(3), Generator().manual_seed(3)
    with default_generator(generator):
        drawn = [torch.randn(5), torch.rand(2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(drawn[0], torch.randn(5, generator=twin))
    assert torch.equal(drawn[1], torch.rand(2, generator=twin))
    assert torch.equal(generator.get_state(), twin.get_state())
    with pytest.raises(TypeError), default_generator(generator):
        torch.randn("one")
    assert torch.equal(torch.get_rng_state(), before)
