"""What each filter measures in a pair, its limit, and the setting that would keep the pair.

In:  two normalised texts and the recipe's `corpora` section; for a duplicate, also the texts of the
     row kept instead.
Out: one `Answer` per filter and language; explanations of the reasons to drop unreadable rows.
"""

import math
import re
import unicodedata
from dataclasses import dataclass

from configs.languages import Language
from configs.schema.corpora import ClipTokens, Corpora, Semantic, WordAlignment
from configs.schema.filters import Filters
from configs.schema.sources import Source
from corpora.filters import clip_tokens, language_id, numbers, rules, unsafe
from corpora.filters.deduplicate import near_digest
from corpora.filters.normalise import comparison_key

# reason of stage `read` -> what it means, and what to do
UNREADABLE = {
    "ragged": "the line has not as many fields as the file's others: a tab or a line break inside "
    "a text; correct the file",
    "null": "one of the two texts is null; correct the file",
    "invalid_utf8": "one of the two texts is no UTF-8; convert the file to UTF-8, or fetch it "
    "again",
    "too_long": "a text is longer than a megabyte; cut it into sentences",
    "header_line": "the line is a header of the corpus (<title>, <url>...), not a text; nothing is "
    "lost",
    "index_line": "the line lists the words of the sentence above it (Tanaka corpus), it is no "
    "pair; nothing is lost",
    "several_tags": "the tag is a list of tags, its name that of one of them; give each tag a line",
    "not_text": "the tag or its name is a number or a date to YAML; put it in quotation marks",
    "missing_side": "the unit has no text in one of the two languages; correct the file",
}
NO_SETTING = ""


@dataclass(frozen=True)
class Answer:
    """The answer of one filter: whether it drops the pair, what it found, and the override that
    would keep the pair ("" if there is none).
    """

    name: str
    drops: bool
    found: str
    keeps: str


def answers(text: str, en: str, corpora: Corpora, source: Source | None) -> list[Answer]:
    """One answer per filter, in order of application; the first that drops the pair is the recorded
    reason. `source`: the pair's, None for one of no source.
    """
    limits, place = corpora.filters_of(source)
    result = []
    for one in rules.FILTERS:
        found, setting = _seen(one, text, en, limits)
        keeps = f"{place}.{setting}" if setting else NO_SETTING
        result.append(Answer(rules.reason(one, limits), one(text, en, limits), found, keeps))
    return result


def languages(text: str, en: str, corpora: Corpora, source: Source | None) -> list[Answer]:
    """One answer per rule of the language identifier, the student's language first. `source`: the
    pair's, None for one of no source.

    Raises DataError without a model.
    """
    settings = corpora.language_id
    language_id.model_file(settings)
    code = settings.text_language.code
    model = language_id.load(settings.model, code)
    result = []
    limits = corpora.min_probabilities(source)
    for one, language, (limit, place) in zip((text, en), (code, "en"), limits, strict=True):
        (verdict,) = language_id.judged(model, [one], language, limit)
        (guess,) = language_id.likeliest(model, [one])
        likeliest = ", ".join(f"{code} {share:.3f}" for code, share in guess) or "none"
        wanted = f"the likeliest, at least {limit}, or known by script or words"
        seen = f"{language} {verdict.probability:.3f}; {wanted} (the likeliest: {likeliest})"
        # no probability overrules a script rule; 0 switches all rules off
        least = math.floor(1000 * verdict.probability) / 1000
        keeps = 0 if verdict.reason == language_id.SCRIPT[language] else least
        result += [
            Answer(
                reason,
                verdict.reason == reason,
                seen,
                f"{place}={keeps}",
            )
            for reason in language_id.REASONS[language]
        ]
    return result


def tokens(en: str, settings: ClipTokens) -> Answer:
    """The answer of the token limit. Raises DataError."""
    (count,) = clip_tokens.counts([en], settings)
    found = f"{count} tokens of English, both specials among them; at most {settings.most}"
    return Answer(
        clip_tokens.REASON, count > settings.most, found, f"corpora.clip_tokens.most={count}"
    )


def meaning(score: float, settings: Semantic | WordAlignment) -> Answer:
    """The answer of the stage `semantic`, by the recorded `score`: measuring it needs the row's
    neighbours, or translations counted from all rows.
    """
    keeps = math.floor(1000 * score) / 1000
    if isinstance(settings, WordAlignment):
        found = (
            f"the words of a side are e^{score:.3f} times as likely beside the other side as "
            f"anywhere; at least e^{settings.min_score}"
        )
        keeping = f"corpora.semantic.min_score={keeps}"
        return Answer("low_alignment", score < settings.min_score, found, keeping)
    found = (
        f"the two sides are {score:.3f} times as near as their nearest neighbours; at least "
        f"{settings.min_margin}"
    )
    return Answer(
        "low_margin",
        score < settings.min_margin,
        found,
        f"corpora.semantic.min_margin={keeps}",
    )


