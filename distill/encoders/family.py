"""What a family of text-to-image models reads of its text encoders.

Everything particular to SDXL's encoders is in the value `SDXL`: their names, their folders, their
classes, and which UNet reads which of them.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class EncoderPart:
    """One text encoder of a family.

    `subfolder` and `tokenizer` are folders of a diffusers repository, `class_name` is a class of
    transformers. `states`: which hidden states the UNet reads, "penultimate" (`hidden_states[-2]`)
    or "final" (`last_hidden_state`, after the last layer norm). `pooled`: whether it also reads the
    projected state of the EOS position (`text_embeds`).
    """

    subfolder: str
    tokenizer: str
    class_name: str
    states: Literal["penultimate", "final"]
    pooled: bool


@dataclass(frozen=True)
class Family:
    """`parts` by the name that files, logs and checkpoints give them. `readers`: by kind of UNet,
    the parts whose states its cross-attention reads, concatenated along the width.
    """

    parts: dict[str, EncoderPart]
    readers: dict[str, tuple[str, ...]]

    def parts_read_by(self, unet: str) -> tuple[str, ...]:
        """Of a UNet of the recipe (`Distill.unets`): those that are no refiner read as the base."""
        return self.readers.get(unet, self.readers["base"])


SDXL = Family(
    parts={
        "clip_l": EncoderPart(
            "text_encoder", "tokenizer", "CLIPTextModel", states="penultimate", pooled=False
        ),
        "clip_bigg": EncoderPart(
            "text_encoder_2",
            "tokenizer_2",
            "CLIPTextModelWithProjection",
            states="penultimate",
            pooled=True,
        ),
    },
    readers={"base": ("clip_l", "clip_bigg"), "refiner": ("clip_bigg",)},
)
