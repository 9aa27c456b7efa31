"""Language identification of short texts: fastText, of which this is the door, and rules on top.

In:  a supervised fastText model with labels for the student's language and English: lid.176.bin, or
     `toyworld:language_id.ftz`.
Out: for each text the probability of its language, and the reason to drop it, or None.

The probability alone misjudges captions: it is below 0.5 for 43 % of object names ("a tench") and
for 布団乾燥機. So the script is checked first. Then the language must be the likeliest or reach
`min_probability`, for the text as it stands or, in English, written as a sentence: lower-case and
title-case texts are rare in these models' training data.
"""

import re
import struct
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import fasttext

from configs.errors import DataError, explained
from configs.files import file_sha256
from configs.languages import JAPANESE, KANJI_LETTERS, LANGUAGES, Language
from configs.references import ModelName
from configs.schema.corpora import LanguageId
from corpora.pair import Input

MAGIC = 793712314  # of fastText's model files
ENTRY_BYTES = 10  # smallest size of a word or label
LONGEST_WORD = 1 << 20
CANDIDATES = 5  # likeliest languages per text; any other has probability 0

# The reasons, by language: another script; another language; no language is likely.
NAMES = {code: one.name.lower() for code, one in LANGUAGES.items()} | {"en": "english"}
SCRIPT = {code: f"{code}_script_is_not_{name}" for code, name in NAMES.items()} | {
    "en": "en_script_is_not_latin"
}
OTHER_LANGUAGE = {code: f"{code}_is_not_{name}" for code, name in NAMES.items()}
UNCERTAIN = {code: f"{code}_language_is_uncertain" for code in NAMES}
REASONS = {code: (SCRIPT[code], OTHER_LANGUAGE[code], UNCERTAIN[code]) for code in NAMES}
CERTAIN = 0.5  # from this probability on, another language is the reason

KANJI = re.compile(f"[{KANJI_LETTERS}]")
KANA = re.compile("[\u3041-\u3096\u30a1-\u30fa\u31f0-\u31ff\uff66-\uff6f\uff71-\uff9d]")
_OTHER_LETTERS = {code: re.compile(rf"[^\W\d_{one.letters}]") for code, one in LANGUAGES.items()}
_OTHER_LETTER = _OTHER_LETTERS["ja"]
_LATIN_LETTER = re.compile(
    "[A-Za-z\u00aa\u00ba\u00c0-\u024f\u1e00-\u1eff\uff21-\uff3a\uff41-\uff5a]"
)
# English words that are rare in other languages in Latin script
_ENGLISH_WORD = re.compile(
    r"\b(?:the|of|with|and|from|this|that|these|those|were|was|his|her|their|its|into|it|he|she"
    r"|they|you|your|my|our|not|does|did|will|would|what|who|where|when|how|there|which"
    r"|hello|yes|too|please|thanks?|well|good|mr|ms|come|here|wait|add|send)\b",
    re.IGNORECASE,
)
PROBABLE_WITH_WORDS = 0.02  # min_probability of a text with such a word
# Unless Japanese is likely, a text of kanji alone is Chinese from this probability on; from the
# lower one if it has many kanji, or one of JIS level 2, which holds traditional forms of Chinese.
CHINESE, CHINESE_IF_DOUBTFUL = 0.9, 0.5
LONGEST = 8
_LEVEL_2 = b"\x98\x9f"

Guess = list[tuple[str, float]]


class Verdict(NamedTuple):
    """The probability of the expected language, 0 to 1, and the reason to drop the text, or
    None.
    """

    probability: float
    reason: str | None


def model_file(settings: LanguageId) -> Input:
    """The model as an input for the manifest.

    Raises DataError if it is missing or does not have the recipe's `sha256`.
    """
    path = Path(settings.model.path)
    if not path.is_file():
        raise DataError(
            f"{path}: there is no language-id model; download it, or correct "
            "corpora.language_id.model"
        )
    found = file_sha256(path)
    if settings.sha256 is not None and found != settings.sha256.lower():
        raise DataError(
            f"{path}: its SHA-256 is {found}, the recipe asks for {settings.sha256}; download the "
            "model again, or correct the recipe"
        )
    return Input(source="language_id", path=settings.model, bytes=path.stat().st_size, sha256=found)


@lru_cache(maxsize=2)
def load(model: str, code: str = "en") -> Any:
    """The fastText model at `model` (a path or toyworld:NAME), read once per process.

    Raises DataError, also if it has no label for the language `code` or English.
    """
    path = ModelName(model).path
    # for a damaged file fastText raises ValueError, MemoryError or its own types
    with explained(f"{path}: fastText cannot load it", "download the language-id model again"):
        _check_sizes(Path(path))
        result = fasttext.load_model(path)
        labels = set(result.get_labels())
    missing = [
        one for one in dict.fromkeys((_label(code), "en")) if f"__label__{one}" not in labels
    ]
    if missing:
        raise DataError(
            f"{path}: the model knows no label {', '.join(missing)}; take a language-id model such "
            "as lid.176.bin"
        )
    return result


def judged(model: Any, texts: list[str], language: str, min_probability: float) -> list[Verdict]:
    """The verdict on each text, which should be in `language` (a code). `min_probability` 0 keeps
    all.
    """
    # one label takes a third of the time of five, and is nearly always the wanted one
    firsts, scores = _predict(model, texts, 1)
    wanted = f"__label__{_label(language)}"
    # min: fastText's float32 softmax may slightly exceed 1
    found: list[Verdict | None] = [
        Verdict(min(1.0, float(score[0])), None)
        if label == [wanted] and _is_plain(text, language)
        else None
        for text, label, score in zip(texts, firsts, scores, strict=True)
    ]
    rest = [row for row, verdict in enumerate(found) if verdict is None]
    for row, verdict in zip(
        rest, _judged([texts[row] for row in rest], model, language, min_probability), strict=True
    ):
        found[row] = verdict
    return [verdict for verdict in found if verdict is not None]


