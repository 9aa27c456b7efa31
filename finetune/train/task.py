"""A step of finetuning: the denoising loss of a batch of pictures and, where it is anchored, the
loss of distilling on text pairs.

Shape letters: B batch, C latent channels, H and W latent height and width, L token position, D
width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from configs.schema.finetune import Finetune, FinetuneStage
from configs.schema.recipe import Recipe
from distill.parallel.engine import Engine, all_reduce_sum, rank, weights_dtype, world_size
from distill.train.loop import learning_rate
from distill.train.work import Work
from finetune.pictures.store import PictureRow, PictureStore, time_ids
from finetune.train.denoising import Denoising
from finetune.train.draws import Epochs, Sample, sample
from finetune.train.models import Bundle, Models
from finetune.train.validation_pictures import ValidationPainter

TEXT, UNET = "text", "unet"
HELD_OUT = 256  # pictures at most


@dataclass(frozen=True)
class PictureBatch:
    """Everything a UNet is asked, and what it should answer, on the device."""

    texts: list[str]
    zeros_B: torch.Tensor
    time_ids_B6: torch.Tensor
    latents_BCHW: torch.Tensor
    noise_BCHW: torch.Tensor
    timestep_B: torch.Tensor


class PictureTask:
    """What the training loop drives (`loop.Training`); `anchor` (the distillation of the same
    student, on text pairs) and `painter` are set where the recipe has them.
    """

    def __init__(
        self,
        recipe: Recipe,
        stage: FinetuneStage,
        models: Models,
        parameters: dict[str, torch.nn.Parameter],
        store: PictureStore,
    ) -> None:
        assert recipe.finetune is not None
        self.settings: Finetune = recipe.finetune
        self.stage, self.models, self.store = stage, models, store
        self.denoising = Denoising(
            models.scheduler, self.settings.min_snr_gamma, self.settings.noise_offset
        )
        rows = {size: store.numbers("train", size) for size in store.buckets("train")}
        self.epochs = Epochs(rows, stage.batch_size, stage.seed)
        if self.settings.gradient_checkpointing:
            models.unet.enable_gradient_checkpointing()
        models.unet.train()  # some versions of diffusers checkpoint in this mode only
        self.engine = Engine(Bundle(parameters, self._compute), stage, group_of, stage.optimizer)
        dtype = weights_dtype(stage.precision)
        models.towers.to(self.engine.device, dtype)
        models.unet.to(self.engine.device, dtype)
        self.anchor: Work | None = None
        self.painter: ValidationPainter | None = None

    def one_step(self, step: int) -> tuple[dict[str, torch.Tensor], bool]:
        """`loop.Training.one_step`.

        The pictures come last: the engine reduces the gradients that the last backward reaches, and
        the anchor's reaches none of the UNet's.
        """
        mine = self._mine(self.epochs.batch(step))
        parts = _parts(mine, self.stage.pictures_per_micro_batch)
        total = torch.zeros((), device=self.engine.device)
        sums = {"loss/denoising": total}
        for terms in self._anchor_terms(step):
            self.engine.backward(self.settings.anchor * terms["loss/total"])
            for name, term in terms.items():
                own = "loss/anchor" if name == "loss/total" else name.replace("/", "/anchor_")
                sums[own] = sums.get(own, total) + term.detach()
        for number, (places, rows) in enumerate(parts, 1):
            self.engine.micro_batch(last=number == len(parts))
            batch = self.batch(rows, [self._sample(step, place) for place in places])
            loss = self.engine("pictures", batch) / self.stage.batch_size
            self.engine.backward(loss)
            sums["loss/denoising"] = sums["loss/denoising"] + loss.detach()
        anchored = self.settings.anchor * sums.get("loss/anchor", total)
        sums["loss/total"] = sums["loss/denoising"] + anchored
        return sums, self.engine.step(learning_rate(step, self.stage), self._factors(step))

    @torch.no_grad()
    def held_out(self, step: int) -> dict[str, float]:
        """The denoising loss of the same held-out pictures, captions, noise and timesteps."""
        rows = self.store.rows("held_out")[:HELD_OUT]
        if not rows:
            return {}
        total = torch.zeros((), dtype=torch.float64, device=self.engine.device)
        for number, row in enumerate(rows):
            if number % world_size() == rank():
                drawn = sample(0, 0, number, 0.0, self.denoising.timesteps)
                total += self._compute("pictures", self.batch([row], [drawn])).double()
        return {"val/denoising": float(all_reduce_sum(total)) / len(rows)}

    def show(self, step: int, alive: Callable[[], None]) -> np.ndarray | None:
        """`loop.Training.show`: validation pictures."""
        if self.painter is None or not self.painter.is_due(step):
            return None
        return self.painter.paint(step, alive)

    def explain(self, step: int) -> str:
        bad = self.engine.not_finite()
        if bad:
            return (
                f"{', '.join(bad[:3])} not finite; start this stage in another run folder with a "
                "lower learning_rate (checkpoints made so far are kept)"
            )
        files = sorted({self.store.row(int(number)).file for number in self.epochs.batch(step)})
        return (
            f"the pictures of the step are {', '.join(files[:5])}; if one of them looks damaged, "
            "leave it out, else lower the stage's learning_rate"
        )

    def finish(self) -> None:
        pass

    def batch(self, rows: Sequence[PictureRow], drawn: Sequence[Sample]) -> PictureBatch:
        """Latents, noise and text of some pictures of one bucket."""
        device, dtype = self.engine.device, weights_dtype(self.stage.precision)
        mean_BCHW, std_BCHW = (value.float() for value in self.store.latents(rows))
        generators = [one.generator for one in drawn]
        noise = [torch.randn(mean_BCHW.shape[1:], generator=generator) for generator in generators]
        latents_BCHW = self.store.scaling.scaled(mean_BCHW + std_BCHW * torch.stack(noise))
        return PictureBatch(
            texts=[self._text(row, one) for row, one in zip(rows, drawn, strict=True)],
            zeros_B=torch.tensor(
                [one.empty and one.zeros and self.models.zeros for one in drawn], device=device
            ),
            time_ids_B6=torch.tensor([time_ids(row) for row in rows], device=device, dtype=dtype),
            noise_BCHW=self.denoising.noise(latents_BCHW, generators).to(device),
            latents_BCHW=latents_BCHW.to(device),
            timestep_B=torch.tensor([one.timestep for one in drawn], device=device),
        )

    def _text(self, row: PictureRow, drawn: Sample) -> str:
        """The caption: one of its language's, chosen by one number; nothing for an empty one."""
        if drawn.empty:
            return ""
        share, place = self.settings.english_share, drawn.caption
        if row.en and place < share:
            return row.en[int(place / share * len(row.en))]
        place = (place - share) / (1 - share) if row.en else place
        return row.texts[min(int(place * len(row.texts)), len(row.texts) - 1)]

    def _compute(self, what: str, *inputs: Any) -> Any:
        """The engine's forward: the summed loss of pictures, or the student's encoding of text."""
        return self._denoise(*inputs) if what == "pictures" else self.models.towers(*inputs)

    def _denoise(self, batch: PictureBatch) -> torch.Tensor:
        models, family = self.models, self.models.family
        encoding = models.towers(models.text.tokenize(batch.texts).to(self.engine.device))
        kept_B = ~batch.zeros_B
        context_BLD = encoding.context(family.readers["base"]) * kept_B[:, None, None]
        added = None
        if encoding.pooled_BP is not None:
            pooled_BP = encoding.pooled_BP * kept_B[:, None]
            added = {"text_embeds": pooled_BP, "time_ids": batch.time_ids_B6}
        noisy_BCHW = self.denoising.noisy(batch.latents_BCHW, batch.noise_BCHW, batch.timestep_B)
        predicted_BCHW = models.unet(
            noisy_BCHW.to(context_BLD.dtype),
            batch.timestep_B,
            encoder_hidden_states=context_BLD,
            added_cond_kwargs=added,
        ).sample
        return self.denoising.error_sum(
            predicted_BCHW, batch.latents_BCHW, batch.noise_BCHW, batch.timestep_B
        )

    def _mine(self, numbers: np.ndarray) -> list[tuple[int, PictureRow]]:
        """This process's pictures of the batch, with their places in it."""
        places = range(rank(), len(numbers), world_size())
        return [(place, self.store.row(int(numbers[place]))) for place in places]

    def _sample(self, step: int, place: int) -> Sample:
        share = self.settings.empty_caption_share
        return sample(self.stage.seed, step, place, share, self.denoising.timesteps)

    def _factors(self, step: int) -> dict[str, float]:
        stage = self.stage
        if stage.text_until is not None and step >= stage.text_until:
            return {TEXT: 0.0}
        rate = stage.text_learning_rate
        return {TEXT: rate / stage.learning_rate} if rate is not None else {}

    def _anchor_terms(self, step: int) -> Iterator[dict[str, torch.Tensor]]:
        """Of each micro-batch of text pairs; none without an anchor."""
        if self.anchor is None:
            return
        counts, micro_batches = self.anchor.ahead(step)
        for _, batch in micro_batches:
            self.engine.micro_batch(last=False)
            sides = self.anchor.sides(lambda ids: self.engine(TEXT, ids), batch)
            yield self.anchor.loss.terms(sides, counts, step)


def group_of(name: str) -> str:
    """Of a parameter: text encoders may have a learning rate of their own."""
    return UNET if name.startswith(f"{UNET}.") else TEXT


def _parts(
    rows: list[tuple[int, PictureRow]], most: int | None
) -> list[tuple[list[int], list[PictureRow]]]:
    """Micro-batches: places in the global batch, and pictures."""
    size = most or len(rows)
    cut = [rows[start : start + size] for start in range(0, len(rows), size)]
    return [([place for place, _ in part], [row for _, row in part]) for part in cut]
