"""The plan's arithmetic against what it stands for: published sizes, torch's FLOP counter, bytes
autograd keeps, DeepSpeed's memory, files.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_initial_student, write_pairs
from torch.nn.attention import SDPBackend, sdpa_kernel

from configs.errors import DataError, RecipeError
from configs.schema.distill import Distill
from configs.schema.load import load_recipe
from configs.schema.recipe import Recipe
from corpora.toyworld import captions
from distill.encoders.family import SD, SDXL, EncoderPart, States
from distill.encoders.student import Towers
from distill.encoders.teacher import Encoding
from distill.encoders.tower import tower_of
from distill.objective import distances
from distill.objective.query_bank import CrossAttentionLayer
from distill.objective.teacher_statistics import Statistics
from distill.objective.terms import GlobalCounts, Loss
from distill.plan import cost, estimate, shapes
from distill.plan.cost import AttentionCost, Tower
from distill.tokens import store
from distill.tokens.batches import Batches, SpecialIds
from distill.tokens.prompts import POSITIONS
from distill.tokens.token_pairs import TokenPairs, sides_of

ROOT = Path(__file__).resolve().parents[2]
BASE = "stabilityai/stable-diffusion-xl-base-1.0"


def published_towers() -> list[Tower]:
    return [
        Tower.of(shapes.PUBLISHED[BASE]["text_encoder"], SDXL.parts["clip_l"]),
        Tower.of(shapes.PUBLISHED[BASE]["text_encoder_2"], SDXL.parts["clip_bigg"]),
    ]


def test_published_sizes_and_cost_of_the_reference() -> None:
    clip_l, clip_bigg = published_towers()
    assert (clip_l.parameters(), clip_bigg.parameters()) == (123_060_480, 694_659_840)
    assert (clip_l.parameters(51_200), clip_bigg.parameters(51_200)) == (124_436_736, 696_953_600)
    assert cost.stock_flop_per_pair([clip_l, clip_bigg]) / 1e9 == pytest.approx(444.6, abs=0.1)
    assert cost.flop_per_pair([clip_l, clip_bigg], 77) / 1e9 == pytest.approx(430.1, abs=0.1)
    widths = cost.cross_attention_widths(shapes.PUBLISHED[BASE]["unet"])
    assert len(widths) == 70 and widths.count(1280) == 60 and widths.count(640) == 10
    refiner = cost.cross_attention_widths(shapes.PUBLISHED[BASE.replace("base", "refiner")]["unet"])
    assert len(refiner) == 44 and refiner.count(1536) == 24 and refiner.count(768) == 20


@pytest.mark.parametrize(
    "part",
    [*SDXL.parts.values(), *SD.parts.values()],
    ids=["penultimate", "penultimate and pooled", "final"],
)
def test_a_tower_agrees_with_the_stock_module_and_the_flop_counter(
    tiny_sdxl: Path, part: EncoderPart
) -> None:
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    projected, subfolder = part.pooled, part.subfolder
    kind = CLIPTextModelWithProjection if projected else CLIPTextModel
    model = kind.from_pretrained(
        tiny_sdxl / "base" / subfolder, attn_implementation="eager"
    )  # the counter sees every product
    tower = Tower.of(shapes.read_config(str(tiny_sdxl / "base"), subfolder), part)
    assert tower.parameters() == sum(parameter.numel() for parameter in model.parameters())
    assert tower.parameters() - tower.trained_parameters() == sum(
        parameter.numel() for parameter in tower_of(model, part.states).dead_parameters()
    )

    ids = torch.randint(0, tower.vocabulary, (1, tower.positions))
    with FlopCounterMode(display=False) as counter:
        output = model(ids)
        forward = counter.get_total_flops()
        (output.text_embeds if projected else output.last_hidden_state).sum().backward()
    assert forward == tower.stock_forward_flop()
    student = counter.get_total_flops()  # forward and backward
    assert forward + student == cost.stock_flop_per_pair([tower])


# --- a real step ---

WIDTHS, VOCABULARY, HEADS, QUERIES = (96, 160), 60, 2, 12


def towers(seed: int, states: States = "penultimate") -> Towers:
    """Of a layer count and an MLP that tell the formulas' terms apart; each with its own
    activation, as in SDXL.
    """
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(seed)
    models = []
    for width, kind, activation in zip(
        WIDTHS, (CLIPTextModel, CLIPTextModelWithProjection), ("quick_gelu", "gelu"), strict=True
    ):
        sizes = {
            "hidden_size": width,
            "intermediate_size": 3 * width,
            "num_hidden_layers": 5,
            "num_attention_heads": HEADS,
            "projection_dim": 40,
        }
        models.append(
            kind(
                CLIPTextConfig(
                    vocab_size=VOCABULARY,
                    hidden_act=activation,
                    bos_token_id=58,
                    eos_token_id=2,
                    pad_token_id=1,
                    **sizes,
                )
            )
        )
    made = [tower_of(model, states) for model in models]
    return Towers(dict(zip(SDXL.parts, made, strict=True)))


def shapes_of(pair: Towers) -> list[Tower]:
    activations = "quick_gelu", "gelu"
    states = pair["clip_l"].states
    return [
        Tower(width, 5, 3 * width, VOCABULARY, POSITIONS, 40 * i, activations[i], states)
        for i, width in enumerate(WIDTHS)
    ]


def token_pairs(rows: int) -> TokenPairs:
    """Texts as captions are: most short, one of all positions."""
    generator, ids, offsets = np.random.default_rng(0), {}, {}
    for side in sides_of(SDXL):
        lengths = np.minimum(2 + generator.gamma(2.0, 7.0, size=rows).astype(int), 60)
        lengths[0] = POSITIONS
        ids[side], offsets[side] = (
            np.full(lengths.sum(), 3, np.uint16),
            np.concatenate([[0], np.cumsum(lengths)]),
        )
    return TokenPairs(ids, offsets)


def section(**changes: object) -> Distill:
    bank = {"queries_per_step": QUERIES, "layers_per_step": 3}
    fields = {
        "base": "x",
        "objective": {"cross_attention": 1.0, "position": 1.0},
        "query_bank": bank,
    }
    return Distill.model_validate(
        fields | {"steps": 3, "batch_size": 24, "learning_rate": 1e-3} | changes
    )


def a_loss(settings: Distill) -> tuple[Loss, AttentionCost]:
    """Two cross-attention layers of one size, of which three are drawn, and their shapes."""
    variances = dict(zip(SDXL.parts, map(torch.ones, WIDTHS), strict=True))
    statistics = Statistics(variances, torch.ones(40))
    width, states = 64, sum(WIDTHS)
    layers = [
        CrossAttentionLayer(
            f"base.{i}",
            SDXL.readers["base"],
            torch.randn(20, HEADS, width // HEADS),
            *torch.randn(2, width, states),
            torch.ones(()),
            1 / 2,
        )
        for i in range(2)
    ]
    return Loss(settings, statistics, layers, []), AttentionCost(
        3, QUERIES, width, width * states, 0
    )


def forward(
    maker: Batches, part: np.ndarray, length: int, both: tuple[Towers, Towers], measured: Loss
) -> torch.Tensor:
    """The loss of a micro-batch, as distill/train/training.py computes it."""
    student, teacher = both
    batch = maker.gather(part, length)
    with torch.no_grad():
        wanted = teacher(batch.teacher)
    counts = GlobalCounts.of(maker.teacher_eos(part), POSITIONS)
    sides = batch.sides(student(batch.student), wanted)
    return measured.terms(sides, counts, step=0)["loss/total"]


@pytest.mark.parametrize(
    ("cut_attention", "states"),
    [(True, "penultimate"), (False, "penultimate"), (True, "final")],
)
def test_the_flop_of_a_run_of_mixed_lengths_are_what_the_flop_counter_sees(
    cut_attention: bool, states: States
) -> None:
    """Every micro-batch of every process of every step, forward and backward, in towers and
    objective: within 1 %.
    """
    from torch.utils.flop_counter import FlopCounterMode

    share = {"start": 0.1, "end": 0.6}
    settings = section(
        full_length_share=share,
        tokens_per_micro_batch=200,
        english_share=0.2,
        cut_attention=cut_attention,
    )
    both = towers(0, states), towers(1, states)
    found, (measured, reading) = token_pairs(50), a_loss(settings)
    load = estimate.real_load(settings, found, shapes_of(both[0]), [reading], gpus=2)
    maker = Batches(settings, found, dict.fromkeys(sides_of(SDXL), SpecialIds(58, 59, 1)))
    counted, pairs = 0, 0
    for step in range(settings.steps):
        for process in range(2):
            for part, length in maker.micro_batches(
                maker.rows(step), process, 2, settings.tokens_per_micro_batch
            ):
                with (
                    FlopCounterMode(display=False) as counter,
                    sdpa_kernel(SDPBackend.MATH),
                ):  # the fused kernels hide their products
                    forward(maker, part, length, both, measured).backward()
                counted, pairs = counted + counter.get_total_flops(), pairs + len(part)
    assert counted / pairs == pytest.approx(load.towers + load.objective, rel=0.01)
    assert (
        load.sampled == 3
        and 0.2 < load.words < 0.7
        and 0.2 < load.pads < 0.7
        and 0.8 < load.words + load.pads < 1
    )
    assert (
        load.towers < 0.8 * cost.flop_per_pair(shapes_of(both[0]), POSITIONS)
        and 1 <= load.slowest < 1.2
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("length", [18, POSITIONS])
@pytest.mark.parametrize("states", ["penultimate", "final"])
def test_what_autograd_keeps_is_what_the_hooks_see(
    precision: str, length: int, states: States
) -> None:
    """Distinct storages saved by a micro-batch's forward and loss, the weights' own left out:
    within 5 %.
    """
    settings = section(
        precision=precision, empty_prompt_share=0.0, full_length_share=float(length == POSITIONS)
    )
    (measured, reading), found = a_loss(settings), token_pairs(50)
    both = tuple(
        pair.bfloat16() if precision == "bf16" else pair
        for pair in (towers(0, states), towers(1, states))
    )
    maker = Batches(settings, found, dict.fromkeys(sides_of(SDXL), SpecialIds(58, 59, 1)))
    part = maker.rows(0)
    part = part[maker.lengths(part) <= length]
    weights = {tensor.untyped_storage().data_ptr() for pair in both for tensor in pair.parameters()}
    weights |= {
        tensor.untyped_storage().data_ptr()
        for layer in measured.layers
        for tensor in (layer.to_k_ED, layer.to_v_ED, layer.queries_NHK)
    }
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward(maker, part, length, both, measured)
    found_bytes = sum(count for place, count in kept.items() if place not in weights)
    assert found_bytes == pytest.approx(
        estimate.kept_bytes((len(part), length), shapes_of(both[0]), [reading], precision), rel=0.05
    )


DEEPSPEED = """
import gc, json, sys
from pathlib import Path
import torch
from configs.schema.distill import Distill
from distill.parallel import engine
from distill.checkpoints.checkpoint import Checkpoints

