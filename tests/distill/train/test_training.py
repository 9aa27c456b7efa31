"""The arithmetic of training: objectives against diffusers, losses independent of the split,
batches a pure function of the step.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from configs.errors import DataError
from configs.schema.distill import Distill, Objective, QueryBank, Ramp, RandomAttention
from distill.encoders.family import SDXL
from distill.encoders.teacher import Encoding, load_text_encoders
from distill.objective import (
    distances,
    painting,
    query_bank,
    random_attention,
    recording,
    teacher_statistics,
)
from distill.objective.projections import Projections
from distill.objective.query_bank import CrossAttentionLayer
from distill.objective.teacher_statistics import Statistics
from distill.objective.terms import GlobalCounts, Loss, Sides, systematic_sample
from distill.sdxl.pipelines import load_pipelines
from distill.tokens.batches import Batches, SpecialIds
from distill.tokens.prompts import EMPTY_PROMPT, POSITIONS, ROW
from distill.tokens.token_pairs import STUDENT_SIDES, TokenPairs, sides_of

WIDTHS = {"clip_l": 6, "clip_bigg": 10}


TERMS = ["position", "cross_attention", "random_attention"]


def recipe_section(objective: str, **changes: object) -> Distill:
    fields = {
        "base": "x",
        "objective": {objective: 1.0},
        "steps": 200,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "query_bank": QueryBank(queries_per_step=5),
    }
    return Distill.model_validate(fields | changes)


def token_pairs(rows: int) -> TokenPairs:
    """Rows of 2 to 9 ids a side; row i's ids say which row they are."""
    ids, offsets = {}, {}
    for side in sides_of(SDXL):
        found = [
            np.full(2 + (index * 5 + len(side)) % 8, index, np.uint16) for index in range(rows)
        ]
        ids[side], offsets[side] = (
            np.concatenate(found),
            np.concatenate([[0], np.cumsum([len(row) for row in found])]),
        )
    return TokenPairs(ids, offsets)


def batches(
    rows: int, batch_size: int, empty: float, english: float = 0.0, seed: int = 0
) -> Batches:
    settings = recipe_section(
        "position",
        batch_size=batch_size,
        empty_prompt_share=empty,
        english_share=english,
        seed=seed,
    )
    special = {side: SpecialIds(901, 902, 900 + len(side)) for side in sides_of(SDXL)}
    return Batches(settings, token_pairs(rows), special)


# --- batches ---


@settings(max_examples=50, deadline=None)
@given(
    rows=st.integers(1, 40),
    batch_size=st.integers(2, 30),
    empty=st.sampled_from([0.0, 0.02, 0.2]),
    step=st.integers(0, 50),
)
def test_every_pair_comes_once_an_epoch_and_any_step_can_be_reached_at_once(
    rows: int, batch_size: int, empty: float, step: int
) -> None:
    maker = batches(rows, batch_size, empty)
    drawn = [maker.rows(index)["pair"] for index in range(step + 1)]
    assert np.array_equal(drawn[step], batches(rows, batch_size, empty).rows(step)["pair"])
    pairs = np.concatenate([found[found != EMPTY_PROMPT] for found in drawn])
    whole = len(pairs) // rows * rows
    assert all(sorted(epoch) == list(range(rows)) for epoch in pairs[:whole].reshape(-1, rows))
    assert all(
        (found == EMPTY_PROMPT).sum() == (max(1, round(empty * batch_size)) if empty else 0)
        for found in drawn
    )


def test_a_share_of_the_pairs_is_read_in_english_by_the_student() -> None:
    maker = batches(50, 40, 0.05, english=0.1)
    rows = maker.rows(3)
    assert (
        rows["student_reads_english"].sum() == round(0.1 * 38)
        and not rows["student_reads_english"][rows["pair"] == EMPTY_PROMPT].any()
    )
    batch = maker.gather(rows)
    for i, (row, english, _) in enumerate(rows.tolist()):
        side = "en" if english else "text"
        if row != EMPTY_PROMPT:
            assert batch.student_eos_B[i] == len(maker.tokens.row(side, row)) - 1
    assert np.array_equal(
        rows["pair"], batches(50, 40, 0.05).rows(3)["pair"]
    )  # the pairs themselves stay the same


