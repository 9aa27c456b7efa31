"""Validation pictures: the recipe's prompts painted with fixed seeds while a stage trains.

In:  the models that are trained; the autoencoder of `distill.base`.
Out: `<run>/finetune/<stage>/validation/step_000500.png`: a grid with a row for each prompt and a
     column for each seed.

They are painted by diffusers' own pipeline of the family, which is handed the text states that the
trained encoders give, from the weights that a checkpoint would hold: the running average where one
is kept. Training goes on as if nothing had been painted: weights and random numbers are put back.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.utils import make_image_grid
from PIL import Image

from configs.errors import explained
from configs.files import whole
from configs.schema.finetune import Validation
from configs.schema.recipe import Recipe
from distill.parallel.engine import AVERAGE, Engine, in_all, rank, weights_dtype
from finetune.pictures.vae import VaeFolder
from finetune.train.models import Models, stage_folder

FOLDER = "validation"


class ValidationPainter:
    """Every rank calls `paint`; rank 0 paints, the others wait for each picture."""

    def __init__(
        self, recipe: Recipe, stage: str, settings: Validation, models: Models, engine: Engine
    ) -> None:
        assert recipe.pictures is not None and recipe.finetune is not None
        self._settings, self._models, self._engine = settings, models, engine
        self._base, self._side = recipe.distill.base, recipe.pictures.resolution
        self._steps = recipe.finetune.stages[stage].steps
        self._dtype = weights_dtype(recipe.finetune.stages[stage].precision)
        self._folder = stage_folder(recipe, stage) / FOLDER

    def is_due(self, step: int) -> bool:
        """After `step` steps: before the first, at every so many, after the last."""
        return step % self._settings.every == 0 or step == self._steps

    def paint(self, step: int, alive: Callable[[], None]) -> np.ndarray | None:
        """The grid (H, W, 3), 8-bit, of rank 0; it is on disk too. `alive` is called before each
        picture. Raises DataError, SetupError in all processes where rank 0 meets one.
        """
        pictures: list[Image.Image] = []
        pipeline: list[Any] = []

        def one(prompt: str, seed: int) -> None:
            if rank():
                return
            if not pipeline:
                pipeline.append(self._pipeline())
            pictures.append(self._picture(pipeline[0], prompt, seed))

        with self._averaged(), self._undisturbed():
            for prompt in self._settings.prompts:
                for seed in range(self._settings.seeds):
                    alive()
                    in_all(partial(one, prompt, seed))
        in_all(lambda: None if rank() else self._write(pictures, self._path(step)))
        return None if rank() else np.asarray(self._grid(pictures))

    def _path(self, step: int) -> Path:
        return self._folder / f"step_{step:06d}.png"

    def _grid(self, pictures: list[Image.Image]) -> Image.Image:
        return make_image_grid(pictures, len(self._settings.prompts), self._settings.seeds)

    def _write(self, pictures: list[Image.Image], path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        with whole(path) as temporary:
            self._grid(pictures).save(temporary, format="PNG")

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Rank 0's weights are the running average, where there is one yet; afterwards the trained
        ones, to the bit. All ranks gather.
        """
        before: dict[str, torch.Tensor] = {}
        if AVERAGE in self._engine.kept:
            for name, parameter in self._engine.parameters.items():
                if not parameter.requires_grad:
                    continue
                average = self._engine.whole(name, AVERAGE)
                if rank() == 0:
                    before[name] = parameter.detach().cpu().clone()
                    parameter.data.copy_(average)
        try:
            yield
        finally:
            for name, value in before.items():
                self._engine.parameters[name].data.copy_(value)

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """The UNet's mode and torch's random numbers are put back."""
        unet = self._models.unet
        mode = unet.training
        unet.eval()
        devices = [self._engine.device] if self._engine.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices), torch.no_grad():
                yield
        finally:
            unet.train(mode)

    def _pipeline(self) -> Any:
        """The family's pipeline without text encoders and safety checker."""
        models, kind = self._models, getattr(diffusers, self._models.family.pipelines[0])
        vae = VaeFolder(self._base).load().model.to(self._engine.device, self._dtype)
        where = f"{self._base}: no pipeline can be built for finetune.validation"
        with explained(where, "remove the section, or give another base"):
            scheduler = getattr(diffusers, models.scheduler["_class_name"])
            parts = {"vae": vae, "unet": models.unet} | {
                name: None
                for part in models.family.parts.values()
                for name in (part.subfolder, part.tokenizer)
            }
            if not models.family.pooled:
                parts |= {"safety_checker": None, "feature_extractor": None}
                parts |= {"requires_safety_checker": False}
            pipeline = kind(scheduler=scheduler.from_config(models.scheduler), **parts)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _picture(self, painting: Any, prompt: str, seed: int) -> Image.Image:
        models, device = self._models, self._engine.device
        encoding = models.towers(models.text.tokenize([prompt, ""]).to(device))
        # the second is "no negative prompt", as the pipeline itself takes it
        kept_B = torch.tensor([1.0, 0.0 if models.zeros else 1.0]).to(device, self._dtype)
        states_BLD = encoding.context(models.family.readers["base"]) * kept_B[:, None, None]
        embeds = {"prompt_embeds": states_BLD[:1], "negative_prompt_embeds": states_BLD[1:]}
        if encoding.pooled_BP is not None:
            pooled_BP = encoding.pooled_BP * kept_B[:, None]
            embeds |= {"pooled_prompt_embeds": pooled_BP[:1]}
            embeds |= {"negative_pooled_prompt_embeds": pooled_BP[1:]}
        painted = painting(
            **embeds,
            height=self._side,
            width=self._side,
            num_inference_steps=self._settings.sampling_steps,
            generator=torch.Generator().manual_seed(seed),
        )
        return painted.images[0].convert("RGB")
