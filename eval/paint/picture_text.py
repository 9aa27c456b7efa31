"""What a picture was made with, inside its PNG: for people, for other programs, and for making it
again.

In:  the settings of a picture, as a mapping that JSON can hold.
Out: two iTXt chunks: `parameters`, the text that AUTOMATIC1111's web UI and what grew around it
     read, and `json`, everything.
"""

import json
import re
from pathlib import Path
from typing import Any

from PIL import Image

from configs.errors import DataError

# What starts a part of the format: other programs look for these at the beginning of any line.
FORGING = re.compile(r"^(\s*(?:negative prompt|steps))\s*:", re.I)
PARAMETERS, JSON = "parameters", "json"


def texts(made_with: dict[str, Any]) -> dict[str, str]:
    """The chunks of one picture."""
    return {PARAMETERS: parameters(made_with), JSON: json.dumps(made_with, ensure_ascii=False)}


def parameters(made_with: dict[str, Any]) -> str:
    """The prompt; then, where there is one, the negative prompt; then one line of `Name: value`
    pairs.

    No `Version`: by it the web UI would take the picture for one of its own releases' and
    reinterpret the prompt.

    A line of a prompt that a reader would take for the negative prompt's or for the settings gets a
    space before its colon, which CLIP reads alike; `json` keeps the prompt as it was given.
    """
    fields = {
        "Steps": made_with["steps"],
        "Sampler": made_with["sampler"],
        "CFG scale": made_with["guidance_scale"],
        "Seed": made_with["seed"],
        "Size": f"{made_with['width']}x{made_with['height']}",
        "Model": Path(made_with["repository"]).name,
        "Text encoders": Path(made_with.get("text_encoders") or "").name,
        "Denoising strength": made_with["strength"],
        "Refiner": Path(made_with["refiner"]).name if made_with["refiner"] else None,
        "Refiner switch at": made_with["denoising_end"],
    }
    lines = [_prompt(made_with["prompt"])]
    if made_with["negative_prompt"]:
        lines.append(f"Negative prompt: {_prompt(made_with['negative_prompt'])}")
    lines.append(
        ", ".join(
            f"{name}: {_quoted(value)}" for name, value in fields.items() if value not in (None, "")
        )
    )
    return "\n".join(lines)


def read(path: Path) -> tuple[str, dict[str, Any]]:
    """`parameters` and everything, of a picture that `eval.paint` made. Raises DataError."""
    try:
        with Image.open(path) as picture:
            picture.load()  # chunks may stand behind the pixels
            found = dict(picture.info)
        made_with = json.loads(found[JSON])
        if not isinstance(made_with, dict):
            raise ValueError(f"{JSON} holds no object")
        return str(found[PARAMETERS]), made_with
    except KeyError:
        raise DataError(
            f"{path}: holds no settings; only pictures of eval.paint do, and only while no program "
            "has saved them again"
        ) from None
    except (
        OSError,
        SyntaxError,
        ValueError,
        RecursionError,
        Image.DecompressionBombError,
    ) as error:  # SyntaxError: a damaged PNG
        raise DataError(
            f"{path}: cannot be read as a picture with settings ({error}); give a PNG that "
            "eval.paint made"
        ) from None


def _prompt(text: str) -> str:
    """Line breaks as line feeds, no other control character, no line that starts as the
    format's.
    """
    lines = re.split("\r\n|[\r\n\x85\u2028\u2029]", text)
    plain = (re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", line) for line in lines)
    return "\n".join(FORGING.sub(r"\1 :", line) for line in plain)


def _quoted(value: Any) -> str:
    """A value that holds a comma, a colon or a line break would read as several."""
    text = str(value)
    return (
        json.dumps(text, ensure_ascii=False)
        if set(text) & set(',:"\\') or not text.isprintable()
        else text
    )
