"""The arithmetic of training: objectives against diffusers, losses independent of the split, batches a pure function of the step."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import schema
from distill import objectives, query_bank, statistics
from distill.batches import EMPTY_PROMPT, POSITIONS, Batches, SpecialIds
from distill.loss import GlobalCounts, Loss
from distill.query_bank import CrossAttentionLayer
from distill.teacher import ENCODERS, Encoding, load_text_encoders
from distill.tokens import SIDES, TokenPairs

WIDTHS = {"clip_l": 6, "clip_bigg": 10}


def recipe_section(objective: str, **changes: object) -> schema.Distill:
    fields = {
        "base": "x",
        "objective": objective,
        "steps": 200,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "query_bank": schema.QueryBank(queries_per_step=5),
    }
    return schema.Distill.model_validate(fields | changes)


def token_pairs(rows: int) -> TokenPairs:
    """Rows of 2 to 9 ids a side; row i's ids say which row they are."""
    ids, offsets = {}, {}
    for side in SIDES:
        found = [np.full(2 + (index * 5 + len(side)) % 8, index, np.uint16) for index in range(rows)]
        ids[side], offsets[side] = np.concatenate(found), np.concatenate([[0], np.cumsum([len(row) for row in found])])
    return TokenPairs(ids, offsets)


def batches(rows: int, batch_size: int, empty: float, seed: int = 0) -> Batches:
    return Batches(token_pairs(rows), {side: SpecialIds(901, 902, 900 + len(side)) for side in SIDES}, batch_size, empty, seed)


# --- batches ---


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(1, 40), batch_size=st.integers(2, 30), empty=st.sampled_from([0.0, 0.02, 0.2]), step=st.integers(0, 50))
def test_every_pair_comes_once_an_epoch_and_any_step_can_be_reached_at_once(rows: int, batch_size: int, empty: float, step: int) -> None:
    maker = batches(rows, batch_size, empty)
    drawn = [maker.rows(index) for index in range(step + 1)]
    assert np.array_equal(drawn[step], batches(rows, batch_size, empty).rows(step))
    pairs = np.concatenate([found[found != EMPTY_PROMPT] for found in drawn])
    whole = len(pairs) // rows * rows
    assert all(sorted(epoch) == list(range(rows)) for epoch in pairs[:whole].reshape(-1, rows))
    assert all((found == EMPTY_PROMPT).sum() == (max(1, round(empty * batch_size)) if empty else 0) for found in drawn)


def test_a_row_becomes_its_ids_then_pads_and_the_empty_prompt_bos_and_eos() -> None:
    maker = batches(20, 4, 0.0)
    batch = maker.gather(np.array([7, EMPTY_PROMPT]))
    for side, ids_BL, eos_B in zip(SIDES, batch[::2], batch[1::2], strict=True):
        length = len(maker.tokens.row(side, 7))
        assert ids_BL.shape == (2, POSITIONS) and eos_B.tolist() == [length - 1, 1]
        assert ids_BL[0].tolist() == [7] * length + [900 + len(side)] * (POSITIONS - length)
        assert ids_BL[1, :3].tolist() == [901, 902, 900 + len(side)]


# --- objectives ---


def test_attention_output_is_what_diffusers_computes_before_to_out() -> None:
    from diffusers.models.attention_processor import Attention

    torch.manual_seed(0)
    attention = Attention(query_dim=12, cross_attention_dim=16, heads=3, dim_head=4)
    attention.to_out[0] = torch.nn.Identity()
    image_BNE, context_BLD = torch.randn(1, 7, 12), torch.randn(5, 77, 16)
    with torch.no_grad():
        expected_BNE = attention(image_BNE.expand(5, -1, -1), encoder_hidden_states=context_BLD)
        query_NHK = attention.to_q(image_BNE[0]).unflatten(-1, (3, 4))
        ours_BHNK = objectives.attention_output(query_NHK, context_BLD, attention.to_k.weight, attention.to_v.weight)
    torch.testing.assert_close(ours_BHNK.transpose(1, 2).flatten(2), expected_BNE)


def test_cross_attention_reads_a_set() -> None:
    """Permuting the 77 states changes nothing the UNet reads: why position-wise equality asks for too much."""
    torch.manual_seed(0)
    query_NHK, context_BLD = torch.randn(5, 2, 4), torch.randn(3, 77, 6)
    weights = torch.randn(8, 6), torch.randn(8, 6)
    shuffled = objectives.attention_output(query_NHK, context_BLD[:, torch.randperm(77)], *weights)
    torch.testing.assert_close(shuffled, objectives.attention_output(query_NHK, context_BLD, *weights))


def encodings(count: int, seed: int) -> Encoding:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((count, POSITIONS, WIDTHS["clip_l"]), (count, POSITIONS, WIDTHS["clip_bigg"]), (count, 4))
    return Encoding(*(torch.randn(shape, generator=generator) for shape in shapes))


