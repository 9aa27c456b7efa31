"""Detects failed translations without looking at the picture.

In:  Japanese captions, their translations, the language identifier.
Out: for each, the first reason to drop it, or None. Kept pairs go through
     `corpora/filters/rules.py` like any others.
"""

import re
from typing import Any

from configs.schema.captions import TranslationGuards
from corpora.filters import language_id
from corpora.filters.normalise import comparison_key

LONGEST_RUN = 6  # words; longer repeated phrases are not looked for


def judged(
    text: list[str], en: list[str], guards: TranslationGuards, language_model: Any
) -> tuple[list[str | None], list[float]]:
    """For each translation, the drop reason (`empty`, `copy`, `repetition`, `length_ratio`,
    `not_english`) or None; and the probability that it is English.
    """
    verdicts = language_id.judged(language_model, en, "en", guards.min_probability)
    found = [_reason(*texts, guards) for texts in zip(text, en, strict=True)]
    foreign = ["not_english" if verdict.reason else None for verdict in verdicts]
    return [one or other for one, other in zip(found, foreign, strict=True)], [
        verdict.probability for verdict in verdicts
    ]


def chrf(text: list[str], back: list[str]) -> list[float]:
    """How similar each caption is to its back-translation, 0 to 100: character n-gram F-score
    (Popovic 2015), which needs no word boundaries.
    """
    import sacrebleu

    return [
        sacrebleu.sentence_chrf(again, [one]).score for one, again in zip(text, back, strict=True)
    ]


def _reason(text: str, en: str, guards: TranslationGuards) -> str | None:
    if not en.strip():
        return "empty"
    if comparison_key(text) == comparison_key(en):
        return "copy"
    if repeats(en, guards.max_repetitions):
        return "repetition"
    shorter, longer = sorted((len(text.encode()), len(en.encode())))
    return "length_ratio" if longer > guards.max_length_ratio * shorter else None


def repeats(text: str, most: int) -> bool:
    """Whether one to six words occur more than `most` times in a row, or one to four characters
    more than four times as often.
    """
    words = text.lower().split()
    for length in range(1, LONGEST_RUN + 1):
        same = 0  # consecutive words equal to the word `length` places before
        for before, word in zip(words, words[length:], strict=False):
            same = same + 1 if word == before else 0
            if same == length * most:
                return True
    return re.search(rf"(\S{{1,4}}?)\1{{{4 * most},}}", text) is not None
