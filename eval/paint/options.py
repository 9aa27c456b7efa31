"""The options of `eval.paint`, in one table, and what CompVis' txt2img.py and img2img.py call them.

In:  the words of a command line, in this project's spelling or in that of the old scripts.
Out: a parser; the same words in this project's spelling.
"""

from pathlib import Path
from typing import Any

from configs import command
from configs.errors import RecipeError
from distill.prompt import STYLES
from eval.paint import request, schedulers

DESCRIPTION = (
    "Paints prompts with an SDXL or SD repository, or shows the settings inside a picture it "
    "painted."
)
EPILOG = (
    "The options of CompVis' txt2img.py and img2img.py are understood too, with underscores or "
    "hyphens (--ddim_steps, --plms, --H, ...): docs/painting.md lists them."
)

Settings = dict[str, Any]


def _flag(text: str, **more: Any) -> Settings:
    return {"action": "store_true", "help": text, **more}


def _number(kind: type, text: str, **more: Any) -> Settings:
    return {"type": kind, "help": text, **more}


# By heading: the options and what argparse is told of each.
OPTIONS: dict[str, dict[str, Settings]] = {
    "what": {
        "--prompt": {"action": "append", "default": [], "help": "what to paint; may be repeated"},
        "--from-file": {
            "type": Path,
            "metavar": "FILE",
            "help": "a UTF-8 file with one prompt a line; blank lines are skipped",
        },
        "--negative-prompt": {"help": "what to keep out of the pictures"},
        "--weights": {
            "choices": list(STYLES),
            "help": "read (word:1.3), ((word)) and BREAK as that program does, and prompts of any "
            "length (default: brackets are text, and a prompt ends at 77 tokens)",
        },
        "--init-image": {
            "type": Path,
            "metavar": "FILE",
            "help": "the picture to start from: image to image",
        },
        "--strength": _number(
            float, f"how much of it to repaint, up to 1 (default: {request.STRENGTH})"
        ),
        "--height": _number(
            int, "in pixels, a multiple of 8 (default: what the UNet was trained for)"
        ),
        "--width": _number(int, "likewise"),
    },
    "how": {
        "--steps": _number(int, "inference steps (default: 50)", default=50),
        "--guidance": _number(
            float,
            "guidance scale (default: SDXL 5; SD 7.5, with --init-image 5)",
            dest="guidance_scale",
        ),
        "--scheduler": {
            "action": "append",
            "default": [],
            "metavar": "NAME",
            "help": f"{', '.join(schedulers.SCHEDULERS)} (default: the repository's own)",
        },
        "--eta": _number(
            float, "noise that DDIM adds on the way, 0 to 1; chooses ddim (default: 0)", default=0.0
        ),
        "--precision": {
            "choices": list(request.PRECISIONS),
            "default": "autocast",
            "help": "full: fp32; autocast: fp16 on a GPU, fp32 on a CPU (default: autocast)",
        },
        "--refiner": {"metavar": "REPOSITORY", "help": "an SDXL refiner for the last steps"},
        "--denoising-end": _number(
            float,
            f"the share of the steps before the refiner's (default: {request.DENOISING_END})",
        ),
        "--C": _number(int, "latent channels; only checked", dest="latent_channels", metavar="N"),
        "--f": _number(
            int, "pixels a latent is wide; only checked", dest="pixels_per_latent", metavar="N"
        ),
    },
    "how many": {
        "--seed": _number(
            int, "of each prompt's first picture, counting on from it (default: 0)", default=0
        ),
        "--n-samples": _number(
            int, "pictures of each prompt in a batch, and in its grid (default: 1)", default=1
        ),
        "--n-iter": _number(int, "batches of each prompt (default: 1)", default=1),
        "--fixed-code": _flag("the same seeds in every batch"),
    },
    "output": {
        "--out": {
            "type": command.output_folder,
            "default": Path("outputs"),
            "metavar": "FOLDER",
            "help": "where the pictures go (default: outputs)",
        },
        "--n-rows": _number(int, "pictures in a row of the grid (default, and 0: all)"),
        "--skip-grid": _flag("write no grids"),
        "--skip-save": _flag("write grids alone"),
        "--safety-checker": {
            "metavar": "MODEL",
            "help": "blacken what this StableDiffusionSafetyChecker flags (default: the "
            "repository's own; SDXL has none)",
        },
        "--no-safety-checker": _flag("do not run the repository's own"),
        "--no-watermark": _flag(
            "without the invisible watermark, which needs the package invisible-watermark",
            action="store_false",
            dest="watermark",
        ),
        "--show": {
            "type": Path,
            "metavar": "FILE.png",
            "help": "print the settings inside a picture, and paint nothing",
        },
    },
}
# What the old scripts call them, in hyphens.
OLD = {
    "--outdir": "--out",
    "--ddim-steps": "--steps",
    "--ddim-eta": "--eta",
    "--H": "--height",
    "--W": "--width",
    "--scale": "--guidance",
    "--init-img": "--init-image",
    "--plms": "--scheduler=pndm",
    "--dpm-solver": "--scheduler=dpm++_2m",
}
FOLDER_INSTEAD = "give the model as a folder in diffusers layout, or as its hub name"
REFUSED = {
    "--laion400m": f"that model is of another kind, which is not supported; {FOLDER_INSTEAD}",
    "--config": f"a repository holds its own configuration; leave it out, and {FOLDER_INSTEAD}",
    "--ckpt": f"a checkpoint in one file is not read here; {FOLDER_INSTEAD}",
}


def parser() -> command.Parser:
    result = command.Parser("eval.paint", DESCRIPTION)
    result.epilog = EPILOG
    result.add_argument(
        "repository", nargs="?", help="a base in diffusers layout: a folder or a hub name"
    )
    for heading, options in OPTIONS.items():
        group = result.add_argument_group(heading)
        for name, settings in options.items():
            group.add_argument(name, **settings)
    return result


def in_our_spelling(words: list[str]) -> list[str]:
    """The words with the old scripts' options renamed; prompts and other values as they are.

    Raises RecipeError for an option of theirs that is not supported.
    """
    ours = {name for options in OPTIONS.values() for name in options}
    result = []
    for word in words:
        given, equals, value = word.partition("=")
        name = given.replace("_", "-") if given.startswith("--") else given
        if name in REFUSED:
            raise RecipeError(f"{given}: {REFUSED[name]}")
        result.append(OLD.get(name, name) + equals + value if name in ours | set(OLD) else word)
    return result