def loss(objective: str) -> Loss:
    generator = torch.Generator().manual_seed(5)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    layers = [
        CrossAttentionLayer(f"{part}.{index}", part == "base", random(20, 2, 4), random(8, width), random(8, width), torch.tensor(0.7))
        for part, width in (("base", 16), ("refiner", 10))
        for index in range(3)
    ]
    variances = {name: random(width).square() + 0.1 for name, width in (WIDTHS | {"pooled": 4}).items()}
    return Loss(recipe_section(objective), variances, layers)


@pytest.mark.parametrize("objective", ["position", "cross_attention"])
def test_the_loss_and_its_gradient_do_not_depend_on_the_split(objective: str) -> None:
    """Whole batch, four micro-batches, or eight prompts one by one: the shares add up to the same terms and the same gradient."""
    eos = {"clip_l": np.array([1, 3, 9, 20, 76, 5, 2, 11]), "clip_bigg": np.array([1, 4, 9, 20, 76, 5, 2, 11])}
    counts, teacher = GlobalCounts.of(eos, POSITIONS), encodings(8, 0)
    results = []
    for pieces in (1, 4, 8):
        student = Encoding(*(tensor.requires_grad_() for tensor in encodings(8, 1)))
        totals: dict[str, float] = {}
        for rows in np.split(np.arange(8), pieces):
            chosen = Encoding(*(tensor[rows] for tensor in student)), Encoding(*(tensor[rows] for tensor in teacher))
            terms = loss(objective).terms(*chosen, {name: torch.from_numpy(eos[name][rows]) for name in ENCODERS}, counts, step=3)
            terms["loss/total"].backward()
            totals = {name: totals.get(name, 0.0) + term.item() for name, term in terms.items()}
        results.append((totals, [tensor.grad for tensor in student]))
    for totals, gradients in results[1:]:
        assert totals == pytest.approx(results[0][0], rel=1e-5)
        torch.testing.assert_close(gradients, results[0][1], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("objective", ["position", "cross_attention"])
def test_a_perfect_student_has_no_loss_and_predicting_the_mean_costs_one(objective: str) -> None:
    eos = {name: np.array([6] * 64) for name in ENCODERS}
    counts, teacher = GlobalCounts.of(eos, POSITIONS), encodings(64, 0)
    positions = {name: torch.from_numpy(value) for name, value in eos.items()}
    assert all(term.item() == 0 for term in loss(objective).terms(teacher, teacher, positions, counts, 0).values())
    if objective == "position":
        measured = loss(objective)
        ones = Loss(measured.settings, {name: torch.ones_like(value) for name, value in measured.variances.items()}, [])
        silent = Encoding(*(torch.zeros_like(tensor) for tensor in teacher))
        for name, term in ones.terms(silent, teacher, positions, counts, 0).items():
            assert term.item() == pytest.approx({"loss/total": 5.0}.get(name, 1.0), rel=0.25), name  # four regions + pooled


# --- what is measured once ---


def test_statistics_are_the_population_variance_of_all_positions_but_bos(tiny_sdxl: Path, tmp_path: Path) -> None:
    teacher = load_text_encoders(tiny_sdxl / "base")
    prompts = [f"a red circle number {index}" for index in range(70)]  # more than one chunk
    statistics.record(tmp_path / "statistics.safetensors", teacher, prompts)
    found, encoding = statistics.load(tmp_path / "statistics.safetensors"), teacher.encode(prompts)
    torch.testing.assert_close(found["clip_l"], encoding.clip_l_BLD[:, 1:].flatten(0, 1).var(dim=0, correction=0), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(found["pooled"], encoding.pooled_BP.var(dim=0, correction=0), rtol=1e-3, atol=1e-7)


def test_the_query_bank_holds_every_layer_of_both_unets_and_is_reproducible(tiny_sdxl: Path, tmp_path: Path) -> None:
    teacher = load_text_encoders(tiny_sdxl / "base")
    bank = schema.QueryBank(prompts=3, inference_steps=4, queries_per_layer=50)
    base, refiner = str(tiny_sdxl / "base"), str(tiny_sdxl / "refiner")
    for name in ("one", "two"):
        query_bank.record(tmp_path / name, base, refiner, teacher, ["a cat", "two dogs", "!"], bank, seed=3)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    layers = query_bank.load(tmp_path / "one")
    assert len(layers) == 8 and {layer.reads_both for layer in layers} == {True, False}
    encoding = teacher.encode(["a cat", "two dogs", "!"])
    for layer in layers:
        assert layer.queries_NHK.shape[0] == 50 and layer.queries_NHK.flatten(1).unique(dim=0).shape[0] == 50
        assert layer.to_k_ED.shape[1] == layer.context(encoding).shape[-1]
        assert layer.output(encoding, torch.arange(50)).var(dim=0, correction=0).mean().item() == pytest.approx(layer.variance.item(), rel=0.5)
