"""The unmodified pipelines of a family, loaded from a folder: training records queries with them,
evaluation paints with them.

In:  folders in diffusers layout (or hub names).
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import torch
import transformers
from diffusers.utils import logging as diffusers_logging
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from configs import model_folder
from configs.errors import DataError, first_line
from configs.references import looks_like_hub_name
from configs.stored_weights import ENCODER_STEM, variant_of
from distill.encoders.family import Family
from distill.sdxl.repository import (
    INDEX,
    STEMS,
    Repository,
    StoredEncoder,
    fetch,
    fetch_parts,
    read_index,
)


class Pipelines(NamedTuple):
    """Stock pipelines: `base` from text to image, `refiner` from image to image."""

    base: Any
    refiner: Any | None


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def painting_dtype() -> torch.dtype:
    return torch.float16 if device().type == "cuda" else torch.float32


def load_base(
    folder: str,
    family: Family,
    dtype: torch.dtype = torch.float32,
    without: tuple[str, ...] = (),
) -> Any:
    """The text-to-image pipeline on the device, without progress bars. Parts named in `without` are
    not loaded, where the folder has them. Raises DataError.
    """
    return _load(family.pipelines[0], folder, dtype, without)


def load_refiner(
    folder: str,
    family: Family,
    dtype: torch.dtype = torch.float32,
    without: tuple[str, ...] = (),
) -> Any:
    """The image-to-image pipeline of a refiner, loaded the same way. Raises DataError."""
    return _load(family.pipelines[1], folder, dtype, without)


def load_pipelines(
    base: str,
    refiner: str | None,
    family: Family,
    dtype: torch.dtype | None = None,
    without: tuple[str, ...] = (),
) -> Pipelines:
    """Both pipelines, the base without the parts named in `without`; by default fp32 on a CPU, fp16
    on a GPU. Raises DataError.
    """
    dtype = dtype or painting_dtype()
    return Pipelines(
        load_base(base, family, dtype, without),
        load_refiner(refiner, family, dtype) if refiner else None,
    )


def load_text_side(repository: Repository, variant: str | None = None) -> Any:
    """The repository's own pipeline class with its text encoders in fp32 on the CPU, without UNet
    and autoencoder. Raises DataError.
    """
    kind = getattr(diffusers, repository.pipeline)
    quiet()
    unwanted = {part: None for part in STEMS if part in repository.index}
    try:
        loaded = {} if variant else _in_variants_only(repository.folder, unwanted)
        pipeline = kind.from_pretrained(
            repository.folder,
            variant=variant,
            trust_remote_code=False,
            use_safetensors=True,
            **unwanted,
            **loaded,
        )
        return pipeline.to(torch.float32)
    except Exception as error:  # each library raises its own kinds for the same cause
        raise DataError(
            f"{repository.folder}: the pipeline cannot be loaded ({first_line(error)}); fetch or "
            "export the folder again"
        ) from error


def load_encoder(encoder: StoredEncoder, variant: str | None = None) -> tuple[Any, Any]:
    """Tokenizer and stock text encoder in fp32, as diffusers loads them, from a folder of encoders
    only. Raises DataError.
    """
    quiet()
    try:
        model = getattr(transformers, encoder.part.class_name).from_pretrained(
            encoder.folder,
            variant=variant or encoder.weights.variant,
            trust_remote_code=False,
            use_safetensors=True,
        )
        return PreTrainedTokenizerFast.from_pretrained(
            encoder.tokenizer, trust_remote_code=False
        ), model.float().eval()
    except Exception as error:  # as above
        raise DataError(
            f"{encoder.folder}: the encoder cannot be loaded ({first_line(error)}); fetch or "
            "export the folder again"
        ) from error


def quiet() -> None:
    """Turns off the libraries' progress bars and warnings: English tokenizers would warn about
    truncated Japanese in every batch.
    """
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()


def require(*folders: str | None) -> None:
    """Raises DataError for the first folder without a pipeline, so that long work does not fail
    late.
    """
    for folder in folders:
        if (
            folder is not None
            and not (Path(folder) / "model_index.json").is_file()
            and not looks_like_hub_name(folder)
        ):
            raise DataError(
                f"{folder}: no pipeline is there; make it with: python -m distill.export "
                "RECIPE export.encoders_only=false"
            )


def _load(class_name: str, folder: str, dtype: torch.dtype, without: tuple[str, ...] = ()) -> Any:
    require(folder)
    if not Path(folder).is_dir():  # a hub name
        index = read_index(fetch(folder, [INDEX]))
        parts = (name for name, entry in index.items() if isinstance(entry, list) and entry[0])
        folder = str(fetch_parts(folder, set(parts) - set(without)))
    model_folder.check(folder)
    unwanted = {part: None for part in without if part in read_index(Path(folder))}
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    kind = getattr(diffusers, class_name)
    try:
        loaded = _in_variants_only(Path(folder), unwanted)
        pipeline = kind.from_pretrained(
            folder, trust_remote_code=False, use_safetensors=True, **loaded | unwanted
        )
    except DataError:
        raise
    # each library raises its own kinds for the same cause: a file that is missing or damaged
    except Exception as error:
        raise DataError(
            f"{folder}: the pipeline cannot be loaded ({first_line(error)}); fetch or export the "
            "folder again"
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    # Asked for also where it is fp32: community models hold fp16 under the plain file name, and
    # diffusers keeps it. Not by from_pretrained's argument, which diffusers 0.42 renamed.
    return pipeline.to(device(), dtype)


def _in_variants_only(folder: Path, without: Collection[str] = ()) -> dict[str, Any]:
    """The parts of a pipeline, but for `without`, whose weights lie in half-precision files alone,
    loaded: `from_pretrained` of a whole pipeline takes one variant for all parts, and would prefer
    it also where full precision lies beside it.
    """
    loaded = {}
    for name, entry in read_index(folder).items():
        if not isinstance(entry, list) or not entry[0] or name in without:
            continue
        variant = variant_of(folder / name, STEMS.get(name, ENCODER_STEM))
        if variant is not None:
            library = {"diffusers": diffusers, "transformers": transformers}.get(
                entry[0], diffusers.pipelines.stable_diffusion
            )
            loaded[name] = getattr(library, entry[1]).from_pretrained(
                folder / name, variant=variant, trust_remote_code=False, use_safetensors=True
            )
    return loaded
