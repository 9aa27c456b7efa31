"""What a pipeline is given in place of its prompts where `--weights` is asked for.

In:  a loaded pipeline, the repository it came from, prompts.
Out: keyword arguments of its call: states in as many windows as the prompts need, and pooled
     states.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from configs.errors import DataError
from distill.encoders import weighted_prompts
from distill.encoders.family import Family
from distill.encoders.teacher import TextEncoders, load_tokenizer
from distill.prompt import Style


def encoders(pipeline: Any, folder: Path, family: Family, unet: str) -> TextEncoders:
    """The pipeline's own text encoders that the UNet (`base` or `refiner`) reads, with tokenizers
    that know where in a text each token lies; transformers 4 gives the pipeline others. Raises
    DataError.
    """
    parts = {name: family.parts[name] for name in family.readers[unet]}
    tokenizers = {name: load_tokenizer(folder, part) for name, part in parts.items()}
    for name, tokenizer in tokenizers.items():
        if not tokenizer.is_fast:
            raise DataError(
                f"--weights: the {parts[name].tokenizer} of {folder} is a "
                f"{type(tokenizer).__name__}, which does not say where in the prompt a token lies; "
                "leave --weights out, or repair the repository with python -m distill.repair"
            )
    models = {name: getattr(pipeline, part.subfolder) for name, part in parts.items()}
    return TextEncoders(replace(family, parts=parts), tokenizers, models)


def arguments(
    pipeline: Any,
    readers: TextEncoders,
    prompt: str,
    negative_prompt: str | None,
    style: Style,
    count: int,
) -> dict[str, torch.Tensor]:
    """For `count` pictures of one prompt. Without a negative prompt, SDXL's base reads zeros, as
    when it is given prompts; all others read the empty one.
    """
    texts = [prompt, negative_prompt or ""]
    positive, negative = weighted_prompts.encode(readers, texts, style)
    if negative_prompt is None and pipeline.config.get("force_zeros_for_empty_prompt"):
        negative = negative.map(torch.zeros_like)
    found = {}
    for prefix, encoding in (("", positive), ("negative_", negative)):
        found[f"{prefix}prompt_embeds"] = encoding.context(tuple(readers.family.parts))
        if encoding.pooled_BP is not None:
            found[f"{prefix}pooled_prompt_embeds"] = encoding.pooled_BP
    return {name: tensor.expand(count, *tensor.shape[1:]) for name, tensor in found.items()}
