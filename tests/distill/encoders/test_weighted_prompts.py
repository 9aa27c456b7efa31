"""Weights on states against the two programs' formulas written out, and prompts in several windows
against the stock pipeline.
"""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from configs.references import TOYWORLD_MODELS
from distill.encoders import weighted_prompts
from distill.encoders.family import SD, SDXL
from distill.encoders.teacher import TextEncoders, load_text_encoders
from distill.prompt import STYLES, Style


def states_and_weights() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    states_CLD = torch.randn(2, 5, 3, generator=generator) + 0.3
    weights_CL = torch.tensor([[1.0, 1.3, 0.0, -0.5, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0]])
    return states_CLD, weights_CL, torch.randn(5, 3, generator=generator)


def test_a1111s_rule() -> None:
    states_CLD, weights_CL, _ = states_and_weights()
    expected = torch.empty_like(states_CLD)
    for c in range(2):
        numbers = [states_CLD[c, i, d].item() for i in range(5) for d in range(3)]
        times = [x * weights_CL[c, i // 3].item() for i, x in enumerate(numbers)]
        factor = (sum(numbers) / 15) / (sum(times) / 15)
        expected[c] = torch.tensor([x * factor for x in times]).reshape(5, 3)
    found = weighted_prompts.a1111(states_CLD, weights_CL)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.mean(dim=(1, 2)), states_CLD.mean(dim=(1, 2)))
    assert torch.equal(found[1], states_CLD[1])
    nothing = weighted_prompts.a1111(states_CLD, torch.zeros(2, 5))  # a mean that nothing restores
    assert torch.equal(nothing, torch.zeros_like(states_CLD))


def test_comfyuis_rule() -> None:
    states_CLD, weights_CL, empty_LD = states_and_weights()
    found = weighted_prompts.comfyui(states_CLD, weights_CL, empty_LD)
    for c, position, d in torch.cartesian_prod(*map(torch.arange, states_CLD.shape)).tolist():
        z, e = states_CLD[c, position, d].item(), empty_LD[position, d].item()
        expected = (z - e) * weights_CL[c, position].item() + e
        assert found[c, position, d].item() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(found[1], states_CLD[1]) and torch.equal(found[0, 2], empty_LD[2])


@pytest.fixture(scope="module")
def teacher() -> TextEncoders:
    return load_text_encoders(TOYWORLD_MODELS / "base", SDXL)


@pytest.mark.parametrize("style", STYLES)
def test_a_prompt_without_markup_is_encoded_as_by_the_stock_pipeline(
    style: Style, teacher: TextEncoders
) -> None:
    pipeline = StableDiffusionXLPipeline.from_pretrained(TOYWORLD_MODELS / "base")
    prompts = ["a large red circle left of a small blue square", "", "a green ring!"]
    with torch.no_grad():
        expected, _, pooled, _ = pipeline.encode_prompt(prompts, device="cpu")
    for number, found in enumerate(weighted_prompts.encode(teacher, prompts, style)):
        context = found.context(("clip_l", "clip_bigg"))
        torch.testing.assert_close(context, expected[number, None], rtol=0, atol=1e-5)
        assert found.pooled_BP is not None
        torch.testing.assert_close(found.pooled_BP, pooled[number, None], rtol=0, atol=1e-5)


@pytest.mark.parametrize("style", STYLES)
def test_windows_weights_and_pooled(style: Style, teacher: TextEncoders) -> None:
    """A window's states are those of its text alone, however many the others have; the pooled state
    is the first one's; a weight moves its own token's state alone, but for A1111's factor.
    """
    long = " ".join(["red circle,"] * 60)
    found, short, weighted = weighted_prompts.encode(
        teacher, [f"a red circle BREAK {long}", "a blue ring", "a (blue:1.4) ring"], style
    )
    alone, plain, empty = (teacher.encode([text]) for text in ("a red circle", "a blue ring", ""))
    for name in teacher.models:
        windows = found.states[name].shape[1] // 77
        assert windows >= 3 and found.states[name].shape == short.states[name].shape
        for encoding, expected in ((found, alone), (short, plain)):
            first, *others = encoding.states[name].split(77, dim=1)
            torch.testing.assert_close(first, expected.states[name], rtol=0, atol=1e-5)
        for window in others:
            torch.testing.assert_close(window, empty.states[name], rtol=0, atol=1e-5)
        before, after = plain.states[name][0], weighted.states[name][0, :77]
        place = teacher.tokenizers[name]("a blue ring").input_ids.index(
            teacher.tokenizers[name]("blue").input_ids[1]
        )
        if style == "comfyui":
            expected = empty.states[name][0] + 1.4 * (before - empty.states[name][0])
        else:
            times = before.clone()
            times[place] *= 1.4
            before, expected = before * (factor := before.mean() / times.mean()), times * factor
            expected[place] = times[place] * factor
        torch.testing.assert_close(after[place], expected[place], rtol=1e-4, atol=1e-5)
        others_too = torch.arange(77) != place
        torch.testing.assert_close(after[others_too], before[others_too], rtol=1e-4, atol=1e-5)
    for encoding, expected in ((found, alone), (weighted, plain)):
        assert encoding.pooled_BP is not None and expected.pooled_BP is not None
        torch.testing.assert_close(encoding.pooled_BP, expected.pooled_BP, rtol=0, atol=1e-5)


def test_a_family_without_pooled_states(tiny_sd: Path) -> None:
    encoders = load_text_encoders(tiny_sd, SD)
    (found,) = weighted_prompts.encode(encoders, ["(a:1.2) BREAK b"], "comfyui")
    assert found.pooled_BP is None and found.states["clip"].shape[:2] == (1, 154)
