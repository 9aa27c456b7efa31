"""Evaluation's numbers against values computed by hand, against scipy, and under changes that must
(not) move them.
"""

import functools
import math
import os
import subprocess
import sys
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from distill.encoders.teacher import Encoding, TokenIds
from distill.objective.distances import RELATIVE_VARIANCE_FLOOR, nmse, region_masks
from eval import intervals
from eval.states import collapse, metrics, noise_gap, word_order
from eval.states.pair_numbers import POOLED, Moments, RowNumbers


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
@given(
    st.integers(2, 40),
    st.integers(1, 6),
    st.integers(0, 2**31),
    st.floats(0.1, 100.0),
    st.floats(-3.0, 3.0),
)
def test_nmse_is_zero_for_the_same_one_for_the_mean_and_free_of_scale(
    rows: int, width: int, seed: int, scale: float, shift: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    teacher[0] += 1.0  # no dimension may be constant by chance
    student = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    variance = teacher.var(dim=0, correction=0)
    assert nmse(teacher, teacher, variance) == 0
    if variance.min() > RELATIVE_VARIANCE_FLOOR * variance.mean():
        assert nmse(
            teacher.mean(dim=0).expand_as(teacher), teacher, variance
        ).item() == pytest.approx(1.0)
    moved = teacher * scale + shift
    moved_error = nmse(student * scale + shift, moved, moved.var(dim=0, correction=0)).item()
    assert moved_error == pytest.approx(nmse(student, teacher, variance).item(), rel=1e-6)


def test_nmse_of_a_constant_dimension_stays_finite_and_does_not_hide() -> None:
    """The floor is 1e-4 of the mean variance (0.5): an error of 0.1 there weighs 0.01 / 5e-5, not
    infinity and not nothing.
    """
    teacher = torch.tensor([[1.0, 7.0], [-1.0, 7.0]], dtype=torch.float64)
    variance = teacher.var(dim=0, correction=0)
    assert nmse(teacher.mean(dim=0).expand(2, 2), teacher, variance).item() == pytest.approx(
        0.5
    )  # the mean is right in half of the dimensions
    wrong = teacher + torch.tensor([0.0, 0.1], dtype=torch.float64)
    assert nmse(wrong, teacher, variance).item() == pytest.approx(
        0.1**2 / (RELATIVE_VARIANCE_FLOOR * 0.5) / 2
    )
    constant = torch.ones(3, 2)
    assert nmse(constant, constant, constant.var(dim=0, correction=0)) == 0


def test_ranks_by_hand_and_under_permutation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unit axes find themselves; exchanged ones lose to one other; lengths mean nothing; blocks of
    queries change nothing.
    """
    monkeypatch.setattr(metrics, "QUERIES_AT_ONCE", 3)
    axes = torch.eye(4)
    assert metrics.ranks(axes, axes).tolist() == [0, 0, 0, 0]
    assert metrics.ranks(axes[[1, 0, 2, 3]], axes).tolist() == [1, 1, 0, 0]
    assert metrics.ranks(3 * axes, 0.1 * axes).tolist() == [0, 0, 0, 0]
    line = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    assert metrics.ranks(line.flip(0), line).tolist() == [2, 0, 2]


def test_ranks_have_two_directions() -> None:
    """All Japanese texts look like the first English one: English 0 is found by one of two, and
    each English finds its own or ties.
    """
    english = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    japanese = torch.tensor([[1.0, 0.1], [1.0, 0.2]])
    assert metrics.ranks(japanese, english).tolist() == [0, 1]
    assert metrics.ranks(english, japanese).tolist() == [0, 0]


def test_a_tie_up_to_rounding_counts_as_found() -> None:
    same = torch.randn(1, 64, generator=torch.Generator().manual_seed(0)).expand(5, 64)
    assert metrics.ranks(same * (1 + 1e-7), same).tolist() == [0] * 5


def plain_unbiased_cka(first: torch.Tensor, second: torch.Tensor) -> float:
    """Song et al.'s estimate as they write it, with the (pairs, pairs) kernels."""

    def hsic(one: torch.Tensor, other: torch.Tensor) -> float:
        n = len(one)
        k, m = (side @ side.T * (1 - torch.eye(n, dtype=side.dtype)) for side in (one, other))
        ones = torch.ones(n, dtype=k.dtype)
        total = (
            (k @ m).trace()
            + (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
            - 2 / (n - 2) * (ones @ k @ m @ ones)
        )
        return total.item() / (n * (n - 3))

    return hsic(first, second) / math.sqrt(hsic(first, first) * hsic(second, second))


def test_linear_cka_equals_its_formula_and_knows_no_rotation_and_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (
        torch.randn(30, 12, generator=generator, dtype=torch.float64) + 3 for _ in range(2)
    )
    mixed = first + 0.5 * second
    assert metrics.linear_cka(mixed, first) == pytest.approx(
        plain_unbiased_cka(mixed, first), rel=1e-9
    )
    rotation = torch.linalg.qr(second[:12, :12])[0]
    assert metrics.linear_cka(first, 7 * first @ rotation - 5) == pytest.approx(1.0)
    wide = [torch.randn(40, 400, generator=generator) for _ in range(2)]
    assert abs(metrics.linear_cka(*wide) or 1.0) < 0.1  # the plain estimate would say 0.9
    assert metrics.linear_cka(first[:3], first[:3]) is None


def test_effective_rank_counts_the_directions_however_many_prompts() -> None:
    axes = torch.cat([torch.eye(5), -torch.eye(5)])
    assert metrics.effective_rank(axes) == pytest.approx(5.0)
    turned = (
        axes @ torch.linalg.qr(torch.randn(50, 5, generator=torch.Generator().manual_seed(0)))[0].T
    )  # wider than there are prompts
    assert metrics.effective_rank(turned) == pytest.approx(5.0, rel=1e-5)
    assert metrics.effective_rank(
        torch.tensor([[1.0, 2.0], [2.0, 4.0], [5.0, 10.0]])
    ) == pytest.approx(1.0)
    scaled = torch.diag(torch.tensor([3.0, 1.0]))  # eigenvalues 9 and 1: 10^2 / (81 + 1)
    assert metrics.effective_rank(torch.cat([scaled, -scaled])) == pytest.approx(100 / 82)
    assert metrics.effective_rank(torch.ones(3, 4)) == 0.0


def test_mean_pairwise_cosine_by_hand() -> None:
    vectors = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])  # cosines -1, 0, 0
    assert metrics.mean_pairwise_cosine(vectors + 5, torch.full((2,), 5.0)) == pytest.approx(-1 / 3)
    assert metrics.mean_pairwise_cosine(torch.ones(4, 2), torch.zeros(2)) == pytest.approx(1.0)


