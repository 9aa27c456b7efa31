"""Cutting, bucketing and re-weighting against the plain way, in fp64: the same gradients, or the
same in expectation.
"""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from configs.errors import RecipeError
from configs.schema.distill import Distill, Ramp
from distill.encoders.family import SDXL
from distill.encoders.student import Towers
from distill.encoders.tower import tower_of
from distill.objective import random_attention
from distill.objective.query_bank import CrossAttentionLayer
from distill.objective.teacher_statistics import Statistics
from distill.objective.terms import GlobalCounts, Loss
from distill.tokens.ahead import Ahead
from distill.tokens.batches import Batches, SpecialIds
from distill.tokens.mixture import mixture
from distill.tokens.prompts import POSITIONS
from distill.tokens.token_pairs import TokenPairs, sides_of

VOCAB = 60
EVERYTHING = {
    "position": 1.0,
    "cross_attention": 1.0,
    "random_attention": 0.5,
    "pooled": 1.0,
}


def token_pairs(rows: int, longest: int = 30, composed: int = 0) -> TokenPairs:
    """BOS, some words, EOS; every side of a row has a length of its own, the first row's fills all
    positions. The last `composed` rows are composed prompts.
    """
    generator, ids, offsets = np.random.default_rng(0), {}, {}
    for side in sides_of(SDXL):
        lengths = generator.integers(2, longest, size=rows)
        lengths[0] = POSITIONS
        found = [
            np.array(
                [VOCAB - 2, *generator.integers(0, VOCAB - 2, size=length - 2), VOCAB - 1],
                np.uint16,
            )
            for length in lengths
        ]
        ids[side], offsets[side] = (
            np.concatenate(found),
            np.concatenate([[0], np.cumsum([len(row) for row in found])]),
        )
    for part in (ids, offsets):
        part["en_clip_bigg"] = part["en_clip_l"]
    return TokenPairs(ids, offsets, composed=composed)


def batches(
    rows: int,
    batch_size: int,
    full: float | Ramp,
    empty: float = 0.0,
    english: float = 0.0,
    composed: float = 0.0,
) -> Batches:
    special = SpecialIds(VOCAB - 2, VOCAB - 1, VOCAB - 1)
    chosen = section(
        {"position": 1.0},
        batch_size=batch_size,
        empty_prompt_share=empty,
        english_share=english,
        full_length_share=full,
        steps=10,
        composed_share=composed,
    )
    return Batches(
        chosen,
        token_pairs(rows, composed=5 if composed else 0),
        dict.fromkeys(sides_of(SDXL), special),
    )


def section(objective: dict[str, float], **changes: object) -> Distill:
    fields = {
        "base": "x",
        "objective": objective,
        "steps": 200,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "query_bank": {"queries_per_step": 5},
    }
    return Distill.model_validate(fields | changes)


@settings(max_examples=100, deadline=None)
@given(
    share=st.floats(0, 1),
    per_process=st.integers(2, 12),
    processes=st.integers(1, 4),
    tokens=st.none() | st.integers(1, 400),
    empty=st.sampled_from([0.0, 0.1]),
    step=st.integers(0, 9),
)
def test_every_row_is_dealt_once_and_all_processes_compute_alike(
    share: float, per_process: int, processes: int, tokens: int | None, empty: float, step: int
) -> None:
    maker = batches(50, per_process * processes, share, empty, english=0.3, composed=0.2)
    rows = maker.rows(step)
    dealt = [maker.micro_batches(rows, process, processes, tokens) for process in range(processes)]
    assert sorted(row for own in dealt for part, _ in own for row in part.tolist()) == sorted(
        rows.tolist()
    )
    assert {sum(len(part) for part, _ in own) for own in dealt} == {per_process}
    for part, length in (micro_batch for own in dealt for micro_batch in own):
        assert len(part) >= 1 and (tokens is None or len(part) == 1 or len(part) * length <= tokens)
        full = part["pad_weight"] > 0
        assert full.all() or not full.any()
        assert length == (POSITIONS if full.all() else maker.lengths(part).max())
    positions = [
        sum(
            POSITIONS if row["pad_weight"] > 0 else maker.lengths(part)[i]
            for part, _ in own
            for i, row in enumerate(part)
        )
        for own in dealt
    ]
    assert max(positions) - min(positions) <= POSITIONS, (
        "no process waits for another's longer texts"
    )
    words = rows["pair"] >= 0
    assert rows["pad_weight"][words].sum() == pytest.approx(
        words.sum() if (rows["pad_weight"][words] > 0).any() else 0
    )  # the full ones stand for all
    assert (rows["pad_weight"][~words] == 1).all()


def test_the_share_of_full_length_pairs_follows_its_schedule() -> None:
    maker = batches(50, 20, Ramp(start=0.0, end=1.0))
    assert [(maker.rows(step)["pad_weight"] > 0).sum() for step in (0, 2, 5)] == [0, 4, 10]


