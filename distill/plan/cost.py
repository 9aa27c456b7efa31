"""Formulas for the cost of a distillation: parameters, FLOP and bytes, from shapes alone. Reads no
file, runs no model.

FLOP: those of matrix products, two per multiply-add. A backward costs two forwards: the gradients
of the input and of the weights (Kaplan et al., arXiv 2001.08361, section 2.1). Causal attention
counts its masked half too, as FLOP counters do. What autograd saves follows from the forward of
distill/encoders/tower.py, as Korthikanti et al. (arXiv 2205.05198, section 4) derive it for the
plain transformer; scaled_dot_product_attention saves no matrix of scores. What ZeRO shards:
Rajbhandari et al., arXiv 1910.02054.

`tests/distill/test_plan.py` compares every formula with the running code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from configs.schema.distill import REDUCE_BUCKET, Distill, QueryBank, RandomAttention, unet_shares
from configs.schema.pace import Pace
from distill.encoders.family import EncoderPart, Family, States

# The largest bf16 matrix-product rate measured on one H200 (989 TFLOP/s on paper); no training loop
# reaches it.
H200_TFLOPS = 790.0


def _size(config: dict[str, Any], name: str) -> int:
    if type(config.get(name)) is not int or config[name] <= 0:
        raise KeyError(name)
    return int(config[name])


@dataclass(frozen=True)
class Tower:
    """The shape of one CLIP text encoder; `projection` is 0 where there is none. `states`: those
    that training computes of it.
    """

    width: int
    layers: int
    mlp: int
    vocabulary: int
    positions: int
    projection: int
    activation: str = "quick_gelu"
    states: States = "penultimate"

    @classmethod
    def of(cls, config: dict[str, Any], part: EncoderPart) -> "Tower":
        """From a transformers CLIPTextConfig.

        Raises KeyError for a size that is missing, or no whole number above 0.
        """
        names = (
            "hidden_size",
            "num_hidden_layers",
            "intermediate_size",
            "vocab_size",
            "max_position_embeddings",
        )
        width, layers, mlp, vocabulary, positions = (_size(config, name) for name in names)
        projection = _size(config, "projection_dim") if part.pooled else 0
        return cls(
            width,
            layers,
            mlp,
            vocabulary,
            positions,
            projection,
            config.get("hidden_act", "quick_gelu"),
            part.states,
        )

    def parameters(self, vocabulary: int | None = None) -> int:
        """With this vocabulary (the tower's own unless given): embeddings, layers, final norm,
        projection.
        """
        return (
            ((vocabulary or self.vocabulary) + self.positions + self.projection) * self.width
            + self.layers * self._block()
            + 2 * self.width
        )

    def trained_parameters(self, vocabulary: int | None = None) -> int:
        """Those of `parameters` that get a gradient: the last layer and the final norm get none
        where neither final states nor a projection need them.
        """
        needed = self.states == "final" or self.projection
        return self.parameters(vocabulary) - (0 if needed else self._block() + 2 * self.width)

    def _block(self) -> int:
        d = self.width
        return (
            4 * (d * d + d) + (2 * d * self.mlp + self.mlp + d) + 4 * d
        )  # attention, MLP, two norms

    def forward_flop(self, length: int) -> int:
        """One prompt of `length` positions as training runs it: for penultimate states the last
        layer at EOS alone, or not at all without a projection.
        """
        d = self.width
        outer, linear = (
            4 * d * d,
            4 * d * d + 4 * d * self.mlp,
        )  # keys and values; queries, output and MLP
        attention = 4 * length * d
        whole = self.whole_layers * length * (outer + linear + attention)
        if self.states == "final":
            return whole + 2 * d * self.projection
        last = length * outer + linear + attention + 2 * d * self.projection
        return whole + (last if self.projection else 0)

    @property
    def whole_layers(self) -> int:
        """Layers that run at every position."""
        return self.layers if self.states == "final" else self.layers - 1

    def stock_forward_flop(self) -> int:
        """The same at full length by the stock class, which runs every layer at every position: to
        compare other trainers with.
        """
        d, length = self.width, self.positions
        return (
            self.layers * length * (8 * d * d + 4 * d * self.mlp + 4 * length * d)
            + 2 * d * self.projection
        )

    def kept_bytes(self, word: int) -> int:
        """Bytes per position that autograd saves for the backward; `word`: bytes of one number.

        A layer saves its input, both norms' outputs, queries, keys, values, the attention's output
        and the residual before the second norm (8 widths), and the MLP's activation with its input;
        quick_gelu saves its sigmoid too. The last layer saves what it computes at all positions:
        input, norm, keys, values. The norm behind final states saves its input. Left out: the
        norms' statistics and log-sum-exps, 1 % at widths of hundreds.
        """
        of_mlp = 3 if self.activation == "quick_gelu" else 2
        whole = self.whole_layers * (8 * self.width + of_mlp * self.mlp)
        if self.states == "final":
            return word * (whole + self.width)
        return word * (whole + (4 * self.width if self.projection else 0))


def flop_per_pair(towers: Sequence[Tower], length: int) -> int:
    """Teacher forward, student forward and a backward that costs two: four forwards of each
    encoder.
    """
    return 4 * sum(tower.forward_flop(length) for tower in towers)


def stock_flop_per_pair(towers: Sequence[Tower]) -> int:
    """`flop_per_pair` at full length if the stock classes ran it."""
    return 4 * sum(tower.stock_forward_flop() for tower in towers)


def cross_attention_widths(unet: dict[str, Any]) -> list[int]:
    """The width of every cross-attention layer of a UNet2DConditionModel, from its config.

    SDXL base has 70. Raises KeyError.
    """
    widths, per_block = unet["block_out_channels"], unet["layers_per_block"]
    depth = unet.get("transformer_layers_per_block", 1)  # SD 1.x's config is older than this key
    depths = depth if isinstance(depth, list) else [depth] * len(widths)
    down = [
        w
        for w, d, kind in zip(widths, depths, unet["down_block_types"], strict=True)
        if "CrossAttn" in kind
        for _ in range(d * per_block)
    ]
    reverse = zip(widths[::-1], depths[::-1], unet["up_block_types"], strict=True)
    up = [w for w, d, kind in reverse if "CrossAttn" in kind for _ in range(d * (per_block + 1))]
    return down + [widths[-1]] * depths[-1] + up


@dataclass(frozen=True)
class AttentionCost:
    """Cost of an attention objective. `layers`, `queries`: sampled per step. `width`: mean layer
    width. `states_by_width`: mean size of one K or V projection.

    `held_bytes`: all its layers in a GPU's memory. `word`: bytes of one number, as the towers'.
    """

    layers: int
    queries: int
    width: float
    states_by_width: float
    held_bytes: int
    word: int = 4

    @classmethod
    def of_unets(
        cls, unets: dict[str, dict[str, Any]], bank: QueryBank, word: int
    ) -> "AttentionCost":
        """`cross_attention`, as if all layers of a UNet were sampled equally often.

        Raises KeyError.
        """
        width = states_by_width = 0.0
        for name, share in unet_shares(unets, bank.refiner_share).items():
            widths = cross_attention_widths(unets[name])
            width += share * sum(widths) / len(widths)
            states_by_width += (
                share * unets[name]["cross_attention_dim"] * sum(widths) / len(widths)
            )
        return cls(
            bank.layers_per_step,
            bank.queries_per_step,
            width,
            states_by_width,
            unet_layers_bytes(unets, bank, word),
            word,
        )

    @classmethod
    def of_random(
        cls, towers: Sequence[Tower], family: Family, settings: RandomAttention, word: int
    ) -> "AttentionCost":
        """`random_attention`: as many layers for every reader of the family (`towers`: of its
        parts).
        """
        widths = {name: tower.width for name, tower in zip(family.parts, towers, strict=True)}
        readers = [sum(widths[name] for name in parts) for parts in family.readers.values()]
        width, states = settings.heads * settings.head_width, sum(readers) / len(readers)
        # the K and V projections; the few queries are left out
        held = word * settings.layers * 2 * width * sum(readers)
        sampled = settings.layers_per_step, settings.queries_per_step
        return cls(*sampled, width, width * states, held, word)

    def flop(self, length: int) -> float:
        """Per pair of `length` positions: the K and V projections of teacher, student and the
        student's gradient; then the attention of the queries.
        """
        return (
            self.layers
            * length
            * (3 * 4 * self.states_by_width + 4 * 4 * self.queries * self.width)
        )

    def kept_bytes(self, length: int) -> float:
        """Per pair of `length` positions: the student's keys and values; per query the attention's
        output and, in fp32, its error.
        """
        return (
            self.layers * self.width * (self.word * (2 * length + self.queries) + 4 * self.queries)
        )


def bank_bytes(unets: dict[str, dict[str, Any]], bank: QueryBank) -> int:
    """The query bank's file: fp16 queries of every layer."""
    return (
        2
        * bank.queries_per_layer
        * sum(sum(cross_attention_widths(unet)) for unet in unets.values())
    )


def unet_layers_bytes(unets: dict[str, dict[str, Any]], bank: QueryBank, word: int) -> int:
    """The UNets' layers in a GPU's memory: K and V projections and the bank's queries."""
    return sum(
        word
        * (2 * unet["cross_attention_dim"] + bank.queries_per_layer)
        * sum(cross_attention_widths(unet))
        for unet in unets.values()
    )


def state_bytes(
    trained: int, frozen: int, settings: Pace, gpus: int, eight_bit: bool = False
) -> float:
    """Bytes per GPU during a backward under ZeRO-1, as distill/parallel/engine.py sets it up.
    `trained`, `frozen`: numbers of parameters. `eight_bit`: the moments are codes of one byte.

    bf16: every GPU holds the weights and the fp32 sum of gradients, which each joins as backward
    makes it; fp32 master weights, two moments and the averaged weights (if kept) are sharded.
    fp32: every GPU holds weights, gradients and `bucket_bytes`; the rest is sharded.
    """
    word = word_bytes(settings.precision)
    return (
        trained * (word + 4 + _shared_bytes(settings, 2 if eight_bit else 8) / gpus)
        + frozen * word
        + bucket_bytes(trained, settings, gpus)
    )


def bucket_bytes(trained: int, settings: Pace, gpus: int) -> int:
    """What DeepSpeed holds in fp32 between backwards to send gradients in: one `REDUCE_BUCKET`, or
    two, one being filled while the other is sent.
    """
    buckets = 2 if gpus > 1 else 1
    return 0 if settings.precision == "bf16" else buckets * 4 * min(REDUCE_BUCKET, trained)


def checkpoint_bytes(student: int, trained: int, settings: Pace) -> int:
    """One checkpoint, fp32: the student, and what ZeRO shards except the master weights, which are
    the student.
    """
    return 4 * student + (_shared_bytes(settings) - 4) * trained


def _shared_bytes(settings: Pace, moments: int = 8) -> int:
    """Per parameter: fp32 master weight, two moments, and the averaged weight if one is kept."""
    return 4 + moments + (4 if settings.ema_decay else 0)


def states_bytes(towers: Sequence[Tower], settings: Distill) -> int:
    """Bytes per position of the states that the loss compares: the teacher's, fp32 copies of both
    sides, and for `position` their difference.
    """
    word, position = word_bytes(settings.precision), settings.objective.uses("position")
    numbers = sum(tower.width for tower in towers)
    return numbers * (word + (0 if word == 4 else 2 * 4) + 4 * position)


def word_bytes(precision: str) -> int:
    """Bytes of one weight or activation."""
    return 2 if precision == "bf16" else 4


def token_bytes(pairs: int, tokens_a_pair: dict[str, float], vocabularies: dict[str, int]) -> float:
    """`<run>/tokens/`: per side uint16 ids (uint32 for vocabularies above 65,536) and an 8-byte
    offset per pair; 2 bytes per pair for its source.
    """
    return 2 * pairs + sum(
        pairs * (8 + tokens * (2 if vocabularies[side] <= 2**16 else 4))
        for side, tokens in tokens_a_pair.items()
    )