def _judged(texts: list[str], model: Any, language: str, least: float) -> list[Verdict]:
    guesses = likeliest(model, texts)
    if language == "ja":
        return [_japanese(*one, least) for one in zip(texts, guesses, strict=True)]
    if language != "en":
        own = LANGUAGES[language]
        return [_by_script(*one, least, own) for one in zip(texts, guesses, strict=True)]
    as_sentences = likeliest(model, list(map(_as_sentence, texts)))
    return [_english(*one, least) for one in zip(texts, guesses, as_sentences, strict=True)]


def _is_plain(text: str, language: str) -> bool:
    """Whether no script rule can drop the text."""
    if language == "en":
        return text.isascii()
    own = KANA if language == "ja" else LANGUAGES[language].script
    return own.search(text) is not None and not _OTHER_LETTERS[language].search(text)


def probabilities(model: Any, texts: list[str], language: str) -> list[float]:
    """The probability, 0 to 1, that each text is written in `language` (a label)."""
    return [_probability(guess, language) for guess in likeliest(model, texts)]


def likeliest(model: Any, texts: list[str]) -> list[Guess]:
    """fastText's likeliest languages for each text, with probabilities, best first."""
    found, scores = _predict(model, texts, CANDIDATES)
    return [
        [(label[len("__label__") :], min(1.0, score)) for label, score in zip(*one, strict=True)]
        for one in zip(found, (row.tolist() for row in scores), strict=True)
    ]


def _predict(model: Any, texts: list[str], count: int) -> Any:
    # a list, since `predict(text)` raises under NumPy 2; fastText takes single lines only
    return model.predict([text.replace("\n", " ") for text in texts], k=count)


def _check_sizes(path: Path) -> None:
    """Raises ValueError if a model claims more words or numbers than its file can hold: fastText
    allocates them before it reads, so a file of 100 bytes could ask for a terabyte.
    """
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
    """Skips a word, its zero byte, count and type."""
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


def _japanese(text: str, guess: Guess, min_probability: float) -> Verdict:
    probability = _probability(guess, "ja")
    is_likely = _first(guess) == "ja" or probability >= min_probability
    others = len(_OTHER_LETTER.findall(text))
    if min_probability == 0 or (KANA.search(text) and (not others or is_likely)):
        return Verdict(probability, None)
    few = len(JAPANESE.script.findall(text)) < others
    if KANA.search(text):
        return Verdict(probability, SCRIPT["ja"] if few else None)
    # kanji alone, which Chinese has too
    kanji = [one.encode("cp932", "ignore") for one in KANJI.findall(text)]
    if not kanji or not all(kanji) or (few and others > len(_LATIN_LETTER.findall(text))):
        return Verdict(probability, SCRIPT["ja"])
    is_doubtful = len(kanji) > LONGEST or any(one >= _LEVEL_2 for one in kanji)
    limit = CHINESE_IF_DOUBTFUL if is_doubtful else CHINESE
    if is_likely or _probability(guess, "zh") < limit:
        return Verdict(probability, None)
    return Verdict(probability, OTHER_LANGUAGE["ja"])


def _by_script(text: str, guess: Guess, least: float, language: Language) -> Verdict:
    """For languages without rules of their own: most letters must be of the language's script, and
    the language must be likely.
    """
    probability = _probability(guess, language.fasttext)
    if least == 0:
        return Verdict(probability, None)
    others = len(_OTHER_LETTERS[language.code].findall(text))
    if len(language.script.findall(text)) < max(others, 1):
        return Verdict(probability, SCRIPT[language.code])
    if _first(guess) == language.fasttext or probability >= least:
        return Verdict(probability, None)
    is_other = max((share for _, share in guess[:1]), default=0.0) >= CERTAIN
    return Verdict(probability, (OTHER_LANGUAGE if is_other else UNCERTAIN)[language.code])


def _label(code: str) -> str:
    """fastText's label of a language."""
    return LANGUAGES[code].fasttext if code in LANGUAGES else code


def _english(text: str, guess: Guess, as_sentence: Guess, least: float) -> Verdict:
    """`as_sentence`: the guess for the text written as a sentence, for lower-case texts."""
    guesses = guess, as_sentence
    own = _probability(guess, "en")
    probability = own if _first(guess) == "en" else max(own, _probability(as_sentence, "en"))
    if least == 0:
        return Verdict(probability, None)
    if not text.isascii():
        letters = len(JAPANESE.script.findall(text)) + len(_OTHER_LETTER.findall(text))
        if 2 * len(_LATIN_LETTER.findall(text)) < letters:
            return Verdict(probability, SCRIPT["en"])
    has_words = probability >= PROBABLE_WITH_WORDS and _ENGLISH_WORD.search(text)
    if "en" in map(_first, guesses) or probability >= least or has_words:
        return Verdict(probability, None)
    is_other = max((share for one in guesses for _, share in one[:1]), default=0.0) >= CERTAIN
    return Verdict(probability, (OTHER_LANGUAGE if is_other else UNCERTAIN)["en"])


def _as_sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _first(guess: Guess) -> str:
    return guess[0][0] if guess else ""


def _probability(guess: Guess, language: str) -> float:
    return next((share for one, share in guess if one == language), 0.0)
