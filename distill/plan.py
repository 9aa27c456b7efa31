"""The cost of a distillation before it is spent: parameters, FLOP, memory, hours and disk. Reads a few JSON files, runs no model.

In:  the recipe, the `config.json` files of `distill.base` and `distill.refiner`, and the size of the Japanese vocabulary.
Out: a few lines on the terminal; nothing on disk.

    python -m distill.plan configs/sdxl_jp.yaml --gpus 8
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs import command, schema
from configs.command import DataError
from configs.distill import Distill, QueryBank, unet_shares
from distill import unigram

# The largest bf16 matrix-product rate measured on one H200 (989 TFLOP/s on paper); no training loop reaches it.
H200_TFLOPS = 790.0
# 41.4 million pairs of the reference's data make 3.4 GB of uint16 ids: 41 tokens a pair, both sides together.
TOKENS_A_PAIR = 41

# The numbers of the hub's config.json files that count here, for recipes planned where the hub cannot be reached.
# They give the published sizes: 123,060,480 (CLIP-L) and 694,659,840 (bigG) parameters, and 70 (base) and 44 (refiner) cross-attention layers.
_CLIP_L = {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072, "vocab_size": 49408, "max_position_embeddings": 77}
_CLIP_BIGG = {**_CLIP_L, "hidden_size": 1280, "num_hidden_layers": 32, "intermediate_size": 5120, "projection_dim": 1280}
PUBLISHED: dict[str, dict[str, dict[str, Any]]] = {
    "stabilityai/stable-diffusion-xl-base-1.0": {
        "text_encoder": _CLIP_L,
        "text_encoder_2": _CLIP_BIGG,
        "unet": {
            "block_out_channels": [320, 640, 1280],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "layers_per_block": 2,
            "transformer_layers_per_block": [1, 2, 10],
            "cross_attention_dim": 2048,
        },
    },
    "stabilityai/stable-diffusion-xl-refiner-1.0": {
        "unet": {
            "block_out_channels": [384, 768, 1536, 1536],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "layers_per_block": 2,
            "transformer_layers_per_block": 4,
            "cross_attention_dim": 1280,
        },
    },
}
PUBLISHED_VOCABULARIES = {"line-corporation/japanese-large-lm-3.6b": 51_200}


@dataclass(frozen=True)
class Tower:
    """The shape of one CLIP text encoder; `projection` is 0 where there is none."""

    width: int
    layers: int
    mlp: int
    vocabulary: int
    positions: int
    projection: int

    @classmethod
    def of(cls, config: dict[str, Any], projected: bool) -> "Tower":
        """From a transformers CLIPTextConfig; `projected` for CLIPTextModelWithProjection. Raises KeyError."""
        names = ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size", "max_position_embeddings")
        width, layers, mlp, vocabulary, positions = (config[name] for name in names)
        return cls(width, layers, mlp, vocabulary, positions, config["projection_dim"] if projected else 0)

    def parameters(self, vocabulary: int | None = None) -> int:
        """Trained numbers with this vocabulary (its own unless given): embeddings, blocks, final norm, projection."""
        d = self.width
        block = 4 * (d * d + d) + (2 * d * self.mlp + self.mlp + d) + 4 * d  # attention, MLP, two norms
        return ((vocabulary or self.vocabulary) + self.positions + self.projection) * d + self.layers * block + 2 * d

    def forward_flop(self) -> int:
        """FLOP of the matrix products for one text at every position (2 a multiply-add; the masked half of attention is computed too)."""
        d, positions = self.width, self.positions
        linear = 2 * (4 * d * d + 2 * d * self.mlp)
        attention = 4 * positions * d
        return self.layers * positions * (linear + attention) + 2 * d * self.projection


def flop_per_pair(towers: list[Tower]) -> int:
    """One teacher forward, one student forward, and a backward that costs two: four forwards of each encoder."""
    return 4 * sum(tower.forward_flop() for tower in towers)


def cross_attention_widths(unet: dict[str, Any]) -> list[int]:
    """The width of every cross-attention layer of a UNet2DConditionModel, from its config. SDXL base has 70. Raises KeyError."""
    widths, per_block = unet["block_out_channels"], unet["layers_per_block"]
    depth = unet["transformer_layers_per_block"]
    depths = depth if isinstance(depth, list) else [depth] * len(widths)
    down = [w for w, d, kind in zip(widths, depths, unet["down_block_types"], strict=True) if "CrossAttn" in kind for _ in range(d * per_block)]
    reverse = zip(widths[::-1], depths[::-1], unet["up_block_types"], strict=True)
    up = [w for w, d, kind in reverse if "CrossAttn" in kind for _ in range(d * (per_block + 1))]
    return down + [widths[-1]] * depths[-1] + up


def read_unets(settings: Distill) -> dict[str, dict[str, Any]]:
    """The configs of the UNets the bank is recorded from, by name. Raises DataError."""
    return {name: read_config(folder, "unet") for name, folder in settings.unets.items()}


def objective_flop_per_pair(unets: dict[str, dict[str, Any]], bank: QueryBank, positions: int) -> float:
    """What the cross-attention objective adds; within a UNet as if each layer were drawn as often as any other."""
    total = 0.0
    for name, share in unet_shares(unets, bank.refiner_share).items():
        widths = cross_attention_widths(unets[name])
        total += share * attention_flop(unets[name]["cross_attention_dim"], sum(widths) / len(widths), bank.queries_per_step, positions)
    return bank.layers_per_step * total


def bank_bytes(unets: dict[str, dict[str, Any]], bank: QueryBank) -> int:
    """The query bank's file: fp16 queries of every layer."""
    return 2 * bank.queries_per_layer * sum(sum(cross_attention_widths(unet)) for unet in unets.values())