def compared(reason: str, own: tuple[str, str], other: tuple[str, str], corpora: Corpora) -> Answer:
    """Why a row was dropped in favour of another."""
    keys, others = ([comparison_key(text) for text in texts] for texts in (own, other))
    if reason == "text_is_held_out":
        same = " and ".join(
            side
            for side, one, two in zip(
                (corpora.text_language.name, "English"), keys, others, strict=True
            )
            if one == two
        )
        return Answer(reason, True, f"the held-out row has the same {same} text", NO_SETTING)
    if reason == "exact_duplicate":
        return Answer(reason, True, "both texts are the same, whatever width and case", NO_SETTING)
    if corpora.near_duplicates is None:
        return Answer(reason, False, "these settings look for no near duplicates", NO_SETTING)
    one, two = (near_digest(text, en, corpora.near_duplicates) for text, en in (keys, others))
    ignored = ", ".join(corpora.near_duplicates.ignored_words)
    found = (
        f"the words are {'the same' if one == two else 'others'}, leaving out punctuation and "
        f"{ignored or 'nothing else'}"
    )
    return Answer(
        reason, one == two, found, NO_SETTING if one != two else "corpora.near_duplicates=null"
    )


def _seen(drops: rules.Filter, text: str, en: str, limits: Filters) -> tuple[str, str]:
    """What the filter measures, in words, and the setting of the filters that would keep the
    pair.
    """
    name, language = drops.__name__, limits.text_language
    lengths = f"{len(text)} characters of {language.name}, {len(en)} of English"
    if name == "too_long":
        return (
            f"{lengths}; at most {limits.max_characters}",
            f"max_characters={max(len(text), len(en), 1)}",
        )
    if name == "too_short":
        return (
            f"{lengths}; at least {limits.min_characters}",
            f"min_characters={max(1, min(len(text), len(en)))}",
        )
    if name == "length_ratio":
        shorter, longer = sorted((len(text.encode()), len(en.encode())))
        ratio = longer / max(shorter, 1)
        found = (
            f"{len(text.encode())} bytes of {language.name}, {len(en.encode())} of English: "
            f"{ratio:.2f} "
            f"to 1; at most {limits.max_length_ratio}"
        )
        return found, f"max_length_ratio={max(math.ceil(10 * ratio) / 10, 1.1)}"
    if name == "unmatched_numbers":
        values = ", ".join(map(str, sorted(numbers.english_values(en)))) or "none"
        indices = _listed(numbers.indices(text, en, language.code))
        return (
            f"digits in the {language.name} that count nothing: {indices}; "
            f"numbers in the English: {values}",
            NO_SETTING,
        )
    if name == "empty":
        return lengths, NO_SETTING
    if name == "unsafe":
        words = unsafe.reason(text, en)
        return f"found {words!r}" if words else "no words of unsafe.yaml", "unsafe=false"
    if name == "copy":
        same = comparison_key(text) == comparison_key(en)
        return (
            "both sides are the same, whatever width and case" if same else "the sides differ",
            NO_SETTING,
        )
    return _matched(name, text, en, language), NO_SETTING


PATTERNS: dict[str, tuple[str, re.Pattern[str]]] = {
    "damaged": ("U+FFFD", re.compile("\ufffd")),
    "placeholder": (
        "placeholder",
        re.compile(f"{rules.PLACEHOLDER.pattern}|{rules.BRACKETED.pattern}"),
    ),
    "no_latin_script": ("Latin letter", rules.LATIN),
    "markup": ("markup", rules.MARKUP),
    "address": ("web or mail address", rules.ADDRESS),
    "file_name": ("file name", rules.FILE_NAME),
}


def _matched(name: str, text: str, en: str, language: Language) -> str:
    what, pattern = PATTERNS.get(name) or (language.script_name, language.script)
    sides = {
        "no_own_script": [language.name],
        "own_script_in_english": ["English"],
        "no_latin_script": ["English"],
    }.get(name, [language.name, "English"])
    found = [
        (side, match)
        for side, one in ((language.name, text), ("English", en))
        if side in sides and (match := pattern.search(one))
    ]
    if not found:
        return f"no {what} in the {' or the '.join(sides)}"
    return "; ".join(
        f"{_quoted(match[0])} at character {match.start() + 1} of the {side}"
        for side, match in found
    )


def _quoted(text: str) -> str:
    if len(text) == 1 and not text.isascii():
        return f"'{text}' (U+{ord(text):04X}, {unicodedata.name(text, 'no name')})"
    return f"'{text}'"


def _listed(numbers: list[str]) -> str:
    return ", ".join(numbers[:10]) + (", …" if len(numbers) > 10 else "") if numbers else "none"
