"""The `corpora` section: sources, language identification, filters, duplicates, the executor."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from configs.references import ModelName
from configs.schema.executors import Executor, Local
from configs.schema.filters import Filters
from configs.schema.section import Positive, Section, Share
from configs.schema.sources import Source, TagsSource


class LanguageId(Section):
    model: ModelName = Field(description="a fastText model: a path, or toyworld:NAME")
    sha256: str | None = Field(
        None, description="refuse the model file unless its digest is this one"
    )
    min_probability: Share = Field(
        0.15,
        description="keep a text whose language is the likeliest or at least this probable; 0: all",
    )


class NearDuplicates(Section):
    ignored_words: list[str] = Field(
        ["a", "an", "the"], description="English words that make no difference between two pairs"
    )


class ClipTokens(Section):
    tokenizer: ModelName = Field(
        description="of the SDXL that teaches: a folder, toyworld:base/tokenizer, or "
        "ORG/SDXL//tokenizer of the hub"
    )
    most: Positive = Field(
        77,
        description="tokens of an English text, both specials among them; SDXL reads 77 and cuts "
        "the rest",
    )


class Semantic(Section):
    kind: Literal["encoder"] = Field("encoder", exclude=True)  # older pairs do not record it
    model: ModelName = Field(
        description="a multilingual sentence-transformers model: a path, a hub name, or "
        "toyworld:NAME"
    )
    prompt: str = Field("", description='put before every text; "query: " for the e5 family')
    min_margin: float = Field(
        0.97,
        gt=0.0,
        description="cosine of the two sides over the mean cosine of their nearest neighbours",
    )
    neighbors: Positive = 4
    batch_size: Positive = 256


class WordAlignment(Section):
    kind: Literal["alignment"]
    min_score: float = Field(
        -0.5,
        description="mean logarithm of how much likelier the words of a side are beside the other "
        "side than anywhere",
    )


def _kind(value: Any) -> Any:
    """A section without a `kind` is an encoder's."""
    return value.get("kind", "encoder") if isinstance(value, dict) else getattr(value, "kind", None)


SemanticKind = Annotated[
    Annotated[Semantic, Tag("encoder")] | Annotated[WordAlignment, Tag("alignment")],
    Discriminator(_kind),
]
SEMANTIC_KINDS: dict[str, type[Section]] = {"encoder": Semantic, "alignment": WordAlignment}


class Corpora(Section):
    sources: list[Source] = Field(min_length=1)
    language_id: LanguageId
    filters: Filters = Field(default_factory=Filters)
    clip_tokens: ClipTokens | None = Field(
        None, description="drop pairs whose English SDXL would cut; halves the rows a second"
    )
    semantic: SemanticKind | None = Field(
        None,
        description="drop pairs whose sides do not say the same: by an encoder, a GPU's work for "
        "large corpora, or by translations of words counted in the pairs themselves",
    )
    near_duplicates: NearDuplicates | None = Field(default_factory=NearDuplicates)
    held_out_pairs: int = Field(
        0, ge=0, description="rows kept apart from file sources, chosen by a hash of the text"
    )
    shard_rows: Positive = 100_000
    workers: Positive = Field(
        1, description="pieces of the work done at once, on this machine or on the cluster"
    )
    executor: Executor = Field(default_factory=Local)

    def filters_of(self, source: Source | None) -> tuple[Filters, str]:
        """The filters of a source's rows, and their place in the recipe; None: of no source."""
        if isinstance(source, TagsSource):
            return source.filters, f"corpora.sources.{self.sources.index(source)}.filters"
        return self.filters, "corpora.filters"

    def min_probabilities(self, source: Source | None) -> tuple[tuple[float, str], ...]:
        """Those of language identification for a source's texts and for its English, with their
        places in the recipe; None: of no source.
        """
        if not isinstance(source, TagsSource):
            return ((self.language_id.min_probability, "corpora.language_id.min_probability"),) * 2
        place = f"corpora.sources.{self.sources.index(source)}"
        return (
            (source.min_probability, f"{place}.min_probability"),
            (source.en_min_probability, f"{place}.en_min_probability"),
        )