def projection_bytes(unets: dict[str, dict[str, Any]]) -> int:
    """The K and V projections of every layer in a GPU's memory, fp32; on disk they stay in the UNets' files."""
    return sum(2 * 4 * unet["cross_attention_dim"] * sum(cross_attention_widths(unet)) for unet in unets.values())


def attention_flop(states: int, width: float, queries: int, positions: int) -> float:
    """Of one layer: keys and values of teacher, student and the student's gradient; then the queries' reading of them."""
    return 3 * 4 * positions * states * width + 4 * 4 * queries * positions * width


def state_bytes(student: int, teacher: int, precision: str, gpus: int) -> float:
    """Bytes a GPU holds under ZeRO-1: weights and gradients whole, optimizer state (with fp32 master weights under bf16) shared out."""
    word, optimizer = (2, 12) if precision == "bf16" else (4, 8)
    return student * (2 * word + optimizer / gpus) + teacher * word


def read_config(reference: str, subfolder: str) -> dict[str, Any]:
    """`subfolder/config.json` of a diffusers folder, of a hub name already cached, or the published numbers. Raises DataError."""
    folder = Path(schema.resolve_model(reference))
    path: str | Path | None = folder / subfolder / "config.json"
    if not folder.is_dir():
        if folder.is_absolute() or reference.count("/") != 1:
            raise DataError(f"{folder}: there is no such folder; give an SDXL folder in diffusers layout, or its hub name")
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(reference, f"{subfolder}/config.json")
        path = cached if isinstance(cached, str) else None
        if path is None and subfolder in PUBLISHED.get(reference, {}):
            return PUBLISHED[reference][subfolder]
        if path is None:
            raise DataError(f"{reference}: no {subfolder}/config.json in the hub's cache; fetch it: hf download {reference} --include '*.json'")
    try:
        config: dict[str, Any] = json.loads(Path(str(path)).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); fetch the folder again") from None
    return config


