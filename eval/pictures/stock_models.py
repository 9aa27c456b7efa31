"""Models of other people that evaluation judges with, loaded as they are or not at all.

In:  a folder or a hub name in transformers' layout.
Out: model and processor, on the device.
"""

from typing import Any

import torch

from configs import model_folder
from configs.errors import DataError, explained
from configs.stored_weights import variant_of
from distill.sdxl.pipelines import device


def load(
    setting: str,
    reference: str,
    model_kind: Any,
    processor_kind: Any,
    processor_reference: str | None = None,
) -> tuple[Any, Any]:
    """Raises DataError, which names the setting, for what is missing, damaged, a pickle, or not all
    there. The processor lies beside the model, unless it has a reference of its own.

    Weights that a file lacks transformers fills with random numbers and goes on; a pooling layer
    alone may be lacking, as none is read here.
    """
    try:
        model_folder.check(reference)
    except DataError as error:
        raise DataError(f"{setting}: {error}") from None
    with explained(
        f"{setting}: {reference} cannot be loaded",
        "give a folder or hub name in transformers' layout",
    ):
        model, found = model_kind.from_pretrained(
            reference,
            dtype=torch.float32,
            variant=variant_of(reference),
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
        processor = processor_kind.from_pretrained(
            processor_reference or reference, trust_remote_code=False
        )
    missing = sorted(key for key in found["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise DataError(
            f"{setting}: {reference} lacks weights of a {model_kind.__name__} ({missing[0]} and "
            f"{len(missing) - 1} more); give another"
        )
    return model.eval().to(device()), processor
