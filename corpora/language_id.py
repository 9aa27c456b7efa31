"""Which language a text is written in: the one door to fastText.

In:  a supervised fastText model with the labels `__label__ja` and `__label__en`: lid.176.bin, or `toyworld:language_id.ftz`.
Out: the probability of one language for each text.
"""

import struct
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import fasttext

from configs.errors import DataError
from configs.files import file_sha256
from configs.schema import LanguageId, resolve_model
from corpora.pair import Input

LANGUAGES = ("ja", "en")
MAGIC = 793712314  # of fastText's model files
ENTRY_BYTES = 10  # at least, of each word and label
LONGEST_WORD = 1 << 20
CANDIDATES = 5  # labels asked for a text; a language that is not among the likeliest five counts as 0


def model_file(settings: LanguageId) -> Input:
    """The model as an input on record. Raises DataError when it is missing or is not the file the recipe's `sha256` names."""
    path = Path(resolve_model(settings.model))
    if not path.is_file():
        raise DataError(f"{path}: there is no language-id model; download it, or correct corpora.language_id.model")
    found = file_sha256(path)
    if settings.sha256 is not None and found != settings.sha256.lower():
        raise DataError(f"{path}: its SHA-256 is {found}, the recipe asks for {settings.sha256}; download the model again, or correct the recipe")
    return Input(source="language_id", path=settings.model, bytes=path.stat().st_size, sha256=found)


@lru_cache(maxsize=1)
def load(model: str) -> Any:
    """The fastText model at `model` (a path or toyworld:NAME), read once a process. Raises DataError."""
    path = resolve_model(model)
    try:
        _check_sizes(Path(path))
        result = fasttext.load_model(path)
        labels = set(result.get_labels())
    except Exception as error:  # fastText raises ValueError, MemoryError or its own kinds for one cause: the file is damaged
        raise DataError(f"{path}: fastText cannot load it ({' '.join(str(error).split())}); download the language-id model again") from None
    missing = [language for language in LANGUAGES if f"__label__{language}" not in labels]
    if missing:
        raise DataError(f"{path}: the model knows no label {', '.join(missing)}; take a language-id model such as lid.176.bin")
    return result


def probabilities(model: Any, texts: list[str], language: str) -> list[float]:
    """The probability, 0 to 1, that each text is written in `language` ("ja", "en")."""
    # a list, not one text at a time: `predict(text)` raises under NumPy 2; and fastText takes single lines only
    labels, scores = model.predict([text.replace("\n", " ") for text in texts], k=CANDIDATES)
    wanted = f"__label__{language}"
    return [_probability(found, score, wanted) for found, score in zip(labels, scores, strict=True)]


def drop_reason(ja_probability: float, en_probability: float, settings: LanguageId) -> str | None:
    if ja_probability < settings.min_probability:
        return "ja_is_not_japanese"
    return "en_is_not_english" if en_probability < settings.min_probability else None


def likeliest(model: Any, text: str) -> list[tuple[str, float]]:
    """The languages fastText finds likeliest for one text, the best first."""
    labels, scores = model.predict([text.replace("\n", " ")], k=CANDIDATES)
    return [(label.removeprefix("__label__"), min(1.0, float(score))) for label, score in zip(labels[0], scores[0], strict=True)]


def _check_sizes(path: Path) -> None:
    """Raises ValueError where a model claims more words or numbers than its file holds: fastText
    makes room for them before it reads any, which a file of 100 bytes can make a terabyte."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        magic, _, *_ = struct.unpack("<14i", _exactly(file, 56))
        if magic != MAGIC:
            raise ValueError("no fastText model")
        _exactly(file, 8)  # the sampling threshold
        entries, _, _, _, pruned = struct.unpack("<3i2q", _exactly(file, 28))
        if not 0 <= entries * ENTRY_BYTES <= size or pruned * 8 > size:
            raise ValueError(f"{entries:,} words in a file of {size:,} bytes")
        for _ in range(entries):
            _skip_word(file)
        file.seek(max(0, pruned) * 8, 1)
        if struct.unpack("<?", _exactly(file, 1))[0]:  # quantised
            _, _, _, needed = struct.unpack("<?2qi", _exactly(file, 21))
        else:
            rows, width = struct.unpack("<2q", _exactly(file, 16))
            needed = rows * width * 4
        if not 0 <= needed <= size:
            raise ValueError(f"a matrix of {needed:,} bytes in a file of {size:,}")


def _skip_word(file: BinaryIO) -> None:
    """A word, a zero byte, a count and a kind."""
    word = b""
    while b"\0" not in word:
        block = file.read(64)
        word += block
        if not block or len(word) > LONGEST_WORD:
            raise ValueError("it ends inside of its words")
    file.seek(word.index(b"\0") + ENTRY_BYTES - len(word), 1)


def _exactly(file: BinaryIO, count: int) -> bytes:
    content = file.read(count)
    if len(content) < count:
        raise ValueError("the file is cut off")
    return content


def _probability(labels: list[str], scores: Any, wanted: str) -> float:
    # fastText's float32 softmax may exceed 1 by a rounding
    return min(1.0, float(scores[labels.index(wanted)])) if wanted in labels else 0.0