def student_vocabulary(recipe: schema.Recipe) -> tuple[int, str]:
    """The student's vocabulary and where it was read: the initial student, else the tokenizer, else what is published. Raises DataError.

    The tokenizer's own BOS and EOS pieces give way to the student's (distill/tokenizers.py), so with both the size stays its own.
    """
    embeddings = recipe.run_dir / "initial_student" / "token_embeddings.safetensors"
    if embeddings.is_file():
        with open(embeddings, "rb") as file:  # safetensors: 8 bytes little-endian length, then a JSON header
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return header["clip_l"]["shape"][0], str(embeddings)
    multiple = recipe.vocab_init.pad_vocab_to_multiple_of
    path = Path(schema.resolve_model(recipe.vocab_init.tokenizer))
    if path.exists():
        path = unigram.find(path)
        rows = len(unigram.read(path).rows) + 2  # BOS and EOS
        return -(-rows // multiple) * multiple, f"the pieces of {path}"
    for name, pieces in PUBLISHED_VOCABULARIES.items():
        if name in path.as_posix():
            return -(-pieces // multiple) * multiple, f"the pieces of {name}, as published"
    raise DataError(f"{path}: there is no such tokenizer, so the vocabulary is unknown; fetch it first")


def report(recipe: schema.Recipe, gpus: int, tflops: float, utilisation: float) -> list[str]:
    """The lines printed. Raises DataError when a config lacks a number."""
    settings = recipe.distill
    try:
        towers = [Tower.of(read_config(settings.base, "text_encoder"), False), Tower.of(read_config(settings.base, "text_encoder_2"), True)]
        extra, unets = 0.0, read_unets(settings) if settings.objective.uses("cross_attention") else {}
        if unets:
            extra += objective_flop_per_pair(unets, settings.query_bank, towers[0].positions)
        if settings.objective.uses("random_attention"):
            random = settings.random_attention
            width, states = random.heads * random.head_width, sum(tower.width for tower in towers)
            extra += random.layers_per_step * attention_flop(states, width, random.queries_per_step, towers[0].positions)
    except KeyError as error:
        raise DataError(f"{settings.base}: a config.json lacks {error}; fetch the folder again") from None
    vocabulary, source = student_vocabulary(recipe)
    teacher = [tower.parameters() for tower in towers]
    student = [tower.parameters(vocabulary) for tower in towers]
    pairs = settings.steps * settings.batch_size
    a_pair = flop_per_pair(towers)
    total = pairs * (a_pair + extra)
    seconds = total / (gpus * tflops * 1e12)
    state = state_bytes(sum(student), sum(teacher), settings.precision, gpus)
    tokens = pairs * TOKENS_A_PAIR * (2 if vocabulary <= 65_536 else 4)
    # fp32 weights, and what the optimizer needs to go on (master weights, two moments); one more while the next is being written
    checkpoints = (settings.keep_checkpoints + 1) * sum(student) * 16
    exported = 4 * sum(student)  # base and refiner link the same files
    stored = f" {_bytes(bank_bytes(unets, settings.query_bank))} of queries," if unets else ""
    projections = f", with the UNets' projections {_bytes(projection_bytes(unets))} more" if unets else ""
    bigg = 100 * towers[1].forward_flop() / sum(tower.forward_flop() for tower in towers)
    return [
        f"{recipe.name}: {settings.steps:,} steps of {settings.batch_size:,} pairs = {pairs:,} pairs on {gpus} GPU{'s' if gpus > 1 else ''}",
        f"  teacher   clip_l {teacher[0]:,} + clip_bigg {teacher[1]:,} parameters, frozen",
        f"  student   clip_l {student[0]:,} + clip_bigg {student[1]:,} parameters; vocabulary {vocabulary:,} ({source})",
        f"  FLOP      {a_pair / 1e9:,.4g} GFLOP a pair at {towers[0].positions} positions, {pairs * a_pair:.3g} in all;"
        f" clip_bigg {bigg:.0f} %, the frozen teachers a quarter",
        f"            objective {settings.objective}: {extra / 1e9:,.3g} GFLOP a pair more ({100 * extra / a_pair:.1f} %)",
        f"  memory    {_bytes(state)} of state a GPU under ZeRO-1 in {settings.precision}{projections}; activations come on top",
        f"  time      {_duration(seconds)} at {tflops:g} TFLOP/s a GPU, the floor; {_duration(seconds / utilisation)} at"
        f" {100 * utilisation:g} % of it, an assumption; short texts cost less",
        f"  disk      {_bytes(tokens)} of tokens for one epoch,{stored} {_bytes(checkpoints)} of checkpoints at most,"
        f" {_bytes(exported)} exported beside linked UNet and VAE files",
    ]


def _bytes(count: float) -> str:
    unit, name = next((unit, name) for unit, name in [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1.0, "B")] if count >= unit or unit == 1.0)
    return f"{count / unit:.1f} {name}"


def _duration(seconds: float) -> str:
    unit, name = next((unit, name) for unit, name in [(3600.0, "h"), (60.0, "min"), (1.0, "s")] if seconds >= unit or unit == 1.0)
    return f"{seconds / unit:.1f} {name}"


def _above_zero(kind: type) -> Any:
    def convert(text: str) -> Any:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"must be above zero, not {text}")
        return value

    convert.__name__ = kind.__name__
    return convert


def main(argv: list[str] | None = None) -> int:
    def body() -> None:
        parser = command.parser("distill.plan", "Counts what a distillation costs, before it is spent.")
        parser.add_argument("--gpus", type=_above_zero(int), default=1, help="how many share the batch (default 1)")
        parser.add_argument("--tflops", type=_above_zero(float), default=H200_TFLOPS, help="what one can multiply (default %(default)s, an H200)")
        parser.add_argument("--utilisation", type=_above_zero(float), default=0.5, help="share of that rate training reaches (default %(default)s)")
        arguments = parser.parse_intermixed_args(argv)
        recipe = schema.load(arguments.recipe, arguments.overrides)
        print("\n".join(report(recipe, arguments.gpus, arguments.tflops, arguments.utilisation)))

    return command.guard("distill.plan", body)


if __name__ == "__main__":
    raise SystemExit(main())
