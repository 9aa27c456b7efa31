"""The captions of pictures: how they are ranked by the picture, which are kept, how the Japanese ones are said in English."""

from typing import Annotated, Literal

from pydantic import Field

from configs.section import Positive, Section, Share


class Shards(Section):
    """Pictures as img2dataset stores them: a glob of tar files, `000000001.jpg`, `.txt` and `.json` in each."""

    kind: Literal["shards"]
    path: str


class Files(Section):
    """Pictures as files below a folder; a column of the captions' table holds their paths."""

    kind: Literal["files"]
    path: str
    column: str = "path"


class SimilarityColumn(Section):
    """No pictures: a column of the captions' table holds the similarity, as laion2B-multi's does (its model is no Japanese one)."""

    kind: Literal["column"]
    column: str = "similarity"


Images = Annotated[Shards | Files | SimilarityColumn, Field(discriminator="kind")]


class Ranker(Section):
    model: str = Field(description="rinna's CLOOB, or a CLIP or SigLIP of transformers: a folder, hub name, or toyworld:NAME")
    tokenizer: str | None = Field(None, description="a CLOOB's SentencePiece model, where its folder has none: rinna/japanese-roberta-base's")
    batch_size: Positive = 64


class TranslationGuards(Section):
    """What a translation must be to be kept."""

    min_probability: Share = Field(0.5, description="of English, by the language identifier")
    max_length_ratio: float = Field(6.0, gt=1.0, description="longer side over shorter, in UTF-8 bytes")
    max_repetitions: Positive = Field(3, description="of one run of words on end, and of characters four times as many")


class Translator(Section):
    model: str = Field(description="a Marian, NLLB, M2M100 or MADLAD of transformers: a folder, hub name, or toyworld:NAME")
    engine: Literal["ctranslate2", "transformers"] = Field("ctranslate2", description="the first is the faster, the second the plain way")
    precision: Literal["int8", "float16", "bfloat16", "float32"] = Field("float32", description="of ctranslate2; transformers computes in float32")
    beams: Positive = Field(1, description="1 is greedy search")
    tokens_per_batch: Positive = Field(8192, description="of the source, pads included")
    max_new_tokens: Positive = Field(128, description="a translation is cut here; SDXL reads 77")
    guards: TranslationGuards = TranslationGuards()
