"""Texts to unit vectors that are near for equal meaning in either language. The door to
sentence-transformers.

In:  a sentence-transformers model (a folder or a hub name) and texts.
Out: a tensor; nothing on disk.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs import model_folder
from configs.errors import DataError, first_line
from configs.references import looks_like_hub_name, not_given

if TYPE_CHECKING:
    import torch


def load(reference: str, setting: str) -> Any:
    """Loads the model on the best available device; `setting` is its name in the recipe.

    Raises DataError.
    """
    if not Path(reference).is_dir() and not looks_like_hub_name(reference):
        raise DataError(
            f"{reference}: there is no such sentence encoder; give a folder or a hub name as "
            f"{setting}"
        )
    # Late: every worker imports this module, with or without a `semantic` section, and the library
    # takes 10 seconds.
    from sentence_transformers import SentenceTransformer

    try:
        model_folder.check(reference)
        return SentenceTransformer(
            reference, trust_remote_code=False, model_kwargs={"use_safetensors": True}
        )
    except DataError as error:
        raise DataError(f"{setting}: {error}") from None
    # for a missing or damaged file each library raises its own types
    except Exception as error:
        if looks_like_hub_name(reference):
            raise DataError(
                f"{not_given(reference, error)}; fetch it, or correct {setting}"
            ) from None
        raise DataError(
            f"{reference}: the sentence encoder cannot be loaded ({first_line(error)}); fetch it "
            "again"
        ) from None


def embed(
    encoder: Any, texts: list[str], prompt: str, batch_size: int, show_progress: bool = True
) -> "torch.Tensor":
    """(len(texts), D) float32 unit vectors; `prompt` is prepended to every text.

    Raises DataError if the model returns NaN or infinity.
    """
    vectors = encoder.encode(
        texts,
        prompt=prompt,
        batch_size=batch_size,
        show_progress_bar=show_progress,
        convert_to_tensor=True,
        normalize_embeddings=True,
    ).float()
    broken = (~vectors.isfinite().all(dim=1)).nonzero()
    if len(broken):
        raise DataError(
            f"the sentence encoder gives no number for {texts[int(broken[0])]!r} and "
            f"{len(broken) - 1} other texts; take another one"
        )
    return vectors