def held():
    gc.collect()
    storages = {}
    for found in gc.get_objects():
        if isinstance(found, torch.Tensor):
            for one in (found, found.grad if found.is_leaf else None):
                if one is not None:
                    storages[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
    return sum(storages.values())

engine.start()
fields = {"base": "x", "objective": {"position": 1.0}}
fields |= {"steps": 200, "batch_size": 8, "learning_rate": 1e-3}
model = torch.nn.Sequential(*(torch.nn.Linear(256, 256, bias=False) for _ in range(40)))
one = engine.Engine(model, Distill.model_validate(fields | json.loads(sys.argv[1])))
for _ in range(2):
    states = []
    for last in (False, True):
        one.micro_batch(last)
        one.backward(one(torch.ones(2, 256, dtype=model[0].weight.dtype)).float().square().mean())
        states.append(held())
    one.step(1e-3)
Checkpoints(Path(sys.argv[2]), 1).save(one, 2)
engine.stop()
numbers = sum(parameter.numel() for parameter in model.parameters())
print(json.dumps({"numbers": numbers, "states": states}))
"""


def settings_with(**changes: object) -> Distill:
    fields = {
        "base": "x",
        "objective": {"position": 1.0},
        "steps": 200,
        "batch_size": 8,
        "learning_rate": 1e-3,
    }
    return Distill.model_validate(fields | changes)


@pytest.mark.parametrize(
    "changes",
    [{"precision": "fp32"}, {"precision": "bf16"}, {"precision": "bf16", "ema_decay": 0.9}],
)
def test_state_and_checkpoints_are_what_deepspeed_holds_and_writes(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    """After the backwards of a second step: within 2 %, as the files of a checkpoint are."""
    settings = settings_with(**changes)
    command = [sys.executable, "-c", DEEPSPEED, json.dumps(changes), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    # held between micro-batches, let go after the last backward
    bucket = cost.bucket_bytes(found["numbers"], settings, 1)
    between, after = found["states"]
    assert after == pytest.approx(
        cost.state_bytes(found["numbers"], 0, settings, 1) - bucket, rel=0.02
    )
    assert between - after == pytest.approx(bucket, abs=0.02 * (bucket + after))
    written = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert written == pytest.approx(
        cost.checkpoint_bytes(found["numbers"], found["numbers"], settings), rel=0.02
    )


def test_the_objective_at_full_size_costs_what_the_flop_counter_sees() -> None:
    """SDXL's layers as shapes without numbers (meta tensors) through the very loss: 3 to 5 % of the
    towers' FLOP; a bank below 1 GB.
    """
    from torch.utils.flop_counter import FlopCounterMode

    recipe = load_recipe(ROOT / "configs" / "sdxl_jp.yaml")
    settings, bank = recipe.distill, recipe.distill.query_bank
    unets = shapes.read_unets(settings)
    assert cost.bank_bytes(unets, bank) < 1e9
    batch, published = 2, published_towers()
    with torch.device("meta"):
        student, teacher = (
            Encoding(
                {
                    name: torch.randn(batch, 77, tower.width)
                    for name, tower in zip(SDXL.parts, published, strict=True)
                },
                torch.randn(batch, 1280),
            )
            for _ in range(2)
        )
        for states in student.states.values():
            states.requires_grad_()
        per_layer = []
        for name, unet in unets.items():
            for width in cost.cross_attention_widths(unet):
                to_k_ED, to_v_ED = torch.randn(2, width, unet["cross_attention_dim"])
                queries_NHK = torch.randn(bank.queries_per_layer, width // 64, 64)
                layer = CrossAttentionLayer(
                    name, SDXL.readers[name], queries_NHK, to_k_ED, to_v_ED, torch.ones(()), 1.0
                )
                chosen_N = torch.zeros(bank.queries_per_step, dtype=torch.long)
                with (
                    FlopCounterMode(display=False) as counter,
                    sdpa_kernel(SDPBackend.MATH),
                ):  # the fused kernels hide their products
                    with torch.no_grad():
                        wanted_BHNK = layer.output(teacher, chosen_N)
                    distances.attention_errors(
                        layer.output(student, chosen_N), wanted_BHNK, layer.variance
                    ).sum().backward()
                per_layer.append((name, counter.get_total_flops() / batch))
    mean = {
        name: sum(flop for of, flop in per_layer if of == name)
        / sum(of == name for of, _ in per_layer)
        for name in unets
    }
    counted = bank.layers_per_step * (
        (1 - bank.refiner_share) * mean["base"] + bank.refiner_share * mean["refiner"]
    )
    assert counted == pytest.approx(AttentionCost.of_unets(unets, bank, 4).flop(77), rel=0.01)
    assert 0.03 < counted / cost.flop_per_pair(published, 77) < 0.05


@pytest.mark.parametrize("folder", ["base", "refiner"])
def test_cross_attention_layers_agree_with_the_unet(tiny_sdxl: Path, folder: str) -> None:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(tiny_sdxl / folder, subfolder="unet")
    widths = [
        module.to_k.out_features for name, module in unet.named_modules() if name.endswith("attn2")
    ]
    assert sorted(
        cost.cross_attention_widths(shapes.read_config(str(tiny_sdxl / folder), "unet"))
    ) == sorted(widths)


def test_zero_shares_the_optimizer_only() -> None:
    assert cost.state_bytes(100, 10, settings_with(precision="bf16"), 1) == 100 * 18 + 10 * 2
    assert cost.state_bytes(100, 10, settings_with(precision="bf16"), 4) == 100 * 9 + 10 * 2
    assert (
        cost.state_bytes(100, 10, settings_with(precision="bf16", ema_decay=0.9), 4)
        == 100 * 10 + 10 * 2
    )
    assert cost.state_bytes(100, 10, settings_with(precision="fp32"), 2) == 100 * 14 + 10 * 4 + 800


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = (
        "import sys; from distill.plan.__main__ import main; code = main(sys.argv[1:]); "
        "print('torch' "
        "in sys.modules); raise SystemExit(code)"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_reference_recipe_plans_without_torch_or_network() -> None:
    position = ("distill.objective.cross_attention=0", "distill.objective.position=1")
    done = run(
        "configs/sdxl_jp.yaml", "--gpus", "1", "--utilisation", "0.5", *position, "run=runs/none"
    )
    assert done.returncode == 0 and not done.stderr
    assert (
        "430.1 GFLOP a pair, 89 % of it clip_bigg" in done.stdout
        and "1.78e+19 in all" in done.stdout
    )
    assert (
        "runs/none/tokens is missing" in done.stdout
        and "python -m distill.tokens with this recipe" in done.stdout
    )
    assert (
        "vocabulary 51,200" in done.stdout
        and "clip_l 124,436,736 + clip_bigg 696,953,600" in done.stdout
    )
    assert re.search(
        r"6\.3 h, 6\.26 GPU-hours at 790 .*\n *12\.5 h, 12\.5 GPU-hours at 50 % of that, an "
        r"assumption",
        done.stdout,
    )
    assert done.stdout.endswith("False\n"), "planning must not import torch"


def test_more_gpus_cost_less_time_and_memory_each() -> None:
    recipe = load_recipe(ROOT / "configs" / "sdxl_jp.yaml", ["run=runs/none"])
    one, eight = ("\n".join(estimate.report(recipe, gpus, 790.0, 0.5)) for gpus in (1, 8))
    assert "16.3 GB of state" in one and "7.8 GB of state" in eight
    assert "6.5 h, 6.5 GPU-hours at 790" in one and "48.7 min, 6.5 GPU-hours at 790" in eight
    with pytest.raises(
        RecipeError, match="batch_size: 2048 a step cannot be shared by 7 processes"
    ):
        estimate.report(recipe, 7, 790.0, 0.5)


def tiny_recipe(tiny_sdxl: Path, run_dir: Path, *overrides: str) -> Recipe:
    models = [f"distill.base={tiny_sdxl}/base", f"distill.refiner={tiny_sdxl}/refiner"]
    return load_recipe(ROOT / "configs" / "toyworld.yaml", [f"run={run_dir}", *models, *overrides])


def test_the_initial_student_tells_its_vocabulary(tiny_sdxl: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = tmp_path / "initial_student"
    folder.mkdir()
    save_file(
        {"clip_l": torch.zeros(321, 16), "clip_bigg": torch.zeros(321, 24)},
        folder / "token_embeddings.safetensors",
    )
    recipe = tiny_recipe(tiny_sdxl, tmp_path)
    assert shapes.student_vocabulary(recipe) == (321, str(folder / "token_embeddings.safetensors"))
    assert re.search(
        r"student .* vocabulary 321", "\n".join(estimate.report(recipe, 1, 790.0, 0.5))
    )


def test_tokens_that_are_there_are_counted(tiny_sdxl: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(
        tiny_sdxl,
        tmp_path,
        "distill.full_length_share=0.25",
        "distill.tokens_per_micro_batch=400",
        "distill.steps=400",
        "distill.composed_share=0",
    )
    write_pairs(
        tmp_path / "pairs",
        [(caption.text, caption.en[:40]) for caption in captions.pairs(60, "train", 0)],
        "train",
    )
    write_initial_student(tiny_sdxl / "base", tmp_path / "initial_student")
    assert "tokens is missing or another recipe's" in "\n".join(
        estimate.report(recipe, 2, 790.0, 0.5)
    )
    found = store.prepare(recipe, SDXL)
    text = "\n".join(estimate.report(recipe, 2, 790.0, 0.5))
    assert "213 times the 60 of" in text and "counted over 64 of 400 steps" in text
    written = sum(path.stat().st_size for path in (tmp_path / "tokens").iterdir())
    assert f"{written / 1e3:.1f} kB of tokens, which are there" in text
    means = {side: float(found.lengths(side, np.arange(60)).mean()) for side in sides_of(SDXL)}
    headers = (
        9 * 128 + 8 * 4 + (tmp_path / "tokens" / "manifest.json").stat().st_size
    )  # and each side's first offset
    assert cost.token_bytes(60, means, dict.fromkeys(sides_of(SDXL), 514)) == pytest.approx(
        written - headers, abs=1
    )
    (tmp_path / "pairs" / "manifest.json").write_text(
        "{}"
    )  # other pairs: these tokens are no longer theirs
    assert "tokens is missing or another recipe's" in "\n".join(
        estimate.report(recipe, 2, 790.0, 0.5)
    )


@pytest.mark.parametrize(
    "own_ends", [{}, {"bos_id": -1, "eos_id": -1}], ids=["own BOS and EOS", "none"]
)
def test_a_tokenizer_tells_the_vocabulary_that_vocab_init_builds(
    tiny_sdxl: Path, tmp_path: Path, own_ends: dict[str, int]
) -> None:
    from sentencepiece import SentencePieceTrainer

    from distill.tokenizer import portable

    path = tmp_path / "spiece.model"
    with open(path, "wb") as file:
        sentences = iter(["赤い丸の左に青い四角", "緑の三角の右に赤い四角", "青い丸があります"])
        SentencePieceTrainer.train(
            sentence_iterator=sentences,
            model_writer=file,
            vocab_size=50,
            hard_vocab_limit=False,
            model_type="unigram",
            minloglevel=2,
            **own_ends,
        )
    for multiple in (1, 64):
        overrides = [
            f"vocab_init.tokenizer={path}",
            f"vocab_init.pad_vocab_to_multiple_of={multiple}",
        ]
        built = portable.build(path, tmp_path / f"tokenizer_{multiple}", multiple)
        assert shapes.student_vocabulary(tiny_recipe(tiny_sdxl, tmp_path, *overrides))[0] == len(
            built
        )


def test_what_is_missing_or_damaged_is_said(tiny_sdxl: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such folder; give an SDXL or SD folder"):
        shapes.read_config("toyworld:nowhere", "text_encoder")
    with pytest.raises(
        DataError,
        match=r"no text_encoder/config\.json in the hub's cache; fetch it: hf download "
        r"someone/else",
    ):
        shapes.read_config("someone/else", "text_encoder")
    copy = tmp_path / "base"
    shutil.copytree(tiny_sdxl / "base", copy)
    tokenizer = tmp_path / "spiece.model"
    tokenizer.write_bytes(b"not a model")
    recipe = tiny_recipe(
        tiny_sdxl, tmp_path, f"distill.base={copy}", f"vocab_init.tokenizer={tokenizer}"
    )
    with pytest.raises(DataError, match="no SentencePiece model"):
        shapes.student_vocabulary(recipe)
    tokenizer.unlink()
    with pytest.raises(DataError, match="there is no such tokenizer, so the vocabulary is unknown"):
        shapes.student_vocabulary(recipe)
    config = json.loads((copy / "text_encoder" / "config.json").read_text())
    del config["intermediate_size"]
    (copy / "text_encoder" / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=r"a config.json lacks 'intermediate_size'"):
        estimate.report(recipe, 1, 790.0, 0.5)
    (copy / "text_encoder" / "config.json").write_text("{")
    with pytest.raises(DataError, match="no valid JSON"):
        estimate.report(recipe, 1, 790.0, 0.5)