def test_region_means_of_a_prompt_without_the_region_are_zero() -> None:
    states = torch.arange(12, dtype=torch.float32).reshape(2, 3, 2)
    mask = torch.tensor([[True, False, True], [False, False, False]])
    assert metrics.region_means(states, mask).tolist() == [[2.0, 3.0], [0.0, 0.0]]


def random_encoding(seed: int, pairs: int = 12) -> Encoding:
    generator = torch.Generator().manual_seed(seed)
    clip_l, clip_bigg = (
        torch.randn(pairs, 8, width, generator=generator) * 2 + 4.0 for width in (5, 7)
    )
    clip_l[:, 0], clip_bigg[:, 0] = 1.0, 2.0  # BOS is the same for every prompt
    states = {"clip_l": clip_l, "clip_bigg": clip_bigg}
    return Encoding(states, torch.randn(pairs, 6, generator=generator))


def token_ids(eos: list[int]) -> TokenIds:
    ids = torch.zeros(len(eos), 8, dtype=torch.int64)
    parts = ("clip_l", "clip_bigg")
    return TokenIds(dict.fromkeys(parts, ids), dict.fromkeys(parts, torch.tensor(eos)))


EOS = [1, 2, 3, 4, 6, 7, 5, 5, 2, 3, 7, 4]


def compared(
    row: Encoding, teacher: Encoding, eos: list[int], batch: int = 12
) -> tuple[RowNumbers, RowNumbers]:
    """The row and the teacher's own, added batch by batch."""
    moments = Moments()
    parts = [slice(start, start + batch) for start in range(0, len(eos), batch)]
    for part in parts:
        moments.add(noise_gap.cut(teacher, part), token_ids(eos[part]))
    both = RowNumbers(moments, len(eos)), RowNumbers(moments, len(eos))
    for numbers, encoding in zip(both, (row, teacher), strict=True):
        for part in parts:
            numbers.add(
                part.start,
                noise_gap.cut(encoding, part),
                noise_gap.cut(teacher, part),
                token_ids(eos[part]),
            )
    for numbers in both:
        numbers.rank(both[1])
    return both


