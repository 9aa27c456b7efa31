"""The recipe's `distill` section: what is taught, by which loss, from which teacher, at which
pace.
"""

from collections.abc import Collection

from pydantic import Field, model_validator

from configs.references import ModelName
from configs.schema.pace import Pace
from configs.schema.section import Positive, Section, Share, Weight

# Numbers in one message of DeepSpeed. Its own default, 5e8, would send the student's 0.8e9 in two
# messages and overlap little. One bucket is held in fp32 while micro-batches are accumulated.
REDUCE_BUCKET = 200_000_000
STATISTICS_PROMPTS, INFLUENCE_CALLS = 1024, 4


class Ramp(Section):
    """A weight that goes in a straight line from `start` to `end` over the steps of the run."""

    start: Weight
    end: Weight


Scheduled = Weight | Ramp


def at(value: Weight | Ramp, done: float) -> float:
    """A scheduled number when a share `done` (0 to 1) of the run is made."""
    return value.start + done * (value.end - value.start) if isinstance(value, Ramp) else value


class Objective(Section):
    """The terms of the loss and their weights; a term of weight 0 is not computed."""

    position: Scheduled = Field(
        0.0, description="every state equals the teacher's at the same position: the reference"
    )
    cross_attention: Scheduled = Field(
        0.0, description="what the frozen UNets' cross-attention layers read is equal"
    )
    random_attention: Scheduled = Field(
        0.0, description="what random attention layers read is equal: needs no UNet"
    )
    pooled: Scheduled = Field(
        1.0,
        description="squared error of the pooled state over its variance; 0 by default for a base "
        "whose UNet reads none (SD)",
    )

    def weights(self, done: float) -> dict[str, float]:
        """The terms in use when a share `done` (0 to 1) of the run is made, with their weights."""
        values = {name: at(getattr(self, name), done) for name in type(self).model_fields}
        return {name: value for name, value in values.items() if value > 0}

    def uses(self, term: str) -> bool:
        """Whether the term has a weight at any step."""
        return term in self.weights(0.0) or term in self.weights(1.0)

    def __str__(self) -> str:
        """`cross_attention + 1 to 0 position`; `pooled` is left out if its weight is 1."""
        parts = []
        for name in type(self).model_fields:
            one = getattr(self, name)
            if self.uses(name) and (name, one) != ("pooled", 1.0):
                value = (
                    f"{one.start:g} to {one.end:g} "
                    if isinstance(one, Ramp)
                    else ""
                    if one == 1
                    else f"{one:g} "
                )
                parts.append(f"{value}{name}")
        return " + ".join(parts) or "pooled"

    @model_validator(mode="after")
    def _something_is_asked(self) -> "Objective":
        if not any(self.uses(name) for name in type(self).model_fields):
            raise ValueError("distill.objective: every weight is 0, so nothing would be learnt")
        return self


class RandomAttention(Section):
    """Attention layers with random projections of the whitened states, drawn once from the seed."""

    layers: Positive = Field(
        32, description="for each kind of UNet: those that read as the base, those as the refiner"
    )
    heads: Positive = 8
    head_width: Positive = 32
    queries_per_step: Positive = 48
    layers_per_step: Positive = 4


class QueryBank(Section):
    """Real queries of the frozen UNets' cross-attention, recorded once while they paint English
    prompts.
    """

    prompts: int = Field(64, ge=2, description="a layer's influence is what another prompt changes")
    inference_steps: int = Field(
        8, ge=4, description="of base and refiner; the refiner paints the last 30 % of them"
    )
    influence_calls: int = Field(
        INFLUENCE_CALLS,
        ge=1,
        description="calls of a UNet over which the influence of its layers is averaged",
    )
    queries_per_layer: Positive = 4096
    queries_per_step: Positive = 48
    layers_per_step: Positive = Field(
        4, description="drawn a step, each as often as it moves its UNet's prediction"
    )
    refiner_share: Share = Field(
        0.3,
        description="share of the layers drawn that are the refiner's; base and `unets` share the "
        "rest equally",
    )
    unets: dict[str, ModelName] = Field(
        {},
        description="by a name of your own: further bases of the same family (fine-tuned ones, "
        "LoRAs fused) the student is to serve",
    )

    @model_validator(mode="after")
    def _names_are_free(self) -> "QueryBank":
        for name in self.unets:
            if name in ("base", "refiner") or "." in name:
                raise ValueError(
                    f"distill.query_bank.unets: {name!r} cannot be a name (base and refiner are "
                    "taken, a dot divides); choose another"
                )
        return self


