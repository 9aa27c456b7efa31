"""Evaluation's numbers against values computed by hand, against scipy, and under changes that must (not) move them."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from distill.objectives import RELATIVE_VARIANCE_FLOOR, nmse, region_masks
from eval import metrics


@given(st.lists(st.integers(1, 7), min_size=1, max_size=5))
def test_every_position_lies_in_exactly_one_region(eos_positions: list[int]) -> None:
    masks = region_masks(torch.tensor(eos_positions), 8)
    assert torch.stack(list(masks.values())).sum(dim=0).eq(1).all()
    for row, eos in enumerate(eos_positions):
        assert [int(mask[row].sum()) for mask in masks.values()] == [1, eos - 1, 1, 7 - eos]
        assert masks["bos"][row, 0] and masks["eos"][row, eos]


def test_nmse_by_hand() -> None:
    """Variances 1 and 4; errors (1, 2) and (0, 0): (1/1 + 4/4 + 0 + 0) / 4 = 0.5."""
    teacher = torch.tensor([[1.0, 2.0], [-1.0, -2.0]])
    student = torch.tensor([[2.0, 4.0], [-1.0, -2.0]])
    assert nmse(student, teacher, teacher.var(dim=0, correction=0)).item() == 0.5


@settings(deadline=None)
@given(st.integers(2, 40), st.integers(1, 6), st.integers(0, 2**31), st.floats(0.1, 100.0), st.floats(-3.0, 3.0))
def test_nmse_is_zero_for_the_same_one_for_the_mean_and_free_of_scale(rows: int, width: int, seed: int, scale: float, shift: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    teacher[0] += 1.0  # no dimension may be constant by chance
    student = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    variance = teacher.var(dim=0, correction=0)
    assert nmse(teacher, teacher, variance) == 0
    if variance.min() > RELATIVE_VARIANCE_FLOOR * variance.mean():
        assert nmse(teacher.mean(dim=0).expand_as(teacher), teacher, variance).item() == pytest.approx(1.0)
    moved = teacher * scale + shift
    moved_error = nmse(student * scale + shift, moved, moved.var(dim=0, correction=0)).item()
    assert moved_error == pytest.approx(nmse(student, teacher, variance).item(), rel=1e-6)


def test_nmse_of_a_constant_dimension_stays_finite_and_does_not_hide() -> None:
    """The floor is 1e-4 of the mean variance (0.5): an error of 0.1 there weighs 0.01 / 5e-5, not infinity and not nothing."""
    teacher = torch.tensor([[1.0, 7.0], [-1.0, 7.0]], dtype=torch.float64)
    variance = teacher.var(dim=0, correction=0)
    assert nmse(teacher.mean(dim=0).expand(2, 2), teacher, variance).item() == pytest.approx(0.5)  # the mean is right in half of the dimensions
    wrong = teacher + torch.tensor([0.0, 0.1], dtype=torch.float64)
    assert nmse(wrong, teacher, variance).item() == pytest.approx(0.1**2 / (RELATIVE_VARIANCE_FLOOR * 0.5) / 2)
    constant = torch.ones(3, 2)
    assert nmse(constant, constant, constant.var(dim=0, correction=0)) == 0


def test_recall_by_hand_and_under_permutation() -> None:
    """Unit axes find themselves; with two of four exchanged half are lost; a cycle loses all."""
    axes = torch.eye(4)
    assert metrics.recall_at_1(axes, axes) == 1.0
    assert metrics.recall_at_1(axes[[1, 0, 2, 3]], axes) == 0.5
    assert metrics.recall_at_1(axes[[1, 2, 3, 0]], axes) == 0.0
    assert metrics.recall_at_1(3 * axes, 0.1 * axes) == 1.0  # cosines know no length


def test_recall_has_two_directions() -> None:
    """All Japanese texts look like the first English one: English 0 is found by one of two, and each English finds its own or ties."""
    english = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    japanese = torch.tensor([[1.0, 0.1], [1.0, 0.2]])
    assert metrics.recall_at_1(japanese, english) == 0.5
    assert metrics.recall_at_1(english, japanese) == 1.0


def test_a_tie_up_to_rounding_counts_as_found() -> None:
    same = torch.randn(1, 64, generator=torch.Generator().manual_seed(0)).expand(5, 64)
    assert metrics.recall_at_1(same * (1 + 1e-7), same) == 1.0


def test_centred_cosine_sees_through_the_common_mean() -> None:
    """Raw cosines of these opposite texts are above 0.99; centred they are -1."""
    teacher = torch.tensor([[100.0, 1.0], [100.0, -1.0]])
    student = teacher.flip(0)
    assert torch.nn.functional.cosine_similarity(student, teacher).min() > 0.99
    assert metrics.centred_cosine(student, teacher) == pytest.approx(-1.0)
    assert metrics.centred_cosine(teacher, teacher) == pytest.approx(1.0)


def test_relative_squared_error_by_hand() -> None:
    assert metrics.relative_squared_error(torch.tensor([[3.0, 3.0]]), torch.tensor([[3.0, 4.0]])) == pytest.approx(1 / 25)


def test_region_means_leave_out_prompts_without_the_region() -> None:
    states = torch.arange(12, dtype=torch.float32).reshape(2, 3, 2)
    mask = torch.tensor([[True, False, True], [False, False, False]])
    assert metrics.region_means(states, mask).tolist() == [[2.0, 3.0]]


def random_states(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(6, 8, 5, generator=generator) + 4.0
    states[:, 0] = states[0, 0]  # BOS is the same for every prompt
    return states, torch.tensor([1, 2, 3, 4, 6, 7])


def test_compare_states_of_the_same_and_of_permuted_pairs() -> None:
    teacher, eos = random_states(0)
    same = metrics.compare_states(teacher, teacher, eos)
    assert list(same) == ["bos", "content", "eos", "pads"]
    assert same["bos"] == {"relative_squared_error": 0.0}
    for region in ("content", "eos", "pads"):
        assert same[region]["nmse"] == 0 and same[region]["centred_cosine"] == pytest.approx(1.0)
        assert same[region]["recall_at_1_ja_en"] == same[region]["recall_at_1_en_ja"] == 1.0
    permuted = metrics.compare_states(teacher.roll(1, dims=0), teacher, eos)
    assert permuted["bos"] == {"relative_squared_error": 0.0}
    for region in ("content", "eos", "pads"):
        assert permuted[region]["nmse"] > 1.0 and permuted[region]["recall_at_1_ja_en"] < 0.5


def test_an_error_in_one_region_stays_in_that_region() -> None:
    teacher, eos = random_states(1)
    masks = region_masks(eos, 8)
    for region, mask in masks.items():
        compared = metrics.compare_states(teacher + mask[:, :, None].float(), teacher, eos)
        wrong = {name for name, numbers in compared.items() if numbers.get("nmse", numbers.get("relative_squared_error")) > 0}
        assert wrong == {region}


def test_a_region_no_prompt_has_is_left_out() -> None:
    teacher, _ = random_states(2)
    assert "pads" not in metrics.compare_states(teacher, teacher, torch.full((6,), 7))
    assert "content" not in metrics.compare_states(teacher, teacher, torch.ones(6, dtype=torch.int64))


@example((0, 261))  # rounding once put the lower end a hair above 0
@given(st.integers(1, 300).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_wilson_interval_equals_scipy(case: tuple[int, int]) -> None:
    right, total = case
    expected = binomtest(right, total).proportion_ci(0.95, method="wilson")
    low, high = metrics.wilson_interval(right, total)
    assert math.isclose(low, expected.low, abs_tol=1e-6) and math.isclose(high, expected.high, abs_tol=1e-6)
    assert 0.0 <= low <= right / total <= high <= 1.0


def test_share() -> None:
    assert metrics.share([True, True, False, True])["value"] == 0.75
    assert metrics.share([True, True, False, True])["right"] == 3
