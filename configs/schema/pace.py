"""How a training goes: its steps, its optimizer, what it writes and when. Distilling and
finetuning share it.
"""

from typing import Annotated, Literal

from pydantic import Field

from configs.errors import RecipeError
from configs.schema.section import Positive, Section, Weight


class Pace(Section):
    steps: Positive
    batch_size: Positive = Field(description="pairs (or pictures) a step over all processes")
    learning_rate: float = Field(gt=0.0)
    warmup_steps: int = Field(100, ge=0)
    weight_decay: Weight = 0.0
    # YAML knows lists only: strict would refuse them
    betas: Annotated[tuple[float, float], Field(strict=False)] = (0.9, 0.98)
    gradient_clipping: float = Field(1.0, gt=0.0)
    ema_decay: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="checkpoints hold this running average of the weights; 0 for the weights "
        "themselves",
    )
    precision: Literal["fp32", "bf16"] = "bf16"
    seed: int = 0
    log_every_steps: Positive = 10
    eval_every_steps: Positive = Field(
        500, description="the loss on the same held-out rows, also after the last step"
    )
    save_every_steps: Positive = 1000
    keep_checkpoints: Positive = 2
    hung_after_seconds: float = Field(
        600.0,
        ge=5.0,
        le=1500.0,
        description="without a finished step, save or loading: the training ends, code 4",
    )

    def check_processes(self, processes: int) -> None:
        """Raises RecipeError unless the processes can share a batch evenly."""
        if self.batch_size % processes:
            raise RecipeError(
                f"batch_size: {self.batch_size} a step cannot be shared by {processes} processes; "
                "give a multiple"
            )
