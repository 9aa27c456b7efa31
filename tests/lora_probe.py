"""What one stack's unmodified pipeline gives with a LoRA. Run by the Python of each environment: it
imports nothing of this project.

python tests/lora_probe.py BASE ENCODERS LORA_FILE PROMPTS.json OUT.safetensors
"""

import json
import sys
from pathlib import Path

import diffusers
import torch
import transformers
from safetensors.torch import save_file


def with_encoders(base: Path, encoders: Path):
    """The base with other text encoders and tokenizers; its own are not read."""
    index = json.loads((base / "model_index.json").read_text())
    modules = {}
    for name in (one for one in index if one.startswith("text_encoder")):
        tokenizer = name.replace("text_encoder", "tokenizer")
        kind = getattr(transformers, index[name][1])
        modules[name] = kind.from_pretrained(encoders / name)
        modules[tokenizer] = transformers.PreTrainedTokenizerFast.from_pretrained(
            encoders / tokenizer
        )
    kind = getattr(diffusers, index["_class_name"])
    pipeline = kind.from_pretrained(base, **dict.fromkeys(modules))
    pipeline.register_modules(**modules)
    return pipeline


def noise_of(unet, states_BLD: torch.Tensor, pooled_BP: torch.Tensor | None) -> torch.Tensor:
    """The prediction for latents that are always the same."""
    latents = torch.randn(len(states_BLD), 4, 16, 16, generator=torch.Generator().manual_seed(5))
    added = None
    if pooled_BP is not None:
        time_ids = torch.tensor([[32.0, 32.0, 0.0, 0.0, 32.0, 32.0]] * len(states_BLD))
        added = {"text_embeds": pooled_BP, "time_ids": time_ids}
    with torch.no_grad():
        return unet(latents, 500, encoder_hidden_states=states_BLD, added_cond_kwargs=added).sample


def read(pipeline, prompts: list[str]) -> dict[str, torch.Tensor]:
    """States, noise and (SDXL) the pooled state."""
    with torch.no_grad():
        found = pipeline.encode_prompt(
            prompts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )
    pooled_BP = found[2] if len(found) == 4 else None
    noise = noise_of(pipeline.unet.float(), found[0], pooled_BP)
    return {"states": found[0], "noise": noise} | (
        {} if pooled_BP is None else {"pooled": pooled_BP}
    )


def main() -> None:
    base, encoders, lora, prompts, out = map(Path, sys.argv[1:])
    pipeline = with_encoders(base, encoders)
    pipeline.load_lora_weights(str(lora.parent), weight_name=lora.name)
    save_file(read(pipeline, json.loads(prompts.read_text(encoding="utf-8"))), out)


if __name__ == "__main__":
    main()