def unet_shares(unets: Collection[str], refiner_share: float) -> dict[str, float]:
    """How the layers drawn are shared out: `refiner_share` for the refiner where there is one, the
    rest in equal parts for the others.
    """
    with_refiner = "refiner" in unets
    of_each_other = (1 - refiner_share * with_refiner) / (len(unets) - with_refiner)
    return {name: refiner_share if name == "refiner" else of_each_other for name in unets}


class Distill(Pace):
    base: ModelName = Field(
        description="an SDXL base, or an SD 1.x or 2.x: a diffusers folder, a hub name, a single "
        "file (.safetensors), or toyworld:NAME; its model_index.json or header says which"
    )
    teacher: str | None = Field(
        None,
        description="open_clip:MODEL/TAG (or /PATH): these weights instead of base's, for the "
        "encoder as wide",
    )
    refiner: ModelName | None = Field(
        None, description="SDXL refiner, likewise; its UNet reads the bigG student"
    )
    objective: Objective
    random_attention: RandomAttention = RandomAttention()
    query_bank: QueryBank = QueryBank()
    statistics_prompts: Positive = Field(
        STATISTICS_PROMPTS,
        description="English prompts over which the variances of the teacher's states are measured",
    )
    tokens_per_micro_batch: Positive | None = Field(
        None,
        description="positions a process computes at once, pads included; no limit when left out",
    )
    full_length_share: Scheduled = Field(
        1.0,
        description="share of a batch that runs to all 77 positions; the others end at their last "
        "word",
    )
    cut_attention: bool = Field(
        True,
        description="apply attention objectives to truncated prompts too (over their tokens); "
        "otherwise only to full-length ones",
    )
    empty_prompt_share: Share = Field(0.02, description="share of a batch that is the empty prompt")
    english_share: Share = Field(
        0.0,
        description="share of a batch whose English the student reads itself, so that it keeps "
        "English",
    )
    source_weights: dict[str, Weight] = Field(
        {}, description="by source: how often its pairs are drawn, against 1 for those not named"
    )
    repeat_words_below: int = Field(
        0,
        ge=0,
        description="a pair whose rarest English word is in fewer training pairs than this is "
        "drawn more often, by the square root of this over their number; 0: none is",
    )
    composed_share: Share = Field(
        0.0,
        description="share of a batch whose prompt is composed of the pairs as people write "
        "prompts: lists, both languages in one, clauses in another order",
    )
    compile: bool = Field(
        False,
        description="torch.compile every block of the towers: a minute at the start, fewer kernels "
        "a step",
    )

    @model_validator(mode="after")
    def _shares_leave_japanese(self) -> "Distill":
        if (total := self.empty_prompt_share + self.english_share + self.composed_share) > 1:
            raise ValueError(
                "distill: empty_prompt_share, english_share and composed_share add up to "
                f"{total:g}; give at most 1 in all"
            )
        return self

    def attention_applies(self, truncated: bool) -> bool:
        """Whether attention objectives count for a micro-batch with, or without, truncated
        prompts.
        """
        return self.cut_attention or not truncated

    @property
    def unets(self) -> dict[str, ModelName]:
        """The pipelines whose UNets the student is taught to serve, by name: `base`, `refiner`
        where there is one, and `query_bank.unets`.
        """
        return (
            {"base": self.base}
            | ({"refiner": self.refiner} if self.refiner else {})
            | self.query_bank.unets
        )
