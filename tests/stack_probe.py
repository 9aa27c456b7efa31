"""What one stack's unmodified pipelines give for an export. Run by the Python of each environment:
it imports nothing of this project.

python tests/stack_probe.py EXPORT PROMPTS.json LORA OUT.safetensors
python tests/stack_probe.py SD_PIPELINE PROMPTS.json OUT.safetensors
"""

import json
import sys
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers.utils import logging
from safetensors.torch import save_file

PIPELINES = {
    "StableDiffusionXLPipeline": "base",
    "StableDiffusionXLImg2ImgPipeline": "base",
    "StableDiffusionXLInpaintPipeline": "base",
    "AutoPipelineForText2Image": "base",
    "AutoPipelineForImage2Image": "base",
    "AutoPipelineForInpainting": "base",
    "StableDiffusionXLImg2ImgPipeline of the refiner": "refiner",
}


def encode(pipeline, prompt: str, **options) -> torch.Tensor:
    """Everything `encode_prompt` gives for one prompt, flattened: states and pooled, positive and
    negative.
    """
    with torch.no_grad():
        parts = pipeline.encode_prompt(
            prompt,
            device="cpu",
            num_images_per_prompt=1,
            do_classifier_free_guidance=True,
            **options,
        )
    return torch.cat([part.flatten() for part in parts])


def read_prompts(export: Path, prompts: list[str]) -> dict[str, torch.Tensor]:
    """By pipeline, each with every prompt: with `prompt_2`, an empty negative prompt, none, and
    `clip_skip`.
    """
    found = {}
    for name, folder in PIPELINES.items():
        pipeline = getattr(diffusers, name.partition(" ")[0]).from_pretrained(export / folder)
        found[name] = torch.stack(
            [encode(pipeline, prompt, negative_prompt="") for prompt in prompts]
        )
        if folder == "base":
            found[f"{name}, prompt_2"] = encode(
                pipeline,
                prompts[0],
                prompt_2=prompts[1],
                negative_prompt=prompts[2],
                negative_prompt_2=prompts[3],
            )
        found[f"{name}, clip_skip"] = encode(pipeline, prompts[0], clip_skip=1, negative_prompt="")
        found[f"{name}, no negative prompt"] = encode(pipeline, prompts[1])
    return found


def learn_a_word(export: Path, prompt: str) -> dict[str, torch.Tensor]:
    """Textual inversion of two vectors a word: `maybe_convert_prompt` must find it, and pooled must
    still be read at EOS.
    """
    pipeline = diffusers.StableDiffusionXLPipeline.from_pretrained(export / "base")
    found = {"textual inversion, before": encode(pipeline, f"{prompt}<neko>")}
    for i, (tokenizer, encoder) in enumerate(
        (
            (pipeline.tokenizer, pipeline.text_encoder),
            (pipeline.tokenizer_2, pipeline.text_encoder_2),
        )
    ):
        vectors = torch.randn(
            2, encoder.config.hidden_size, generator=torch.Generator().manual_seed(i)
        )
        pipeline.load_textual_inversion(
            {"<neko>": vectors}, token="<neko>", text_encoder=encoder, tokenizer=tokenizer
        )
        assert (
            pipeline.maybe_convert_prompt(f"{prompt}<neko>", tokenizer)
            == f"{prompt}<neko> <neko>_1"
        )
    found["textual inversion"] = encode(pipeline, f"{prompt}<neko>")
    ids = pipeline.tokenizer_2(
        pipeline.maybe_convert_prompt(f"{prompt}<neko>", pipeline.tokenizer_2), return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        out = pipeline.text_encoder_2(ids)
        at_eos = pipeline.text_encoder_2.text_projection(out.last_hidden_state[:, -1])
    torch.testing.assert_close(out.text_embeds, at_eos)
    return found


def paint(export: Path, lora: Path, prompt: str) -> dict[str, torch.Tensor]:
    """Latents of a short run, base then refiner; with a LoRA on the UNet; and through offloading
    where there is an accelerator.
    """
    base = diffusers.StableDiffusionXLPipeline.from_pretrained(export / "base")
    refiner = diffusers.StableDiffusionXLImg2ImgPipeline.from_pretrained(export / "refiner")
    if torch.cuda.is_available():
        base.enable_model_cpu_offload()
    for pipeline in (base, refiner):
        pipeline.set_progress_bar_config(disable=True)

    def latents() -> torch.Tensor:
        options = {
            "height": 32,
            "width": 32,
            "num_inference_steps": 4,
            "output_type": "latent",
            "guidance_scale": 2.0,
        }
        return base(
            prompt, denoising_end=0.5, generator=torch.Generator().manual_seed(0), **options
        ).images.cpu()

    found = {"base": latents()}
    options = {
        "num_inference_steps": 4,
        "denoising_start": 0.5,
        "generator": torch.Generator().manual_seed(0),
        "output_type": "latent",
    }
    found["refiner"] = refiner(prompt, image=found["base"], **options).images
    base.load_lora_weights(
        lora, weight_name="pytorch_lora_weights.safetensors"
    )  # 0.35 asks for the name when offline
    found["LoRA"] = latents()
    return found


def read_sd(folder: Path, prompts: list[str]) -> dict[str, torch.Tensor]:
    """States (B, L, D) of the prompts by the stock pipeline and by its encoder alone, and whether
    the safety checker flags a picture.
    """
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    ids = pipeline.tokenizer(
        prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        states, _ = pipeline.encode_prompt(prompts, "cpu", 1, False)
        last = pipeline.text_encoder(ids).last_hidden_state
    painted = pipeline(prompts[0], num_inference_steps=2)
    flagged = torch.tensor(painted.nsfw_content_detected)
    return {"states": states, "last hidden state": last, "flagged": flagged}


def main() -> None:
    export, prompts, *lora, out = map(Path, sys.argv[1:])
    logging.set_verbosity_error()
    texts = json.loads(prompts.read_text(encoding="utf-8"))
    if not lora:
        found = read_sd(export, texts)
    else:
        found = read_prompts(export, texts) | learn_a_word(export, texts[0])
        found |= paint(export, lora[0], texts[0])
    stack = {"transformers": transformers.__version__, "diffusers": diffusers.__version__}
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, out, metadata=stack)


if __name__ == "__main__":
    main()
