"""The denoising loss of a diffusion model: what the UNet is to predict, and how much each timestep
counts.

In:  the base's scheduler config. Out: tensors; nothing on disk.

Shape letters: B batch, C latent channels, H and W latent height and width, T timesteps.
"""

from typing import Any

import torch
from diffusers import DDPMScheduler

from configs.errors import RecipeError

PREDICTIONS = ("epsilon", "v_prediction", "sample")


class Denoising:
    """The forward process and loss that a scheduler config describes (DDPM, arXiv 2006.11239).

    `min_snr_gamma`: the cap on the signal-to-noise ratio in the loss's weights (arXiv 2303.09556);
    None weighs all timesteps alike. `noise_offset`: deviation of what is added to the noise of a
    whole channel.

    Raises RecipeError for a scheduler of another process than DDPM's, and for a cap on a schedule
    whose last timestep is pure noise: it would leave that timestep no weight, or divide by zero.
    """

    def __init__(
        self, scheduler_config: dict[str, Any], min_snr_gamma: float | None, noise_offset: float
    ) -> None:
        config = dict(scheduler_config)
        prediction = config.get("prediction_type", "epsilon")
        if prediction not in PREDICTIONS or "sigma_data" in config or "beta_schedule" not in config:
            raise RecipeError(
                f"distill.base: its scheduler, {config.get('_class_name')} with {prediction!r}, "
                f"is none of DDPM's ({', '.join(PREDICTIONS)}); give another base"
            )
        self._scheduler = DDPMScheduler.from_config(config)
        self._prediction, self._offset = prediction, noise_offset
        self.timesteps = int(self._scheduler.config.num_train_timesteps)
        kept_T = self._scheduler.alphas_cumprod.double()
        snr_T = kept_T / (1 - kept_T)  # after zero-SNR rescaling, where the config asks for it
        if min_snr_gamma is None:
            self._weight_T = torch.ones(self.timesteps)
            return
        if snr_T.min() == 0:
            raise RecipeError(
                f"finetune.min_snr_gamma: {min_snr_gamma:g} with the schedule of distill.base, "
                "whose last timestep is pure noise, leaves that timestep without weight; remove "
                "the line"
            )
        capped_T = snr_T.clamp_max(min_snr_gamma)
        divisor_T = {"epsilon": snr_T, "v_prediction": snr_T + 1, "sample": torch.ones_like(snr_T)}
        self._weight_T = (capped_T / divisor_T[prediction]).float()

    def noise(self, latents_BCHW: torch.Tensor, generators: list[torch.Generator]) -> torch.Tensor:
        """Gaussian noise, a generator a row; with the offset, if there is one."""
        shape = latents_BCHW.shape[1:]
        rows = [torch.randn(shape, generator=one) for one in generators]
        if self._offset:
            rows = [
                row + self._offset * torch.randn(shape[0], 1, 1, generator=one)
                for row, one in zip(rows, generators, strict=True)
            ]
        return torch.stack(rows).to(latents_BCHW)

    def noisy(
        self, latents_BCHW: torch.Tensor, noise_BCHW: torch.Tensor, timestep_B: torch.Tensor
    ) -> torch.Tensor:
        return self._scheduler.add_noise(latents_BCHW, noise_BCHW, timestep_B)

    def error_sum(
        self,
        predicted_BCHW: torch.Tensor,
        latents_BCHW: torch.Tensor,
        noise_BCHW: torch.Tensor,
        timestep_B: torch.Tensor,
    ) -> torch.Tensor:
        """The mean squared error of each row times its timestep's weight, summed over rows."""
        target_BCHW = {
            "epsilon": lambda: noise_BCHW,
            "v_prediction": lambda: self._scheduler.get_velocity(
                latents_BCHW, noise_BCHW, timestep_B
            ),
            "sample": lambda: latents_BCHW,
        }[self._prediction]()
        error_B = (predicted_BCHW.float() - target_BCHW.float()).square().mean(dim=(1, 2, 3))
        return (error_B * self._weight_T.to(error_B.device)[timestep_B]).sum()
