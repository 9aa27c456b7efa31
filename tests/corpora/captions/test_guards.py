"""What a failing translation model writes is dropped, by its reason; what a working one writes is
kept.
"""

import pytest

from configs.schema.captions import TranslationGuards
from corpora.captions.guards import judged, repeats
from corpora.filters import language_id
from corpora.toyworld import captions

JA = "白い背景に大きい赤い丸がある"


@pytest.mark.parametrize(
    ("en", "reason"),
    [
        ("A big red circle on a white background", None),
        (" ", "empty"),
        (JA + " ", "copy"),
        ("a red circle, a red circle, a red circle, a red circle, on white", "repetition"),
        ("The the the the circle", "repetition"),
        ("circle " + "-" * 20, "repetition"),
        ("on " * 3 + "a white background", None),
        (
            "It "
            + " ".join(f"was said {number} times that the circle is red," for number in range(12)),
            "length_ratio",
        ),
        ("O", "length_ratio"),
        ("Ein kleiner roter Kreis auf weißem Hintergrund", "not_english"),
        ("白い背景の大きな赤い円", "not_english"),
    ],
)
def test_every_failure_has_its_reason(en: str, reason: str | None) -> None:
    model = language_id.load("toyworld:language_id.ftz")
    assert judged([JA], [en], TranslationGuards(), model)[0] == [reason]


def test_the_captions_themselves_pass() -> None:
    pairs = list(captions.pairs(500, "train", 3))
    model = language_id.load("toyworld:language_id.ftz")
    reasons, english = judged(
        [one.text for one in pairs], [one.en for one in pairs], TranslationGuards(), model
    )
    assert set(reasons) == {None} and min(english) >= 0.5
    assert judged([], [], TranslationGuards(), model) == ([], [])


def test_repetitions_are_counted_on_end() -> None:
    assert (
        repeats("a b a b a b a b", 3)
        and not repeats("a b a b a b a", 3)
        and not repeats("a b c a b c a b c", 3)
    )
    assert not repeats("no no no", 3) and repeats("no no no no", 3) and not repeats("", 1)