def test_streamed_numbers_equal_the_definitions_whatever_the_batch() -> None:
    """One pass in batches of 5 and of 12; against the formulas over all states at once; the same
    for a part of the pairs.
    """
    teacher, row = random_encoding(0), random_encoding(1)
    chosen = np.arange(12) % 3 == 0
    results = []
    for batch in (5, 12):
        student, own = compared(row, teacher, EOS, batch)
        results.append(
            (student.metrics(own, np.ones(12, dtype=bool)), student.metrics(own, chosen))
        )
    everything, part = results[0]
    for name, regions in everything.items():
        for region, numbers in regions.items():
            assert numbers == pytest.approx(results[1][0][name][region], rel=1e-5)
    assert (
        "linear_cka" in everything["pooled"]["pooled"]
        and part["pooled"]["pooled"]["nmse"] != everything["pooled"]["pooled"]["nmse"]
    )
    for name in ("clip_l", "clip_bigg"):
        wanted_BLD, got_BLD = teacher.states[name], row.states[name]
        for region, mask in region_masks(torch.tensor(EOS), 8).items():
            if region == "bos":
                ratio = (got_BLD[mask] - wanted_BLD[mask]).square().sum() / wanted_BLD[
                    mask
                ].square().sum()
                assert everything[name]["bos"] == {
                    "relative_squared_error": pytest.approx(ratio.item())
                }
                continue
            mean, variance = wanted_BLD[mask].mean(dim=0), wanted_BLD[mask].var(dim=0, correction=0)
            cosine = (
                torch.nn.functional.cosine_similarity(
                    got_BLD[mask] - mean, wanted_BLD[mask] - mean, dim=-1
                )
                .mean()
                .item()
            )
            assert everything[name][region]["nmse"] == pytest.approx(
                nmse(got_BLD[mask], wanted_BLD[mask], variance).item(), rel=1e-4
            )
            assert everything[name][region]["centred_cosine"] == pytest.approx(cosine, rel=1e-4)
            some = (
                mask & torch.from_numpy(chosen)[:, None]
            )  # a part of the pairs, by the variance of all
            assert part[name][region]["nmse"] == pytest.approx(
                nmse(got_BLD[some], wanted_BLD[some], variance).item(), rel=1e-4
            )


MEMORY = """
import resource, torch
from distill.encoders.teacher import Encoding, TokenIds
from eval.states.pair_numbers import Moments, RowNumbers

def batch():
    states = {"clip_l": torch.randn(16, 77, 768), "clip_bigg": torch.randn(16, 77, 1280)}
    return Encoding(states, torch.randn(16, 1280))

eos = dict.fromkeys(("clip_l", "clip_bigg"), torch.randint(5, 70, (16,)))
ids = TokenIds(eos, eos)
moments, peaks = Moments(), []
moments.add(batch(), ids)
rows = [RowNumbers(moments, 400) for _ in range(2)]
for start in range(0, 400, 16):
    teacher = batch()
    rows[0].add(start, teacher, teacher, ids)
    rows[1].add(start, batch(), teacher, ids)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print((peaks[-1] - peaks[4]) // 1024)
"""