@settings(max_examples=50, deadline=None)
@given(
    weights=st.dictionaries(
        st.sampled_from("abc"), st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=1
    ),
    rows=st.integers(6, 40),
    pairs=st.integers(1, 30),
    steps=st.integers(1, 30),
)
def test_sources_are_drawn_by_their_weights_and_every_pair_of_one_as_often(
    weights: dict[str, float], rows: int, pairs: int, steps: int
) -> None:
    tokens = replace(
        token_pairs(rows), source_N=np.arange(rows) % 6 // 2, source_names=("a", "b", "c")
    )
    mass = np.bincount(tokens.source_N) * [weights.get(name, 1.0) for name in "abc"]
    if not mass.any():
        with pytest.raises(RecipeError, match="every weight is 0"):
            mixture(tokens, weights)
        return
    made = mixture(tokens, weights)
    drawn = [made.draw(0, step, pairs) for step in range(steps)]
    assert all(len(one) == pairs for one in drawn)
    times = np.bincount(np.concatenate(drawn), minlength=rows)
    for source in range(3):
        expected = steps * pairs * mass[source] / mass.sum()
        own = times[tokens.source_N == source]
        assert abs(own.sum() - expected) <= 2 and own.max() - own.min() <= 1
    assert np.array_equal(drawn[-1], made.draw(0, steps - 1, pairs))


def test_a_weight_of_no_source_is_one_line() -> None:
    tokens = replace(token_pairs(6), source_N=np.zeros(6, np.uint16), source_names=("wmt",))
    with pytest.raises(RecipeError, match="comes from 'wnt'; give one of the sources wmt"):
        mixture(tokens, {"wnt": 2.0})


@settings(max_examples=30, deadline=None)
@given(
    rarest=st.lists(st.integers(1, 500), min_size=1, max_size=40),
    below=st.integers(0, 300),
    weighted=st.booleans(),
)
def test_pairs_with_rare_words_stand_in_an_epoch_as_often_as_lvis_says(
    rarest: list[int], below: int, weighted: bool
) -> None:
    """A repeat factor of 2.3 is two or three times; the order is another one in every epoch."""
    tokens = replace(
        token_pairs(len(rarest)),
        source_N=np.zeros(len(rarest), np.uint16),
        source_names=("a",),
        rarest_N=np.array(rarest, np.int32),
    )
    made = mixture(tokens, {"a": 2.0} if weighted else {}, below)
    epoch = made.rows[0] if isinstance(made.rows[0], int) else len(made.rows[0])
    times = np.bincount(made.draw(0, 0, epoch), minlength=len(rarest))
    factor = np.sqrt(np.maximum(1, below / np.array(rarest)))
    assert (np.floor(factor) <= times).all() and (times <= np.ceil(factor)).all()
    assert (times == np.bincount(made.draw(0, 1, epoch), minlength=len(rarest))).all()
    assert below or times.tolist() == [1] * len(rarest)


def test_composed_prompts_have_their_share_and_are_read_in_turn() -> None:
    """Places of their own in every batch, none read in English; pairs are the others alone."""
    maker = batches(50, 40, 0.5, empty=0.05, english=0.1, composed=0.1)
    assert len(maker.tokens) == 45
    drawn = []
    for step in range(10):
        rows = maker.rows(step)
        composed = rows["pair"] >= 45
        assert composed.sum() == 4 and not rows["student_reads_english"][composed].any()
        drawn += rows["pair"][composed].tolist()
        batch = maker.gather(rows[composed])
        for row, ids in zip(rows["pair"][composed], batch.student_BL, strict=True):
            wanted = maker.tokens.row("text", row)
            assert ids[: len(wanted)].tolist() == wanted.tolist()
    assert all(sorted(drawn[i : i + 5]) == list(range(45, 50)) for i in range(0, 40, 5))
    plain = batches(45, 40, 0.5, empty=0.05, english=0.1)
    assert np.array_equal(plain.rows(3)["pair"][:34], maker.rows(3)["pair"][:34])


def towers(seed: int) -> Towers:
    def config(width: int) -> CLIPTextConfig:
        return CLIPTextConfig(
            vocab_size=VOCAB,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=3,
            num_attention_heads=2,
            max_position_embeddings=POSITIONS,
            projection_dim=6,
            bos_token_id=VOCAB - 2,
            eos_token_id=2,
            pad_token_id=1,
        )

    torch.manual_seed(seed)
    models = {
        "clip_l": CLIPTextModel(config(8)),
        "clip_bigg": CLIPTextModelWithProjection(config(12)),
    }
    return Towers({name: tower_of(model, "penultimate") for name, model in models.items()}).double()