def test_a_row_becomes_its_ids_then_pads_and_the_empty_prompt_bos_and_eos() -> None:
    maker = batches(20, 4, 0.0)
    for student in STUDENT_SIDES:
        batch = maker.gather(np.array([(7, student == "en", 1), (EMPTY_PROMPT, False, 1)], ROW))
        assert not batch.truncated
        for side, ids_BL, eos_B in zip(
            (*(f"en_{name}" for name in SDXL.parts), student),
            (*batch.teacher.ids.values(), batch.student_BL),
            (*batch.teacher.eos.values(), batch.student_eos_B),
            strict=True,
        ):
            length = len(maker.tokens.row(side, 7))
            assert ids_BL.shape == (2, POSITIONS) and eos_B.tolist() == [length - 1, 1]
            assert ids_BL[0].tolist() == [7] * length + [900 + len(side)] * (POSITIONS - length)
            pad = 900 + len(side if side != "en" else "text")
            assert ids_BL[1, :3].tolist() == [901, 902, pad]


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
        ours_BHNK = distances.attention_output(
            query_NHK, context_BLD, attention.to_k.weight, attention.to_v.weight
        )
    torch.testing.assert_close(ours_BHNK.transpose(1, 2).flatten(2), expected_BNE)


def test_cross_attention_reads_a_set() -> None:
    """Permuting the 77 states changes nothing the UNet reads: why position-wise equality asks for
    too much.
    """
    torch.manual_seed(0)
    query_NHK, context_BLD = torch.randn(5, 2, 4), torch.randn(3, 77, 6)
    weights = torch.randn(8, 6), torch.randn(8, 6)
    shuffled = distances.attention_output(query_NHK, context_BLD[:, torch.randperm(77)], *weights)
    torch.testing.assert_close(
        shuffled, distances.attention_output(query_NHK, context_BLD, *weights)
    )


def encoding(count: int, seed: int) -> Encoding:
    generator = torch.Generator().manual_seed(seed)
    states = {
        name: torch.randn(count, POSITIONS, width, generator=generator)
        for name, width in WIDTHS.items()
    }
    return Encoding(states, torch.randn(count, 4, generator=generator))


def some_statistics(ones: bool = False) -> Statistics:
    generator = torch.Generator().manual_seed(6)

    def variance(width: int) -> torch.Tensor:
        return torch.ones(width) if ones else torch.randn(width, generator=generator).square() + 0.1

    return Statistics({name: variance(width) for name, width in WIDTHS.items()}, variance(4))


def loss(objective: str, ones: bool = False, **changes: object) -> Loss:
    generator = torch.Generator().manual_seed(5)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    attention = [
        CrossAttentionLayer(
            f"{part}.{index}",
            SDXL.readers[part],
            random(20, 2, 4),
            random(8, width),
            random(8, width),
            torch.tensor(0.7),
            1 / 6,
        )
        for part, width in (("base", 16), ("refiner", 10))
        for index in range(3)
    ]
    settings, measured = recipe_section(objective, **changes), some_statistics(ones)
    return Loss(
        settings,
        measured,
        attention,
        random_attention.draw(settings.random_attention, SDXL, measured, 0),
    )


def sides(
    student: Encoding, teacher: Encoding, eos: dict[str, np.ndarray], rows: np.ndarray
) -> Sides:
    positions = {name: torch.from_numpy(eos[name][rows]) for name in SDXL.parts}
    return Sides(
        student.map(lambda tensor: tensor[rows]),
        teacher.map(lambda tensor: tensor[rows]),
        torch.from_numpy(eos["student"][rows]),
        positions,
        torch.ones(len(rows)),
    )


