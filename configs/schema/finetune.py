"""The recipe's `finetune` section: learning with the diffusion model, from captioned pictures."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from configs.schema.pace import Pace
from configs.schema.section import Positive, Section, Share, Weight

Trained = Literal["text", "unet", "cross_attention"]


class Lora(Section):
    """Low-rank changes of the attention's projections, in place of whole weights (arXiv
    2106.09685).
    """

    rank: Positive = 16
    alpha: Positive | None = Field(
        None, description="the changes are multiplied by alpha / rank; null: rank"
    )

    @property
    def effective_alpha(self) -> int:
        return self.rank if self.alpha is None else self.alpha


class FinetuneStage(Pace):
    """`batch_size` counts pictures."""

    trains: list[Trained] = Field(
        min_length=1, description="text encoders, the whole UNet, or its cross-attention alone"
    )
    lora: Lora | None = None
    optimizer: Literal["adamw", "adamw8bit"] = Field(
        "adamw", description="adamw8bit keeps the moments in 8 bits; needs bitsandbytes"
    )
    pictures_per_micro_batch: Positive | None = Field(
        None, description="pictures a process computes at once; no limit when left out"
    )
    text_learning_rate: float | None = Field(
        None, gt=0.0, description="of the text encoders; null: learning_rate"
    )
    text_until: Positive | None = Field(
        None, description="the step after which the text encoders stay as they are"
    )

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        if {"unet", "cross_attention"} <= set(self.trains):
            raise ValueError(
                "finetune: a stage trains unet or cross_attention, which is part of it, not both"
            )
        for key in ("text_learning_rate", "text_until"):
            if getattr(self, key) is not None and "text" not in self.trains:
                raise ValueError(f"finetune: {key} is set in a stage that does not train text")
        if self.text_until is not None and self.text_until >= self.steps:
            raise ValueError(
                f"finetune: text_until ({self.text_until}) must be below steps ({self.steps})"
            )
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"finetune: warmup_steps ({self.warmup_steps}) must be below steps ({self.steps})"
            )
        return self


class Validation(Section):
    """Pictures painted while a stage trains, always from the same noise."""

    every: Positive = Field(500, description="steps; also before the first and after the last")
    prompts: list[str] = Field(min_length=1)
    seeds: Positive = Field(2, description="pictures of each prompt")
    sampling_steps: Positive = Field(30, description="of the base's own sampler")


class Finetune(Section):
    start: Literal["export", "initial_student", "random"] = Field(
        "export",
        description="the first stage's text encoders: the distilled student, the one before "
        "training, or random weights",
    )
    empty_caption_share: Share = Field(
        0.1, description="share of pictures seen without their caption, for guidance"
    )
    english_share: Share = Field(
        0.0, description="share of captions read in English, of pictures that have such"
    )
    min_snr_gamma: float | None = Field(
        None, gt=0.0, description="caps the weight of easy timesteps (arXiv 2303.09556); 5 is usual"
    )
    noise_offset: float = Field(0.0, ge=0.0, description="lets brightness be learnt; 0.05 is usual")
    anchor: Weight = Field(
        0.0,
        description="weight of the loss of distilling on text pairs beside the pictures, against "
        "forgetting; for stages that train text",
    )
    gradient_checkpointing: bool = True
    validation: Validation | None = None
    stages: Annotated[dict[str, FinetuneStage], Field(min_length=1)] = Field(
        description="by name, in this order; each starts from the one before"
    )

    @model_validator(mode="after")
    def _stages_follow(self) -> Self:
        *before, _ = self.stages
        for name in before:
            if self.stages[name].lora is not None:
                raise ValueError(
                    f"finetune.stages.{name}.lora: no stage can follow one with lora; make it the "
                    "last"
                )
        for name in self.stages:
            if not name.replace("_", "").replace("-", "").isalnum() or not name.isascii():
                raise ValueError(
                    f"finetune.stages: {name!r} names a folder; use letters, digits, _ and -"
                )
        return self
