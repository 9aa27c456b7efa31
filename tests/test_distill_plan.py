"""The plan's arithmetic against the reference's published sizes, against real modules, and against torch's own FLOP counter."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from configs import schema
from configs.command import DataError
from distill import objectives, plan
from distill.query_bank import CrossAttentionLayer
from distill.teacher import Encoding

ROOT = Path(__file__).resolve().parent.parent
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"


def published_towers() -> list[plan.Tower]:
    return [plan.Tower.of(plan.PUBLISHED[SDXL]["text_encoder"], False), plan.Tower.of(plan.PUBLISHED[SDXL]["text_encoder_2"], True)]


def test_published_sizes_and_cost_of_the_reference() -> None:
    clip_l, clip_bigg = published_towers()
    assert (clip_l.parameters(), clip_bigg.parameters()) == (123_060_480, 694_659_840)
    assert (clip_l.parameters(51_200), clip_bigg.parameters(51_200)) == (124_436_736, 696_953_600)
    assert plan.flop_per_pair([clip_l, clip_bigg]) / 1e9 == pytest.approx(444.6, abs=0.1)
    assert clip_bigg.forward_flop() / (clip_l.forward_flop() + clip_bigg.forward_flop()) == pytest.approx(0.88, abs=0.005)
    widths = plan.cross_attention_widths(plan.PUBLISHED[SDXL]["unet"])
    assert len(widths) == 70 and widths.count(1280) == 60 and widths.count(640) == 10
    refiner = plan.cross_attention_widths(plan.PUBLISHED[SDXL.replace("base", "refiner")]["unet"])
    assert len(refiner) == 44 and refiner.count(1536) == 24 and refiner.count(768) == 20
    assert plan.state_bytes(124_436_736 + 696_953_600, 123_060_480 + 694_659_840, "bf16", 1) < 15e9


@pytest.mark.parametrize(("subfolder", "projected"), [("text_encoder", False), ("text_encoder_2", True)])
def test_a_tower_agrees_with_the_module_and_the_flop_counter(tiny_sdxl: Path, subfolder: str, projected: bool) -> None:
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    kind = CLIPTextModelWithProjection if projected else CLIPTextModel
    model = kind.from_pretrained(tiny_sdxl / "base" / subfolder, attn_implementation="eager")  # the counter sees every product
    tower = plan.Tower.of(plan.read_config(str(tiny_sdxl / "base"), subfolder), projected)
    assert tower.parameters() == sum(parameter.numel() for parameter in model.parameters())

    ids = torch.randint(0, tower.vocabulary, (1, tower.positions))
    with FlopCounterMode(display=False) as counter:
        output = model(ids)
        forward = counter.get_total_flops()
        (output.text_embeds if projected else output.last_hidden_state).sum().backward()
    assert forward == tower.forward_flop()
    student = counter.get_total_flops()  # forward and backward
    assert forward + student == plan.flop_per_pair([tower])


def test_the_objective_at_full_size_costs_what_the_flop_counter_sees() -> None:
    """SDXL's layers as shapes without numbers (meta tensors) through the very loss: 3 to 5 % of the towers' FLOP; a bank below 1 GB."""
    from torch.utils.flop_counter import FlopCounterMode

    recipe = schema.load(ROOT / "configs" / "sdxl_jp.yaml")
    settings, bank = recipe.distill, recipe.distill.query_bank
    unets = plan.read_unets(settings)
    assert plan.bank_bytes(unets, bank) < 1e9
    batch, towers = 2, published_towers()
    with torch.device("meta"):
        student, teacher = (Encoding(*(torch.randn(batch, 77, tower.width) for tower in towers), torch.randn(batch, 1280)) for _ in range(2))
        for states in student:
            states.requires_grad_()
        per_layer = []
        for name, unet in unets.items():
            for width in plan.cross_attention_widths(unet):
                to_k_ED, to_v_ED = torch.randn(2, width, unet["cross_attention_dim"])
                queries_NHK = torch.randn(bank.queries_per_layer, width // 64, 64)
                layer = CrossAttentionLayer(name, name == "base", queries_NHK, to_k_ED, to_v_ED, torch.ones(()), 1.0)
                chosen_N = torch.zeros(bank.queries_per_step, dtype=torch.long)
                with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # the fused kernels hide their products
                    with torch.no_grad():
                        wanted_BHNK = layer.output(teacher, chosen_N)
                    objectives.attention_errors(layer.output(student, chosen_N), wanted_BHNK, layer.variance).sum().backward()
                per_layer.append((name, counter.get_total_flops() / batch))
    mean = {name: sum(flop for of, flop in per_layer if of == name) / sum(of == name for of, _ in per_layer) for name in unets}
    counted = bank.layers_per_step * ((1 - bank.refiner_share) * mean["base"] + bank.refiner_share * mean["refiner"])
    assert counted == pytest.approx(plan.objective_flop_per_pair(unets, bank, 77), rel=0.01)
    assert 0.03 < counted / plan.flop_per_pair(towers) < 0.05


@pytest.mark.parametrize("folder", ["base", "refiner"])
def test_cross_attention_layers_agree_with_the_unet(tiny_sdxl: Path, folder: str) -> None:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(tiny_sdxl / folder, subfolder="unet")
    widths = [module.to_k.out_features for name, module in unet.named_modules() if name.endswith("attn2")]
    assert sorted(plan.cross_attention_widths(plan.read_config(str(tiny_sdxl / folder), "unet"))) == sorted(widths)


def test_zero_shares_the_optimizer_only() -> None:
    assert plan.state_bytes(100, 10, "bf16", 1) == 100 * 16 + 10 * 2
    assert plan.state_bytes(100, 10, "bf16", 4) == 100 * 7 + 10 * 2
    assert plan.state_bytes(100, 10, "fp32", 2) == 100 * 12 + 10 * 4


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = "import sys; from distill import plan; code = plan.main(sys.argv[1:]); print('torch' in sys.modules); raise SystemExit(code)"
    return subprocess.run([sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_the_reference_recipe_plans_without_torch_or_network() -> None:
    position = ("distill.objective.cross_attention=0", "distill.objective.position=1")
    done = run("configs/sdxl_jp.yaml", "--gpus", "1", "--utilisation", "0.5", *position, "run=runs/none")
    assert done.returncode == 0 and not done.stderr
    assert "444.6 GFLOP a pair at 77 positions, 1.84e+19 in all; clip_bigg 88 %" in done.stdout
    assert "vocabulary 51,200" in done.stdout and "clip_l 124,436,736 + clip_bigg 696,953,600" in done.stdout
    assert "6.5 h at 790 TFLOP/s a GPU, the floor; 12.9 h at 50 % of it" in done.stdout and "14.8 GB of state" in done.stdout
    assert done.stdout.endswith("False\n"), "planning must not import torch"


def test_more_gpus_cost_less_time_and_memory_each() -> None:
    recipe = schema.load(ROOT / "configs" / "sdxl_jp.yaml", ["run=runs/none"])
    assert "50.3 min at 790" in "\n".join(plan.report(recipe, 8, 790.0, 0.5))
    assert "6.2 GB of state a GPU" in "\n".join(plan.report(recipe, 8, 790.0, 0.5))


def tiny_recipe(tiny_sdxl: Path, run_dir: Path, *overrides: str) -> schema.Recipe:
    models = [f"distill.base={tiny_sdxl}/base", f"distill.refiner={tiny_sdxl}/refiner"]
    return schema.load(ROOT / "configs" / "toyworld.yaml", [f"run={run_dir}", *models, *overrides])


def test_the_initial_student_tells_its_vocabulary(tiny_sdxl: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = tmp_path / "initial_student"
    folder.mkdir()
    save_file({"clip_l": torch.zeros(321, 16), "clip_bigg": torch.zeros(321, 24)}, folder / "token_embeddings.safetensors")
    recipe = tiny_recipe(tiny_sdxl, tmp_path)
    assert plan.student_vocabulary(recipe) == (321, str(folder / "token_embeddings.safetensors"))
    assert re.search(r"student .* vocabulary 321", "\n".join(plan.report(recipe, 1, 790.0, 0.5)))


@pytest.mark.parametrize("own_ends", [{}, {"bos_id": -1, "eos_id": -1}], ids=["own BOS and EOS", "none"])
def test_a_tokenizer_tells_the_vocabulary_that_vocab_init_builds(tiny_sdxl: Path, tmp_path: Path, own_ends: dict[str, int]) -> None:
    from sentencepiece import SentencePieceTrainer

    from distill import tokenizers

    path = tmp_path / "spiece.model"
    with open(path, "wb") as file:
        sentences = iter(["赤い丸の左に青い四角", "緑の三角の右に赤い四角", "青い丸があります"])
        SentencePieceTrainer.train(
            sentence_iterator=sentences, model_writer=file, vocab_size=50, hard_vocab_limit=False, model_type="unigram", minloglevel=2, **own_ends
        )
    for multiple in (1, 64):
        overrides = [f"vocab_init.tokenizer={path}", f"vocab_init.pad_vocab_to_multiple_of={multiple}"]
        built = tokenizers.build(path, tmp_path / f"tokenizer_{multiple}", multiple)
        assert plan.student_vocabulary(tiny_recipe(tiny_sdxl, tmp_path, *overrides))[0] == len(built)


def test_what_is_missing_or_damaged_is_said(tiny_sdxl: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such folder; give an SDXL folder"):
        plan.read_config("toyworld:nowhere", "text_encoder")
    with pytest.raises(DataError, match=r"no text_encoder/config\.json in the hub's cache; fetch it: hf download someone/else"):
        plan.read_config("someone/else", "text_encoder")
    copy = tmp_path / "base"
    shutil.copytree(tiny_sdxl / "base", copy)
    tokenizer = tmp_path / "spiece.model"
    tokenizer.write_bytes(b"not a model")
    recipe = tiny_recipe(tiny_sdxl, tmp_path, f"distill.base={copy}", f"vocab_init.tokenizer={tokenizer}")
    with pytest.raises(DataError, match="no SentencePiece model"):
        plan.student_vocabulary(recipe)
    tokenizer.unlink()
    with pytest.raises(DataError, match="there is no such tokenizer, so the vocabulary is unknown"):
        plan.student_vocabulary(recipe)
    config = json.loads((copy / "text_encoder" / "config.json").read_text())
    del config["intermediate_size"]
    (copy / "text_encoder" / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=r"a config.json lacks 'intermediate_size'"):
        plan.report(recipe, 1, 790.0, 0.5)
    (copy / "text_encoder" / "config.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        plan.report(recipe, 1, 790.0, 0.5)