def test_memory_does_not_grow_with_the_states_of_the_pairs() -> None:
    """SDXL's widths: 320 pairs more are 380 MB of states, and kept small tensors between them once
    held 2 GB of heap; their means are 18 MB.
    """
    done = subprocess.run(
        [sys.executable, "-c", MEMORY],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100


def test_the_teacher_against_itself_and_against_other_prompts() -> None:
    teacher = random_encoding(0)
    for shift in (0, 1):
        student, own = compared(
            teacher.map(functools.partial(torch.roll, shifts=shift, dims=0)), teacher, [5] * 12
        )
        found = student.metrics(own, np.ones(12, dtype=bool))
        assert found["clip_l"]["bos"] == {"relative_squared_error": 0.0}
        for numbers in (
            found["clip_l"]["content"],
            found["clip_bigg"]["pads"],
            found["pooled"]["pooled"],
        ):
            assert (numbers["nmse"] == 0) == (numbers["recall_at_1_text_en"] == 1.0) == (shift == 0)
            assert numbers["centred_cosine"] < 0.5 or shift == 0
            assert numbers["recall_at_10_en_text"] >= numbers["recall_at_1_en_text"]


def test_an_error_in_one_region_stays_in_that_region_and_an_absent_region_is_left_out() -> None:
    teacher = random_encoding(1)
    for region, mask in region_masks(torch.tensor(EOS), 8).items():
        moved = {"clip_l": teacher.states["clip_l"] + mask[:, :, None].float()}
        student, own = compared(teacher._replace(states={**teacher.states, **moved}), teacher, EOS)
        found = student.metrics(own, np.ones(12, dtype=bool))
        wrong = {
            (name, one)
            for name, regions in found.items()
            for one, numbers in regions.items()
            if next(iter(numbers.values())) > 0
        }
        assert wrong == {("clip_l", region)}
    for eos, absent in ((7, "pads"), (1, "content")):
        student, own = compared(teacher, teacher, [eos] * 12)
        assert absent not in student.metrics(own, np.ones(12, dtype=bool))["clip_l"]


def test_moments_survive_a_large_mean() -> None:
    """CLIP's outlier dimensions: a mean of 1,000 with a variance of 1 in fp32 sums of squares would
    be lost.
    """
    teacher = random_encoding(2)
    moments = Moments()
    moments.add(teacher._replace(pooled_BP=teacher.pooled_BP + 1000), token_ids(EOS))
    torch.testing.assert_close(
        moments.variance(POOLED),
        (teacher.pooled_BP + 1000).var(dim=0, correction=0),
        rtol=1e-3,
        atol=0,
    )


def test_a_collapsed_student_is_warned_of() -> None:
    teacher = random_encoding(3)
    shrunk = teacher.pooled_BP[:, :1] * torch.ones(1, 6)  # every prompt on one line
    student, own = compared(teacher._replace(pooled_BP=shrunk), teacher, EOS)
    found = collapse.measure(student, own)
    assert found["pooled"]["effective_rank"] == pytest.approx(1.0) and found["clip_l_content"][
        "effective_rank_ratio"
    ] == pytest.approx(1.0)
    (line,) = collapse.warnings({"student": {"collapse": found}})
    assert "pooled" in line
    assert collapse.warnings({"student": {"collapse": collapse.measure(own, own)}}) == []


def test_word_order_tells_a_bag_of_words_from_a_reader() -> None:
    """A student that does not move is 0; one that moves as the teacher does is 1; the noise ratio
    is of sums over pairs.
    """
    teacher, swapped = random_encoding(4), random_encoding(5)
    plain = compared(teacher, teacher, EOS)[0]
    moved = compared(swapped, teacher, EOS)[0]
    rows = {"student": plain, "teacher": plain, "teacher_role_swapped": moved}
    noise = {
        ("student_role_swapped", "student"): np.array([[1.0]]),
        ("teacher_role_swapped", "teacher"): np.array([[4.0]]),
    }
    for student, expected in ((plain, 0.0), (moved, 1.0)):
        found = word_order.measure(
            rows | {"student_role_swapped": student}, noise_gap.Distances([1], noise)
        )
        probe = {
            "pooled": pytest.approx(expected),
            "states": pytest.approx(expected),
            "noise": 0.25,
            "pairs": 12,
        }
        assert found == {"role_swap": probe}


def test_bootstrap_equals_the_normal_interval_and_draws_pairs_whole() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, size=400)
    found = intervals.bootstrap(values, seed=1)
    assert found["value"] == pytest.approx(values.mean()) and found == intervals.bootstrap(
        values, seed=1
    )
    half = 1.96 * values.std() / 20
    assert found["low"] == pytest.approx(values.mean() - half, abs=0.05) and found[
        "high"
    ] == pytest.approx(values.mean() + half, abs=0.05)
    assert intervals.bootstrap(0.5 * values**2, values**2) == pytest.approx(
        {"value": 0.5, "low": 0.5, "high": 0.5}
    )  # each pair's ratio is the same
    assert (
        intervals.bootstrap(np.array([1.0, 0.0]), np.array([2.0, 0.0]))["high"] == 0.5
    )  # a resample of nothing but the second is left out


@example((0, 261))
@given(st.integers(1, 300).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_the_interval_of_a_share_is_wilsons(case: tuple[int, int]) -> None:
    """Against the formula of Wilson 1927, and the share is inside its own interval."""
    right, total = case
    found = intervals.share([True] * right + [False] * (total - right))
    z = NormalDist().inv_cdf(0.975)
    value, spread = right / total, z * z / total
    middle = (value + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(value * (1 - value) / total + spread / (4 * total))
    assert found["low"] == pytest.approx(middle - half, abs=1e-12)
    assert found["high"] == pytest.approx(middle + half, abs=1e-12)
    assert 0.0 <= found["low"] <= found["value"] <= found["high"] <= 1.0


def test_share() -> None:
    assert intervals.share([True, True, False, True])["value"] == 0.75
    assert intervals.share([True, True, False, True])["right"] == 3
