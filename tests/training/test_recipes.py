"""The rules of the recipes, and their settings."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from makemore.core.errors import UsageError
from makemore.core.settings import knob
from makemore.modern.recipe import (
    EFFORTS,
    FEW_EXAMPLES,
    LECTURE_EXAMPLES,
    WIDE_NETWORK_EXAMPLES,
    ModernRecipe,
)
from makemore.run.settings import RunSettings
from makemore.training.recipe import LectureRecipe, Recipe


def test_modern_learning_rates_rise_and_fall() -> None:
    recipe = ModernRecipe(steps=1000)
    shares = [recipe.share_at(step) for step in range(1000)]
    assert max(shares) == shares[50] == 1
    assert shares[:51] == sorted(shares[:51])
    assert shares[50:] == sorted(shares[50:], reverse=True)
    assert 0 < shares[0] < 0.03
    assert 0 < shares[-1] < 1e-5


def test_fewer_examples_get_more_regularization() -> None:
    few, lecture, many = (ModernRecipe.for_examples(n) for n in (1_700, 182_625, 8_000_000))
    assert (lecture.steps, lecture.batch_size, lecture.context_dropout, lecture.weight_decay) == (
        850,
        1024,
        0.2,
        0.4,
    )
    assert few.steps < lecture.steps < many.steps <= 10_000
    assert few.batch_size < lecture.batch_size
    assert few.context_dropout > lecture.context_dropout
    assert few.lr > lecture.lr == many.lr
    assert few.examples_per_row > lecture.examples_per_row == many.examples_per_row
    assert ModernRecipe.for_examples(1_700, steps=5).steps == 5
    found = ModernRecipe.for_examples(17_000)  # 3,000 names, by makemore-search
    assert (found.steps, found.lr, found.lr_adamw) == (158, 0.0529, 0.019)
    assert ModernRecipe.for_examples(17_000, teachers=2).lr == lecture.lr


def test_large_lists_need_no_context_dropout_and_wide_networks_more() -> None:
    def dropout(examples: int, width: float = 1.0) -> float:
        return ModernRecipe.for_examples(examples, width).context_dropout

    assert dropout(267_771) == dropout(2**19) == 0.2
    assert 0.2 > dropout(1_000_000) > dropout(2_000_000) == dropout(10**8) == 0
    assert dropout(3_000) == dropout(17_000) == dropout(30_000) == 0.5  # several networks are averaged
    assert dropout(2_999) == 0.85
    assert 0.5 < dropout(30_001) < 0.7
    assert dropout(182_625, 2) == 0.3
    assert dropout(182_625, 0.5) == 0.2
    assert dropout(1_000_000, 4) > dropout(1_000_000)
    wide = ModernRecipe.for_examples(182_625, 2)
    assert (wide.steps, wide.batch_size) == (850, 1024)
    assert ModernRecipe.for_examples(182_625, 2, context_dropout=0.1).context_dropout == 0.1
    assert LectureRecipe.for_examples(10, 4) == LectureRecipe()


def test_millions_of_words_get_a_wider_network_and_fewer_steps() -> None:
    few, many = WIDE_NETWORK_EXAMPLES - 1, WIDE_NETWORK_EXAMPLES
    assert [ModernRecipe.default_width_ratio(n, None) for n in (few, many)] == [1, 2]
    assert [ModernRecipe.default_width_ratio(many, steps) for steps in (100, 850)] == [1, 2]
    assert LectureRecipe.default_width_ratio(many, None) == 1
    narrow, wide = (ModernRecipe.for_examples(many, width) for width in (1, 2))
    assert wide.steps == pytest.approx(0.28 * narrow.steps, rel=0.001)
    assert ModernRecipe.for_examples(many, 4).steps == wide.steps
    assert 0.97 < ModernRecipe.for_examples(many, 1.01).steps / narrow.steps < 1, (
        "slightly wider, slightly fewer steps"
    )
    assert ModernRecipe.for_examples(many, 0.5).steps == narrow.steps
    assert ModernRecipe.for_examples(few, 2).steps == ModernRecipe.for_examples(few, 1).steps
    assert ModernRecipe.for_examples(many, 2, steps=7).steps == 7


def test_few_words_have_settings_of_their_own() -> None:
    """Several networks, no early end by a few val words, and targets that are smoothed."""
    sizes = [300, 600, 1_200, 2_400, 4_800, FEW_EXAMPLES]
    found = [ModernRecipe.for_examples(n) for n in sizes]
    assert [ModernRecipe.default_ensemble(n) for n in sizes] == [8] * 5 + [4]
    assert [ModernRecipe.default_width_ratio(n, None) for n in sizes] == [0.5, 0.5, 0.5, 1, 1, 1]
    assert [recipe.patience for recipe in found] == [1000] * len(sizes)
    smoothing = [recipe.markov for recipe in found]
    assert smoothing[0] == smoothing[1] > smoothing[2] > smoothing[3] > smoothing[4] == 0
    assert [recipe.keep for recipe in found] == ["last"] * 4 + ["best"] * 2
    steps = [recipe.steps for recipe in found]
    assert steps == sorted(steps)
    assert ModernRecipe.for_examples(300, markov=1.5, patience=3, steps=7).markov == 1.5
    assert ModernRecipe.for_examples(300, targets="hard").markov == 0
    assert ModernRecipe.for_examples(300, consecutive=8).markov == 0
    with pytest.raises(UsageError, match="--markov needs soft targets: leave out --targets hard"):
        ModernRecipe.for_examples(300, markov=2.0, targets="hard")


@pytest.mark.parametrize("examples", [FEW_EXAMPLES + 1, 100_000, LECTURE_EXAMPLES, 267_771, 8_000_000])
def test_more_words_have_one_network_and_the_plain_targets(examples: int) -> None:
    recipe = ModernRecipe.for_examples(examples)
    assert ModernRecipe.default_ensemble(examples) == 1
    assert LectureRecipe.default_ensemble(300) == 1
    assert (recipe.patience, recipe.markov, recipe.keep) == (5, 0, "best")


def test_an_effort_is_a_preset_for_the_settings_not_given() -> None:
    quick, default, best = (ModernRecipe.for_examples(LECTURE_EXAMPLES, effort=effort) for effort in EFFORTS)
    assert default == ModernRecipe.for_examples(LECTURE_EXAMPLES)
    assert (quick.steps, quick.context_dropout, quick.teachers, quick.examples_per_row) == (330, 0, 0, 8)
    assert (best.teachers, best.context_dropout, best.examples_per_row) == (4, 0.2, 2)
    assert quick.steps < default.steps < best.steps
    assert best.teacher().steps == round(best.teacher_share * best.steps)
    assert ModernRecipe.for_examples(1_000, effort="quick").context_dropout > 0
    given = {"effort": "best", "teachers": 1, "steps": 7, "lr": 0.5}
    assert vars(ModernRecipe.for_examples(LECTURE_EXAMPLES, **given)).items() >= given.items()


def test_the_lectures_final_rate_and_drop_follow_from_lr_and_steps() -> None:
    recipe = LectureRecipe.for_examples(10, steps=100, lr=0.4)
    assert (recipe.lr_final, recipe.lr_drop, recipe.batch_size) == (0.04, 75, 32)
    assert recipe == LectureRecipe(steps=100, lr=0.4)
    assert LectureRecipe.for_examples(10) == LectureRecipe()
    default = LectureRecipe()
    assert (default.lr, default.lr_final, default.lr_drop) == (0.1, 0.01, 150_000)
    given = LectureRecipe(steps=8, lr_final=0.05, lr_drop=2)
    assert [given.lr_at(step) for step in range(4)] == [0.1, 0.1, 0.05, 0.05]
    assert replace(given, lr=0.3) == LectureRecipe(8, 32, 0.3, 0.05, 2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "^steps must be a whole number from 1 to 1,000,000,000, got 0$"),
        ({"steps": 2.5}, r"^steps must be a whole number from 1 to 1,000,000,000, got 2\.5$"),
        ({"context_dropout": 1.5}, r"^context_dropout must be a number from 0 to 1, got 1\.5$"),
        ({"context_dropout": float("nan")}, "^context_dropout must be a number from 0 to 1, got nan$"),
        ({"lr": "fast"}, r"^lr must be a number from 0 to 1e\+30, got 'fast'$"),
        ({"targets": "firm"}, "targets must be one of soft, hard, got 'firm'"),
        ({"teachers": 2, "targets": "hard"}, "teachers need soft targets"),
        ({"effort": "much"}, "effort must be one of quick, default, best, got 'much'"),
    ],
)
def test_settings_out_of_range_are_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ModernRecipe(**fields)  # type: ignore[arg-type]


def test_a_conflict_with_a_preset_names_the_flags_to_change() -> None:
    """The user has not given --targets hard: --consecutive implies it, and "best" asks for teachers."""
    advice = "leave out --targets hard and --consecutive, or give --teachers 0"
    with pytest.raises(UsageError, match=advice):
        ModernRecipe.for_examples(10_000, effort="best", consecutive=128)
    recipe = ModernRecipe.for_examples(10_000, effort="best", consecutive=128, teachers=0)
    assert (recipe.targets, recipe.context_dropout, recipe.teachers) == ("hard", 0.0, 0)


def test_a_setting_of_each_type_says_what_it_needs() -> None:
    for name, value, needed in (
        ("tensorboard", "yes", "True or False, got 'yes'"),
        ("data", 3, "one or more texts, got 3"),
        ("network", 3, "text, got 3"),
        ("engine", "torch", "one of windows, backprop, autograd, got 'torch'"),
        ("seed", -1, "a whole number from 0 to 9,223,372,036,854,775,807, got -1"),
        ("save_every", -0.5, r"a number from 0 to 1,000,000,000, got -0\.5"),
    ):
        with pytest.raises(UsageError, match=f"^{name} must be {needed}$"):
            RunSettings(**{name: value})


def test_a_recipe_names_the_field_without_a_knob() -> None:
    @dataclass(frozen=True)
    class MomentumRecipe(Recipe):
        steps: int = knob(100, "training steps", 1)
        batch_size: int = knob(32, "examples per batch", 2)
        lr: float = 0.1
        momentum: float = knob(0.9, "share of the last step that is repeated", 0, 1)

    with pytest.raises(
        TypeError, match=r"^MomentumRecipe\.lr needs a default, a help and a range, from knob"
    ):
        MomentumRecipe()
