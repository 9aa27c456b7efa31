"""Trains UNets that no student was trained with, to test whether it serves them too: another style,
a LoRA, another seed.

    python -m corpora.miniature.train_other_unets --out runs/other_unets

In:  the miniature (`models/base`).
Out: `style/`, `lora/` and `seed/` below `--out`, each the base folder in diffusers layout with
     another UNet (all else is hard-linked): fine-tuned on shaded pictures; with a fused LoRA of
     rank 4, trained on soft ones; trained from scratch with another seed. Unfinished models are
     kept beside them: after a kill the same command continues and skips finished ones.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from configs.files import link, whole_folder
from configs.references import TOYWORLD_MODELS
from corpora.miniature import miniature, train_vae
from corpora.miniature.caption_reader import load_reader
from corpora.miniature.design import OF_TOYWORLD
from corpora.miniature.fit import TrainingStage, fit
from corpora.miniature.train_unets import condition_of, loss_of
from corpora.toyworld import renderer
from corpora.toyworld.renderer import Style
from corpora.worlds import TOYWORLD, World

NAMES = ("style", "lora", "seed")
RANK = 4


def train(name: str, out: Path) -> None:
    import torch
    from diffusers import UNet2DConditionModel

    makers: dict[str, Callable[..., UNet2DConditionModel]] = {
        "style": fine_tuned,
        "lora": with_lora,
        "seed": from_another_seed,
    }
    base, work = TOYWORLD_MODELS / "base", out / "work"
    work.mkdir(parents=True, exist_ok=True)
    vae = train_vae.load(base / "vae")
    torch.manual_seed(0)
    start = UNet2DConditionModel.from_pretrained(
        base / "unet", trust_remote_code=False, use_safetensors=True
    )
    unet = makers[name](start, vae, load_reader(base), work)
    write_folder(out / name, unet)


def fine_tuned(unet: Any, vae: Any, reader: Any, work: Path) -> Any:
    """Trains all weights on the shaded style."""
    fit(
        TrainingStage("style", 500, 5e-4, ema=0.98),
        unet,
        loss_of("base", "style", unet, vae, condition_of("base", reader), _in_style("shaded")),
        work,
    )
    return unet


def with_lora(unet: Any, vae: Any, reader: Any, work: Path) -> Any:
    """Trains low-rank changes of the attention on the soft style, then adds them to the weights."""
    from peft import LoraConfig

    unet.requires_grad_(False)
    unet.add_adapter(
        LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    )
    fit(
        TrainingStage("lora", 500, 2e-3, ema=0.98),
        unet,
        loss_of("base", "lora", unet, vae, condition_of("base", reader), _in_style("soft")),
        work,
    )
    unet.fuse_lora()
    unet.unload_lora()
    return unet


def from_another_seed(_unet: Any, vae: Any, reader: Any, work: Path) -> Any:
    """Trained as the miniature's own, from other random weights and on other scenes."""
    import torch

    torch.manual_seed(1)
    unet = miniature.unet("base", OF_TOYWORLD.unet_widths["base"], OF_TOYWORLD.text_widths)
    unet = unet.to(memory_format=torch.channels_last)
    own = OF_TOYWORLD.stages["base"]
    fit(
        TrainingStage("seed", own.steps, own.learning_rate, own.ema),
        unet,
        loss_of("base", "seed", unet, vae, condition_of("base", reader)),
        work,
    )
    return unet


def _in_style(style: Style) -> World:
    return replace(TOYWORLD, render=partial(renderer.render, style=style))


def write_folder(folder: Path, unet: Any) -> None:
    """The miniature's base with this UNet, whole or not at all."""
    base = TOYWORLD_MODELS / "base"
    with whole_folder(folder) as partial:
        for path in sorted(base.rglob("*")):
            if path.is_file() and path.relative_to(base).parts[0] != "unet":
                target = partial / path.relative_to(base)
                target.parent.mkdir(parents=True, exist_ok=True)
                link(path, target)
        unet.save_pretrained(partial / "unet")


def main(argv: list[str] | None = None) -> int:
    description = "Trains the toyworld UNets that transfer is measured on."
    parser = argparse.ArgumentParser(
        prog="python -m corpora.miniature.train_other_unets",
        description=description,
        allow_abbrev=False,
    )
    parser.add_argument("--out", type=Path, default=Path("runs/other_unets"))
    parser.add_argument(
        "--only", choices=NAMES, action="append", help="leave the others out; may be repeated"
    )
    arguments = parser.parse_args(argv)
    for name in arguments.only or NAMES:
        if (arguments.out / name).is_dir():
            print(f"{arguments.out / name} is already there")
        else:
            train(name, arguments.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
