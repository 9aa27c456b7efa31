"""The loss against formulas written by hand, and the refusals."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, EDMDPMSolverMultistepScheduler, PNDMScheduler

from configs.errors import RecipeError
from finetune.train.denoising import PREDICTIONS, Denoising

STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def config(prediction: str, zero_snr: bool = False) -> dict:
    return dict(
        DDIMScheduler(
            prediction_type=prediction, rescale_betas_zero_snr=zero_snr, **STABLE_DIFFUSION
        ).config
    )


def kept(zero_snr: bool) -> list[float]:
    """The cumulated product of 1 - beta, in Python's own floating point.

    Zero terminal SNR: arXiv 2305.08891, algorithm 1.
    """
    roots = [
        math.sqrt(0.00085) + i / 999 * (math.sqrt(0.012) - math.sqrt(0.00085)) for i in range(1000)
    ]
    product, result = 1.0, []
    for root in roots:
        product *= 1 - root**2
        result.append(math.sqrt(product))
    if zero_snr:
        first, last = result[0], result[-1]
        result = [(one - last) * first / (first - last) for one in result]
    return [one**2 for one in result]


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(("gamma", "zero_snr"), [(None, False), (None, True), (5.0, False)])
def test_the_loss_is_the_formula(prediction: str, gamma: float | None, zero_snr: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    latents, noise, predicted = torch.randn(3, 6, 4, 8, 8, generator=generator, dtype=torch.double)
    timesteps = torch.tensor([0, 1, 250, 500, 900, 999])
    denoising = Denoising(config(prediction, zero_snr), gamma, noise_offset=0.0)
    found = denoising.error_sum(predicted, latents, noise, timesteps)
    expected = 0.0
    for row, timestep in enumerate(timesteps.tolist()):
        share = kept(zero_snr)[timestep]
        signal, spread = math.sqrt(share), math.sqrt(1 - share)
        target = {
            "epsilon": noise[row],
            "v_prediction": signal * noise[row] - spread * latents[row],
            "sample": latents[row],
        }[prediction]
        snr = share / (1 - share)
        divisor = {"epsilon": snr, "v_prediction": snr + 1, "sample": 1.0}[prediction]
        weight = min(snr, gamma) / divisor if gamma else 1.0
        expected += weight * float((predicted[row] - target).square().mean())
        noisy = denoising.noisy(latents, noise, timesteps)[row]
        torch.testing.assert_close(
            noisy, signal * latents[row] + spread * noise[row], rtol=1e-5, atol=5e-6
        )
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_noise_is_a_pure_function_of_each_rows_generator() -> None:
    latents = torch.zeros(3, 4, 6, 6)

    def drawn(offset: float, rows: slice) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(one) for one in range(3)][rows]
        return Denoising(config("epsilon"), None, offset).noise(latents[rows], generators)

    plain, moved = drawn(0.0, slice(3)), drawn(0.1, slice(3))
    assert drawn(0.0, slice(1, 2)).equal(plain[1:2])
    change = moved - plain
    assert change.std(dim=(2, 3)).max() < 1e-6 and change.mean(dim=(2, 3)).std() > 0.03


@pytest.mark.parametrize(
    ("scheduler", "gamma", "message"),
    [
        (config("epsilon", zero_snr=True), 5.0, r"finetune.min_snr_gamma: 5 .*; remove the line"),
        (config("v_prediction", zero_snr=True), 5.0, r"finetune.min_snr_gamma: 5 .*pure noise"),
        (
            {**EDMDPMSolverMultistepScheduler().config, "_class_name": "EDMDPM"},
            None,
            r"EDM.* none of DDPM's",
        ),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, None, r"Flow.* none of DDPM's"),
    ],
)
def test_refused_in_one_line(scheduler: dict, gamma: float | None, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as refused:
        Denoising(scheduler, gamma, 0.0)
    assert "\n" not in str(refused.value)


def test_stable_diffusions_own_scheduler_is_read() -> None:
    pndm = PNDMScheduler(skip_prk_steps=True, steps_offset=1, **STABLE_DIFFUSION)
    assert Denoising(dict(pndm.config), 5.0, 0.0).timesteps == 1000
