"""What a picture was made with, inside its PNG: for people, for other programs, and for making it again.

In:  the settings of a picture, as a mapping that JSON can hold.
Out: two iTXt chunks: `parameters`, the text that AUTOMATIC1111's web UI and what grew around it read, and `json`, everything.
"""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from configs.errors import DataError

PARAMETERS, JSON = "parameters", "json"


def texts(made_with: dict[str, Any]) -> dict[str, str]:
    """The chunks of one picture."""
    return {PARAMETERS: parameters(made_with), JSON: json.dumps(made_with, ensure_ascii=False)}


def parameters(made_with: dict[str, Any]) -> str:
    """The prompt; then, where there is one, the negative prompt; then one line of `Name: value` pairs.

    No `Version`: by it the web UI would take the picture for one of its own releases' and reinterpret the prompt.
    """
    fields = {
        "Steps": made_with["steps"],
        "Sampler": made_with["sampler"],
        "CFG scale": made_with["guidance_scale"],
        "Seed": made_with["seed"],
        "Size": f"{made_with['width']}x{made_with['height']}",
        "Model": Path(made_with["repository"]).name,
        "Denoising strength": made_with["strength"],
        "Refiner": Path(made_with["refiner"]).name if made_with["refiner"] else None,
        "Refiner switch at": made_with["denoising_end"],
    }
    lines = [made_with["prompt"]]
    if made_with["negative_prompt"]:
        lines.append(f"Negative prompt: {made_with['negative_prompt']}")
    lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in fields.items() if value is not None))
    return "\n".join(lines)


def read(path: Path) -> tuple[str, dict[str, Any]]:
    """`parameters` and everything, of a picture that `eval.paint` made. Raises DataError."""
    try:
        with Image.open(path) as picture:
            picture.load()  # chunks may stand behind the pixels
            found = dict(picture.info)
        return str(found[PARAMETERS]), json.loads(found[JSON])
    except KeyError:
        raise DataError(f"{path}: holds no settings; only pictures of eval.paint do, and only while no program has saved them anew") from None
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises SyntaxError for a damaged PNG
        raise DataError(f"{path}: cannot be read as a picture with settings ({error}); give a PNG that eval.paint made") from None


def _quoted(value: Any) -> str:
    """A value that holds a comma, a colon or a line break would read as several."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if set(text) & set(',:\n"') else text