def loss(objective: dict[str, float], **changes: object) -> Loss:
    generator = torch.Generator().manual_seed(5)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    chosen = section(objective, **changes)
    states = {"clip_l": random(8).square() + 0.1, "clip_bigg": random(12).square() + 0.1}
    statistics = Statistics(states, random(6).square() + 0.1)
    layers = [
        CrossAttentionLayer(
            f"{part}.{index}",
            SDXL.readers[part],
            random(20, 2, 4),
            random(8, width),
            random(8, width),
            torch.tensor(0.7),
            1 / 4,
        )
        for part, width in (("base", 20), ("refiner", 12))
        for index in range(2)
    ]
    drawn = random_attention.draw(chosen.random_attention, SDXL, statistics, 0)
    double = [
        replace(
            one,
            queries_NHK=one.queries_NHK.double(),
            to_k_ED=one.to_k_ED.double(),
            to_v_ED=one.to_v_ED.double(),
        )
        for one in drawn
    ]
    return Loss(chosen, statistics, layers, double)


def gradients(
    maker: Batches,
    rows: np.ndarray,
    parts: list[tuple[np.ndarray, int]],
    measured: Loss,
    counts: GlobalCounts | None = None,
) -> list[torch.Tensor]:
    """Of the student's parameters, after all micro-batches."""
    student, teacher = towers(1), towers(2).requires_grad_(False)
    counts = counts or GlobalCounts.of(maker.teacher_eos(rows), POSITIONS)
    for part, length in parts:
        batch = maker.gather(part, length)
        sides = batch.sides(student(batch.student), teacher(batch.teacher))
        sides = replace(sides, pad_weight_B=sides.pad_weight_B.double())
        measured.terms(sides, counts, step=3)["loss/total"].backward()
    return [parameter.grad for parameter in student.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("cut_attention", [True, False])
def test_cut_and_bucketed_micro_batches_have_the_gradient_of_running_every_position(
    cut_attention: bool,
) -> None:
    """Every term at once; a prompt of 77 tokens, English and composed prompts and the empty prompt
    among them; two processes or one, any budget.
    """
    maker, measured = (
        batches(20, 16, 0.25, empty=0.1, english=0.2, composed=0.2),
        loss(EVERYTHING, cut_attention=cut_attention),
    )
    rows = maker.rows(1)
    full = rows["pad_weight"] > 0
    plain = gradients(maker, rows, [(rows[full], POSITIONS), (rows[~full], POSITIONS)], measured)
    assert len(plain) > 40
    for processes, tokens in ((1, None), (1, 60), (2, 200)):
        dealt = [
            micro_batch
            for process in range(processes)
            for micro_batch in maker.micro_batches(rows, process, processes, tokens)
        ]
        torch.testing.assert_close(
            gradients(maker, rows, dealt, measured), plain, rtol=1e-12, atol=1e-12
        )


def test_the_stratified_estimate_is_unbiased_over_all_its_outcomes() -> None:
    """Two of five pairs run to 77: the mean gradient over all ten choices is the gradient of
    running all five.
    """
    maker = batches(20, 5, 1.0)
    measured = loss(
        {"position": 1.0, "cross_attention": 1.0, "random_attention": 0.5, "pooled": 1.0},
        cut_attention=False,
    )
    rows = maker.rows(1)
    whole = gradients(maker, rows, [(rows, POSITIONS)], measured)
    outcomes = []
    for chosen in itertools.combinations(range(5), 2):
        some = rows.copy()
        some["pad_weight"] = 0
        some["pad_weight"][list(chosen)] = 5 / 2
        outcomes.append(gradients(maker, some, maker.micro_batches(some, 0, 1, None), measured))
    mean = [torch.stack(same).mean(dim=0) for same in zip(*outcomes, strict=True)]
    torch.testing.assert_close(mean, whole, rtol=1e-12, atol=1e-12)
    assert any(
        (one - whole_one).abs().max() > 1e-3
        for one, whole_one in zip(outcomes[0], whole, strict=True)
    )  # each alone is only an estimate


class _HostReads(TorchDispatchMode):
    """Counts what makes the host wait for a GPU: reading a tensor's numbers, or their count."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in {"_local_scalar_dense", "nonzero", "equal"}:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


def test_the_host_never_waits_for_the_device_in_forward_loss_and_backward() -> None:
    maker = batches(20, 16, 0.25, empty=0.1, english=0.2, composed=0.2)
    rows = maker.rows(1)
    dealt = maker.micro_batches(rows, 0, 1, 200)
    counts = GlobalCounts.of(maker.teacher_eos(rows), POSITIONS)
    with _HostReads() as reads:
        gradients(maker, rows, dealt, loss(EVERYTHING), counts)
        assert not reads.found
        torch.ones(1).item()
    assert reads.found


def test_the_next_step_is_made_while_this_one_runs() -> None:
    made: list[int] = []

    def make(step: int) -> int:
        if step == 3:
            raise RecipeError("no step 3")
        made.append(step)
        return 10 * step

    ahead = Ahead(make)
    assert [ahead(0), ahead(1)] == [0, 10]
    assert ahead(7) == 70, "resumed elsewhere"
    assert ahead(2) == 20
    with pytest.raises(RecipeError, match="no step 3"):
        ahead(3)
    assert ahead(4) == 40 and made.count(1) == 1
