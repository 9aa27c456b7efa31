"""The one door to sentence-transformers: texts to unit vectors that mean the same in both
languages.

In:  a sentence-transformers model (a folder, or a hub name) and texts.
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
    """Loads the model on the best device there is; `setting` names it in the recipe.

    Raises DataError with the cause.
    """
    if not Path(reference).is_dir() and not looks_like_hub_name(reference):
        raise DataError(
            f"{reference}: there is no such sentence encoder; give a folder or a hub name as "
            f"{setting}"
        )
    # Late: the stages of the pairs import this door whether the recipe has a `semantic` section or
    # not, in every worker, and the library takes 10 seconds.
    from sentence_transformers import SentenceTransformer

    try:
        model_folder.check(reference)
        return SentenceTransformer(
            reference, trust_remote_code=False, model_kwargs={"use_safetensors": True}
        )
    except DataError as error:
        raise DataError(f"{setting}: {error}") from None
    # each library below raises its own kinds for the same cause: a file that is missing or damaged
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
    """(len(texts), D) float32 unit vectors; `prompt` is put before every text.

    Raises DataError if the model gives NaN or infinity.
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
