"""The recipe: the settings of every stage, typed and strict.

A frozen `Recipe`, read by `configs.schema.load`. No torch is imported here.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from configs.languages import LANGUAGES
from configs.references import ModelName
from configs.schema.captions import Captions
from configs.schema.corpora import Corpora
from configs.schema.distill import Distill
from configs.schema.finetune import Finetune
from configs.schema.pictures import PictureData
from configs.schema.section import Positive, Section

VocabMethod = Literal[
    "nearest",
    "nearest_word",
    "csls",
    "softmax_k",
    "sparsemax",
    "alignment",
    "alignment_nearest",
    "composed",
    "mean",
    "random",
]


# Of prompts that still say the whole caption; eval/states/prompt_forms.py makes them.
PaintedForm = Literal[
    "words_10",
    "words_30",
    "words_50",
    "apart_1",
    "apart_2",
    "apart_3",
    "clauses_ja_en",
    "clauses_en_ja",
    "clauses_swapped",
]


class VocabInit(Section):
    method: VocabMethod = Field(
        "nearest",
        description="which English tokens a piece starts from: `nearest` is the reference's; "
        "`alignment`, `alignment_nearest` and `composed` count translations in the pairs",
    )
    tokenizer: ModelName = Field(
        description="a SentencePiece unigram model: a path, or toyworld:NAME"
    )
    sentence_encoder: ModelName = Field(
        description="a sentence-transformers model: a path, a hub name, or toyworld:NAME"
    )
    prompt: str = Field("", description='put before every piece; "query: " for the e5 family')
    batch_size: Positive = 256
    pad_vocab_to_multiple_of: Positive = 1


class Export(Section):
    encoders_only: bool = False
    variants: list[Literal["fp16", "bf16"]] = Field(
        [], description="half-precision weights written beside the fp32 ones"
    )
    license: str = Field(
        "openrail++",
        description="the hub's name of the licence in the model card; SDXL's own by default",
    )


class Eval(Section):
    pairs: Positive = Field(256, description="held-out pairs compared")
    timesteps: Positive = Field(
        4, description="timesteps at which the noise-prediction gap is measured"
    )
    gap_pairs: Positive = Field(64, description="pairs the noise-prediction gap is measured on")
    prompts: Positive = Field(200, description="held-out prompts painted")
    forms: list[PaintedForm] = Field(
        [],
        description="of prompts, which the student also paints a world's captions in, such as "
        "words_50: half of the words in English",
    )
    inference_steps: Positive = 50
    denoising_end: float = Field(
        0.8, gt=0.0, le=1.0, description="where the refiner takes over; 1 leaves it out"
    )
    guidance_scale: float = Field(5.0, ge=0.0)
    batch_size: Positive = 16
    seed: int = 0
    translator: ModelName | None = Field(
        None,
        description="a Japanese-to-English model to compete with, as captions.translator takes one",
    )
    repositories: dict[str, ModelName] = Field(
        {},
        description="by a name of your own: other Japanese pipelines (folder or hub name) to "
        "compare with",
    )
    unets: dict[str, ModelName] = Field(
        {},
        description="by a name of your own: pipelines (base or refiner) whose UNets no student "
        "saw, for eval.transfer",
    )
    clip_model: ModelName | None = Field(
        None,
        description="a CLIP or SigLIP, path or hub name: do pictures fit the English caption, and "
        "one another?",
    )
    dino_model: ModelName | None = Field(
        None, description="a DINOv2, path or hub name: do two pictures show the same?"
    )
    lpips_model: str | None = Field(
        None,
        description="torchvision's AlexNet weights, a file: LPIPS, the distance people see between "
        "two pictures",
    )


class Recipe(Section):
    name: str
    run: str = Field(description="the folder every stage writes below")
    language: str = Field(
        "ja",
        pattern=f"^({'|'.join(LANGUAGES)})$",
        description="the student's language, a code of configs/languages.py",
    )
    captions: Captions | None = Field(
        None,
        description="captions of pictures that have no English yet; corpora.captions makes pairs "
        "of them",
    )
    corpora: Corpora
    vocab_init: VocabInit
    distill: Distill
    export: Export = Export()
    eval: Eval = Eval()
    pictures: PictureData | None = Field(
        None, description="captioned pictures to fine-tune with; finetune.pictures caches them"
    )

    finetune: Finetune | None = Field(
        None, description="learning with the diffusion model, from `pictures`"
    )

    @property
    def run_dir(self) -> Path:
        return Path(self.run)

    @model_validator(mode="after")
    def _sections_know_the_language(self) -> "Recipe":
        for section in filter(None, (self.corpora, self.captions, self.pictures)):
            section.use_language(self.language)
        self._language = self.language
        return self

    @model_validator(mode="after")
    def _steps_agree(self) -> "Recipe":
        if self.distill.warmup_steps >= self.distill.steps:
            raise ValueError(
                f"distill.warmup_steps ({self.distill.warmup_steps}) must be below distill.steps "
                f"({self.distill.steps})"
            )
        return self
