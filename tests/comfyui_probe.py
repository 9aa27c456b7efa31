"""What ComfyUI's CLIP gives for an export, loaded by the node pack. Run by a Python that has what
ComfyUI needs; it imports nothing of this project but the pack.

python tests/comfyui_probe.py COMFYUI PACK EXPORT PROMPTS.json LORA EMBEDDINGS OUT.safetensors
"""

import importlib.util
import json
import sys
from pathlib import Path

COMFYUI, PACK, EXPORT, PROMPTS, LORA, EMBEDDINGS, OUT = sys.argv[1:]
sys.path.insert(0, COMFYUI)
from comfy.cli_args import args  # noqa: E402, ComfyUI is no package

args.cpu = True  # before what looks for a GPU
import comfy.sd  # noqa: E402
import comfy.utils  # noqa: E402
import folder_paths  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402


def load_pack():
    """As ComfyUI loads a folder of custom_nodes."""
    path = Path(PACK, "__init__.py")
    spec = importlib.util.spec_from_file_location("pack", path, submodule_search_locations=[PACK])
    module = importlib.util.module_from_spec(spec)
    sys.modules["pack"] = module
    spec.loader.exec_module(module)
    return module.NODE_CLASS_MAPPINGS["LoadJapaneseCLIP"]


def encode(clip, text: str, found: dict, name: str) -> None:
    cond, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
    found[f"{name}.states"], found[f"{name}.pooled"] = cond.contiguous(), pooled.contiguous()


def main() -> None:
    folder_paths.add_model_folder_path("diffusers", str(Path(EXPORT).parent))
    folder_paths.add_model_folder_path("embeddings", EMBEDDINGS)
    node, found = load_pack(), {}
    listed = node.INPUT_TYPES()["required"]["folder"][0]
    assert [f"export/{one}" for one in ("base", "encoders", "refiner")] == listed, listed
    assert node.VALIDATE_INPUTS("export/base", "base") is True
    assert "choose the part refiner" in node.VALIDATE_INPUTS("export/refiner", "base")
    prompts = json.loads(Path(PROMPTS).read_text(encoding="utf-8"))
    for part in ("base", "refiner"):
        for folder in ("encoders", part):
            (clip,) = node().load(f"export/{folder}", part, "fp32")
        for kind, texts in prompts.items():
            for number, text in enumerate(texts):
                encode(clip, text, found, f"{part}.{kind}.{number}")
    (clip,) = node().load("export/base", "base", "fp32")
    skipping = clip.clone()
    skipping.clip_layer(-3)
    encode(skipping, "赤い丸", found, "skip")
    _, changed = comfy.sd.load_lora_for_models(
        None, clip, comfy.utils.load_torch_file(LORA), 0.0, 1.0
    )
    encode(changed, "赤い丸", found, "lora")
    encode(clip, "赤い丸 (embedding:word:1.2)、青い", found, "embedding")
    (half,) = node().load("export/base", "base", "fp16")
    encode(half, "赤い丸", found, "half")
    assert {one.dtype for one in half.cond_stage_model.clip_g.transformer.parameters()} == {
        torch.float16
    }
    save_file(found, OUT)


main()