@pytest.mark.parametrize("objective", TERMS)
def test_the_loss_and_its_gradient_do_not_depend_on_the_split(objective: str) -> None:
    """Whole batch, four micro-batches, or eight prompts one by one: the shares add up to the same
    terms and the same gradient.
    """
    measured = loss(objective)
    eos = {
        "clip_l": np.array([1, 3, 9, 20, 76, 5, 2, 11]),
        "clip_bigg": np.array([1, 4, 9, 20, 76, 5, 2, 11]),
    }
    eos["student"] = np.array([1, 5, 4, 30, 60, 7, 3, 9])
    counts, teacher = (
        GlobalCounts.of({name: eos[name] for name in SDXL.parts}, POSITIONS),
        encoding(8, 0),
    )
    results = []
    for pieces in (1, 4, 8):
        student = encoding(8, 1)
        for tensor in student.named().values():
            tensor.requires_grad_()
        totals: dict[str, float] = {}
        for rows in np.split(np.arange(8), pieces):
            terms = measured.terms(sides(student, teacher, eos, rows), counts, step=3)
            terms["loss/total"].backward()
            totals = {name: totals.get(name, 0.0) + term.item() for name, term in terms.items()}
        results.append(
            (
                totals,
                [tensor.grad for tensor in student.named().values() if tensor.grad is not None],
            )
        )
    assert results[0][1]
    for totals, gradients in results[1:]:
        assert totals == pytest.approx(results[0][0], rel=1e-4, abs=1e-6)
        torch.testing.assert_close(gradients, results[0][1], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("objective", TERMS)
def test_a_perfect_student_has_no_loss_and_predicting_the_mean_costs_one(objective: str) -> None:
    eos = {name: np.array([6] * 64) for name in (*SDXL.parts, "student")}
    counts, teacher, every = (
        GlobalCounts.of({name: eos[name] for name in SDXL.parts}, POSITIONS),
        encoding(64, 0),
        np.arange(64),
    )
    for name, term in loss(objective).terms(sides(teacher, teacher, eos, every), counts, 0).items():
        assert term.item() == pytest.approx(0, abs=1e-5), name
    if objective == "position":
        silent = teacher.map(torch.zeros_like)
        for name, term in (
            loss(objective, ones=True).terms(sides(silent, teacher, eos, every), counts, 0).items()
        ):
            assert term.item() == pytest.approx(
                {"loss/total": 5.0, "loss/position": 4.0}.get(name, 1.0), rel=0.25
            ), name  # four regions + pooled


def test_weights_change_over_the_run_and_terms_of_weight_zero_are_not_computed() -> None:
    settings = recipe_section("position").model_copy(
        update={
            "objective": Objective(
                position=0.5,
                random_attention=Ramp(start=1.0, end=0.0),
                pooled=Ramp(start=0.0, end=2.0),
            )
        }
    )
    assert str(settings.objective) == "0.5 position + 1 to 0 random_attention + 0 to 2 pooled"
    assert settings.objective.weights(0.0) == {"position": 0.5, "random_attention": 1.0}
    assert settings.objective.weights(0.25) == {
        "position": 0.5,
        "random_attention": 0.75,
        "pooled": 0.5,
    }
    assert settings.objective.weights(1.0) == {"position": 0.5, "pooled": 2.0}
    eos = {name: np.array([6, 9]) for name in (*SDXL.parts, "student")}
    counts = GlobalCounts.of({name: eos[name] for name in SDXL.parts}, POSITIONS)
    measured = replace(loss("position"), settings=settings)
    terms = measured.terms(
        sides(encoding(2, 1), encoding(2, 0), eos, np.arange(2)), counts, settings.steps // 4
    )
    expected = 0.5 * terms["loss/position"] + 0.75 * terms["loss/random_attention"]
    expected = expected + 0.5 * terms["loss/pooled"]
    torch.testing.assert_close(terms["loss/total"], expected)
    assert "loss/cross_attention" not in terms


# --- what is drawn ---


@settings(max_examples=100, deadline=None)
@given(values=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=20), count=st.integers(1, 8))
def test_layers_are_drawn_as_often_as_their_shares_say(values: list[float], count: int) -> None:
    shares = np.array(values) / sum(values)
    starts = (np.arange(2000) + 0.5) / 2000
    drawn = np.stack([systematic_sample(shares, count, start) for start in starts])
    assert drawn.shape == (2000, count) and drawn.min() >= 0 and drawn.max() < len(shares)
    frequency = np.bincount(drawn.ravel(), minlength=len(shares)) / 2000
    np.testing.assert_allclose(frequency, count * shares, atol=0.01)


def test_the_refiner_gets_its_share_of_the_draws_and_each_unet_splits_by_influence() -> None:
    shares = query_bank.layer_shares({"base.a": 3.0, "base.b": 1.0, "refiner.a": 5.0}, 0.2)
    assert shares == pytest.approx({"base.a": 0.6, "base.b": 0.2, "refiner.a": 0.2})
    assert query_bank.layer_shares({"base.a": 3.0, "base.b": 1.0}, 0.2) == pytest.approx(
        {"base.a": 0.75, "base.b": 0.25}
    )
    further = query_bank.layer_shares(
        {"base.a": 3.0, "base.b": 1.0, "anime.a": 7.0, "refiner.a": 5.0}, 0.2
    )
    assert further == pytest.approx(
        {"base.a": 0.3, "base.b": 0.1, "anime.a": 0.4, "refiner.a": 0.2}
    )


# --- what is measured once ---


