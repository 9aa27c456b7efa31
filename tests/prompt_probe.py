"""What both encoders of an export read of prompts as people write them, under one stack. Run by the
Python of each environment.

python tests/prompt_probe.py EXPORT/base OUT.safetensors
"""

import sys
from pathlib import Path

import transformers
from safetensors.torch import save_file
from written_prompts import WRITTEN

from distill.encoders import weighted_prompts
from distill.encoders.family import SDXL
from distill.encoders.teacher import load_text_encoders
from distill.prompt import STYLES


def main() -> None:
    folder, out = map(Path, sys.argv[1:])
    encoders = load_text_encoders(folder, SDXL)
    found = {}
    for style in STYLES:
        for number, written in enumerate(WRITTEN):
            (encoding,) = weighted_prompts.encode(encoders, [written.prompt], style)
            for name, tensor in encoding.named().items():
                found[f"{style} {number} {name}"] = tensor.contiguous()
    save_file(found, out, metadata={"transformers": transformers.__version__})


if __name__ == "__main__":
    main()