def test_statistics_are_the_variances_of_all_positions_but_bos(
    tiny_sdxl: Path, tmp_path: Path
) -> None:
    teacher = load_text_encoders(tiny_sdxl / "base", SDXL)
    prompts = [f"a red circle number {index}" for index in range(70)]  # more than one chunk
    teacher_statistics.record(tmp_path / "statistics.safetensors", teacher, prompts)
    found = teacher_statistics.load(tmp_path / "statistics.safetensors", SDXL)
    encoding = teacher.encode(prompts)
    for name, states_BLD in encoding.states.items():
        expected_D = states_BLD[:, 1:].flatten(0, 1).var(dim=0, correction=0)
        torch.testing.assert_close(found.states[name], expected_D, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(
        found.pooled_P, encoding.pooled_BP.var(dim=0, correction=0), rtol=1e-3, atol=1e-7
    )


def test_random_layers_are_whitened_drawn_alike_and_measured(
    tiny_sdxl: Path, tmp_path: Path
) -> None:
    teacher, settings = (
        load_text_encoders(tiny_sdxl / "base", SDXL),
        RandomAttention(layers=3, heads=2, head_width=4),
    )
    prompts = [f"a cat and {index} dogs" for index in range(20)]
    teacher_statistics.record(tmp_path / "statistics.safetensors", teacher, prompts)
    measured = teacher_statistics.load(tmp_path / "statistics.safetensors", SDXL)
    random_attention.record(
        tmp_path / "random.safetensors", settings, measured, teacher, prompts, seed=4
    )
    layers, again = (
        random_attention.load(tmp_path / "random.safetensors", settings, SDXL, measured, 4)
        for _ in range(2)
    )
    assert [layer.parts for layer in layers] == [SDXL.readers["base"]] * 3 + [
        SDXL.readers["refiner"]
    ] * 3 and sum(layer.share for layer in layers) == pytest.approx(1)
    encoding = teacher.encode(prompts)
    for layer, other in zip(layers, again, strict=True):
        assert layer.to_k_ED.equal(other.to_k_ED)
        assert layer.output(encoding, torch.arange(64)).var(
            dim=0, correction=0
        ).mean().item() == pytest.approx(layer.variance.item(), rel=1e-4)
    context_BLD = encoding.context(layers[0].parts)
    keys = (context_BLD - context_BLD[:, 1:].mean(dim=(0, 1)))[:, 1:] @ layers[0].to_k_ED.T
    assert keys.square().mean().item() == pytest.approx(
        1.0, rel=0.7
    )  # logits of unit queries have the sharpness' deviation


def test_the_query_bank_holds_every_layer_of_both_unets_and_is_reproducible(
    tiny_sdxl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the second is interrupted before the refiner, and goes on from the base."""
    teacher = load_text_encoders(tiny_sdxl / "base", SDXL)
    bank = QueryBank(prompts=3, inference_steps=4, queries_per_layer=50)
    folders = {"base": str(tiny_sdxl / "base"), "refiner": str(tiny_sdxl / "refiner")}
    prompts = ["a cat", "two dogs", "!", *map(str, range(15))]  # two batches
    recording.record(tmp_path / "one", folders, teacher, prompts, bank, seed=3)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(painting, "paint_refiner", lambda *_: 1 / 0)
        recording.record(tmp_path / "two", folders, teacher, prompts, bank, seed=3)
    with monkeypatch.context() as patch:
        patch.setattr(painting, "paint_base", lambda *_: pytest.fail("painted again"))
        recording.record(tmp_path / "two", folders, teacher, prompts, bank, seed=3)
    one, two = (load_file(tmp_path / name) for name in ("one", "two"))
    assert all(one[name].equal(two[name]) for name in one | two)  # the header has no fixed order
    layers = query_bank.load(tmp_path / "one", folders, bank, SDXL)
    pipelines = load_pipelines(folders["base"], folders["refiner"], SDXL)
    assert [layer.name for layer in layers] == [
        f"{unet}.{name}"
        for unet, pipeline in zip(("base", "refiner"), pipelines, strict=True)
        for name, _ in pipeline.unet.named_modules()
        if name.endswith("attn2")
    ], "the order in which training draws them"
    assert len(layers) == 8 and {layer.parts for layer in layers} == set(SDXL.readers.values())
    assert sum(layer.share for layer in layers) == pytest.approx(1) and all(
        layer.share > 0 for layer in layers
    )
    assert sum(
        layer.share for layer in layers if layer.parts == SDXL.readers["refiner"]
    ) == pytest.approx(bank.refiner_share)
    encoding = teacher.encode(prompts)
    for layer in layers:
        assert (
            layer.queries_NHK.shape[0] == 50
            and layer.queries_NHK.flatten(1).unique(dim=0).shape[0] >= 45
        )  # fp16
        assert layer.to_k_ED.shape[1] == encoding.context(layer.parts).shape[-1]
        assert layer.output(encoding, torch.arange(50)).var(
            dim=0, correction=0
        ).mean().item() == pytest.approx(layer.variance.item(), rel=0.5)


def test_one_unet_in_memory_at_a_time_changes_no_query(tiny_sdxl: Path, tmp_path: Path) -> None:
    """Against both pipelines taking turns, batch by batch, with one generator."""
    teacher = load_text_encoders(tiny_sdxl / "base", SDXL)
    folders = {"base": str(tiny_sdxl / "base"), "refiner": str(tiny_sdxl / "refiner")}
    bank = QueryBank(prompts=18, inference_steps=8, queries_per_layer=50)
    prompts = list(map(str, range(18)))
    recording.record(tmp_path / "bank", folders, teacher, prompts, bank, seed=3)
    generator, sampled = torch.Generator().manual_seed(3), {}
    pipelines = load_pipelines(folders["base"], folders["refiner"], SDXL)
    for unet, pipeline in zip(folders, pipelines, strict=True):
        for name, module in pipeline.unet.named_modules():
            if name.endswith("attn2"):
                sampled[f"{unet}.{name}"] = reservoir = painting._Reservoir(50, generator)
                module.to_q.register_forward_hook(reservoir.add)
    steps = {"num_inference_steps": 8, "output_type": "latent"}
    for chunk in (prompts[:16], prompts[16:]):
        seeds = [int(torch.randint(2**31, (), generator=generator)) for _ in chunk]
        noise = [torch.Generator().manual_seed(seed) for seed in seeds]
        latents = pipelines.base(prompt=chunk, generator=noise, **steps).images
        pipelines.refiner(prompt=chunk, image=latents, strength=0.3, generator=noise, **steps)
    found = load_file(tmp_path / "bank")
    assert len(sampled) == 8
    for name, reservoir in sampled.items():
        assert found[f"{name}.queries"].equal(reservoir.rows_NE.half()), name


def test_further_unets_join_the_bank_and_what_is_no_sdxl_base_is_refused(
    tiny_sdxl: Path, tmp_path: Path
) -> None:
    """A fine-tuned UNet keeps its own projections: the student is taught what *it* reads."""
    tuned = tmp_path / "tuned"
    shutil.copytree(tiny_sdxl / "base", tuned)
    (file,) = (tuned / "unet").glob("*.safetensors")
    weights = load_file(file)
    (key,) = (
        name
        for name in weights
        if name.startswith("mid_block") and name.endswith("attn2.to_k.weight")
    )
    save_file(weights | {key: weights[key] * 2}, file, metadata={"format": "pt"})
    teacher, bank = (
        load_text_encoders(tiny_sdxl / "base", SDXL),
        QueryBank(prompts=2, inference_steps=4, queries_per_layer=20, refiner_share=0.2),
    )
    folders = {
        "base": str(tiny_sdxl / "base"),
        "refiner": str(tiny_sdxl / "refiner"),
        "tuned": str(tuned),
    }
    recording.record(tmp_path / "bank", folders, teacher, ["a cat", "two dogs"], bank, seed=3)
    loaded = query_bank.load(tmp_path / "bank", folders, bank, SDXL)
    layers = {layer.name: layer for layer in loaded}
    shares = {
        unet: sum(layer.share for layer in layers.values() if layer.name.startswith(unet))
        for unet in folders
    }
    assert shares == pytest.approx({"base": 0.4, "refiner": 0.2, "tuned": 0.4})
    layer_name = key.removesuffix(".to_k.weight")
    own, changed = layers[f"base.{layer_name}"], layers[f"tuned.{layer_name}"]
    torch.testing.assert_close(changed.to_k_ED, own.to_k_ED * 2)
    assert changed.parts == SDXL.readers["base"] and not changed.queries_NHK.equal(own.queries_NHK)
    with pytest.raises(ValueError, match="'refiner' cannot be a name"):
        QueryBank(unets={"refiner": "x"})
    with pytest.raises(DataError, match="its UNet reads states of width"):
        recording.record(
            tmp_path / "none",
            folders | {"tuned": folders["refiner"]},
            teacher,
            ["a cat", "two dogs"],
            bank,
            seed=3,
        )
    assert not (tmp_path / "none").exists()


def test_a_layers_influence_is_what_the_unet_says_without_it(
    tiny_sdxl: Path, tmp_path: Path
) -> None:
    """The only layer moves all that the states move; a layer whose values are zero moves
    nothing.
    """
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(tiny_sdxl / "base" / "unet")
    torch.manual_seed(0)
    states_BLD = torch.randn(2, 77, unet.config.cross_attention_dim)
    added = {"text_embeds": torch.zeros(2, 20), "time_ids": torch.zeros(2, 6)}
    call = {
        "sample": torch.randn(1, 4, 16, 16).expand(2, -1, -1, -1),
        "timestep": torch.tensor(500),
        "encoder_hidden_states": states_BLD,
    }
    call |= {"added_cond_kwargs": added}
    layers = [name for name, _ in unet.named_modules() if name.endswith("attn2")]
    for name in layers[1:]:
        torch.nn.init.zeros_(unet.get_submodule(name).to_v.weight)
    path = tmp_path / "influences.json"
    found = recording.influences(unet, layers, [call], path)
    with torch.no_grad():
        moved = (
            unet(**call | {"encoder_hidden_states": states_BLD.roll(1, 0)}).sample
            - unet(**call).sample
        )
    assert (
        found[layers[0]] == pytest.approx(moved.square().mean().item(), rel=1e-4)
        and moved.abs().max() > 0
    )
    assert all(found[name] == 0 for name in layers[1:])
    path.write_text(json.dumps({layers[0]: 7.0}), encoding="utf-8")
    again = recording.influences(unet, layers, [call], path)
    assert again == {**found, layers[0]: 7.0}, "what is there is not measured again"


def test_prompts_that_are_all_the_same_are_one_line(tiny_sdxl: Path, tmp_path: Path) -> None:
    teacher = load_text_encoders(tiny_sdxl / "base", SDXL)
    bank, folders = QueryBank(prompts=2), {"base": str(tiny_sdxl / "base")}
    with pytest.raises(DataError, match="all 2 are 'a cat'"):
        recording.record(tmp_path / "bank", folders, teacher, ["a cat"] * 2, bank, seed=0)
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        QueryBank(prompts=1)


def test_projections_are_found_in_shards_and_a_unet_without_safetensors_is_one_line(
    tiny_sdxl: Path, tmp_path: Path
) -> None:
    from diffusers import UNet2DConditionModel

    UNet2DConditionModel.from_pretrained(tiny_sdxl / "base" / "unet").save_pretrained(
        tmp_path / "unet", max_shard_size="20KB"
    )
    assert len(list((tmp_path / "unet").glob("*.safetensors"))) > 1
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    one, other = (
        Projections(str(tmp_path)),
        Projections(str(tiny_sdxl / "base")),
    )
    assert one.read(name).equal(other.read(name))
    for path in (tmp_path / "unet").glob("*.safetensors*"):
        path.unlink()
    with pytest.raises(DataError, match=r"diffusion_pytorch_model\.safetensors: missing"):
        Projections(str(tmp_path))


def test_layers_stay_in_their_files_on_a_cpu_and_are_computed_as_asked(
    tiny_sdxl: Path, tmp_path: Path
) -> None:
    """A bf16 run: outputs are those of layers held in bf16, to the bit."""
    teacher, folders = (
        load_text_encoders(tiny_sdxl / "base", SDXL),
        {"base": str(tiny_sdxl / "base")},
    )
    bank = QueryBank(prompts=2, inference_steps=4, queries_per_layer=20)
    prompts = ["a cat", "two dogs"]
    recording.record(tmp_path / "bank", folders, teacher, prompts, bank, seed=3)
    encoding, chosen_N = teacher.encode(prompts), torch.arange(20)
    for layer in query_bank.load(tmp_path / "bank", folders, bank, SDXL, "cpu", torch.bfloat16):
        assert layer.queries_NHK.dtype == torch.float16 and layer.to_k_ED.dtype == torch.float32
        held = replace(
            layer,
            dtype=None,
            **{
                name: getattr(layer, name).bfloat16()
                for name in ("queries_NHK", "to_k_ED", "to_v_ED")
            },
        )
        found = layer.output(encoding, chosen_N)
        assert found.dtype == torch.bfloat16 and found.equal(held.output(encoding, chosen_N))
