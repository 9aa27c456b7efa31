"""The methods of vocab_init: kinds of text, each method by hand, rules by kind, the gold list."""

import itertools
import resource
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.languages import JAPANESE, LANGUAGES
from configs.schema.recipe import VocabInit
from distill.tokens.alignment import Lexicon
from vocab_init import gold, methods
from vocab_init.methods import MEAN, METHODS, Evidence, Material, Start, sparsemax_weights, starts
from vocab_init.nearest import nearest
from vocab_init.text_kinds import copied, kind_of

KINDS = {
    "word": ["赤い", "猫", "Tシャツ", "お茶", "ビール", "食べ", "人々"],
    "fragment": ["の", "ー", "ッ", "ｶ"],
    "digit": ["2019", "１", "①", "²"],
    "latin": ["red", "ＡＢＣ", "mp3", "é", "don't", "3D"],
    "punctuation": ["、", "。", "!", "」", "..."],
    "symbol": ["½", "~", "¥", "→", "＋"],
    "emoji": ["🏈", "❤", "👩‍👩‍👧", "☀️"],
    "foreign": ["Привет", "한국", "ñа"],
    "control": ["\n", "\f", "\u200b", " "],
}


@pytest.mark.parametrize(
    ("kind", "text"), [(kind, text) for kind, texts in KINDS.items() for text in texts]
)
def test_the_kind_of_a_text(kind: str, text: str) -> None:
    assert kind_of(text, JAPANESE) == kind


def test_every_letter_of_the_student_is_a_word_or_a_fragment() -> None:
    assert kind_of("고양이", LANGUAGES["ko"]) == "word"
    assert kind_of("는", LANGUAGES["ko"]) == "fragment"


def test_what_is_copied_is_the_same_text() -> None:
    tokens = {"red": 1, ",": 2, "1": 3, "é": 4, "、": 5}
    found = {text: copied(text, tokens) for text in ("Red", "ｒｅｄ", "①", "é", "、", "。", "x")}
    assert found == {"Red": 1, "ｒｅｄ": 1, "①": 3, "é": 4, "、": 5, "。": None, "x": None}
    assert copied("、", {",": 2}) == 2


WORDS = [(10, "red"), (11, "cat"), (12, "dog"), (13, "ca"), (14, "🏈"), (15, ","), (16, "mp")]
TEXTS = ["赤", "猫", "野球", "の", "、", "🏈", "mp3", "\n", "は"]


def unit(rows: list[list[float]]) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.tensor(rows), dim=1)


ENGLISH_ED = unit(
    [[1, 0, 0], [0, 1, 0], [0, 0.9, 0.5], [0.1, 1, 0], [0.5, 0.5, 0.8], *[[0, 0, 1]] * 2]
)
TEXTS_TD = unit([[1, 0.1, 0], [0, 1, 0.01], [0, 0.2, 0.5], *[[0.3, 0.3, 1.0]] * 6])
# tokens by index: the single ones, then "base ball" of two
TOKENS = [(i,) for i in range(17)] + [(11, 12)]
# text, translation, score, expected alignments
FOUND = [
    (0, 10, 0.9, 5.0),
    (0, 12, 0.2, 1.0),
    (1, 12, 0.5, 1.0),
    (2, 17, 0.8, 9.0),
    (3, 15, 0.1, 3.0),
]


@pytest.fixture
def material() -> Material:
    columns = [np.array(column) for column in zip(*FOUND, strict=True)]
    lexicon = Lexicon(*columns, [], 1)
    return Material(
        TEXTS,
        [kind_of(text, JAPANESE) for text in TEXTS],
        WORDS,
        np.array([True, True, True, False, False, False, False]),
        lambda text: [16, 15] if text == "mp3" else [],
        lambda: (TEXTS_TD, ENGLISH_ED),
        lambda: Evidence(lexicon, TOKENS),
    )


def first(found: list[Start]) -> list[int]:
    return [start.ids[0] if start.ids else -1 for start in found]


def test_the_recipe_names_the_methods() -> None:
    field = VocabInit.model_fields["method"]
    assert list(METHODS) == list(field.annotation.__args__) and field.default == "nearest"


def test_methods_by_vectors(material: Material) -> None:
    assert first(methods.nearest(material))[:3] == [10, 11, 15]
    assert first(methods.nearest_word(material))[:3] == [10, 11, 12]
    cosine_TE = TEXTS_TD @ ENGLISH_ED.T
    hub_E = cosine_TE.T.topk(len(TEXTS), dim=1).values[:, :10].mean(dim=1)
    scores_TE = 2 * cosine_TE - hub_E
    ids = material.ids()
    for start, scores_E in zip(methods.csls(material), scores_TE, strict=True):
        order = scores_E.argsort(descending=True)[: methods.SHOWN]
        assert start.scores == pytest.approx(scores_E[order].tolist(), abs=1e-4)
        assert start.ids[0] == ids[int(order[0])] or scores_E[order[0]] - scores_E[order[1]] < 1e-6
    mixed = methods.softmax_k(material)[0]
    expected = torch.softmax(cosine_TE[0] / methods.TEMPERATURE, dim=0)
    assert mixed.ids[0] == 10 and mixed.weights[0] == pytest.approx(float(expected[0]), abs=1e-5)
    shared = methods.sparsemax(material)  # of the candidates only 🏈 is a piece too
    assert {i for start in shared for i in start.ids} == {14}
    assert all(sum(start.weights) == pytest.approx(1) for start in [mixed, *shared])


def test_methods_by_counts(material: Material) -> None:
    assert first(methods.alignment(material))[:4] == [10, 12, -1, 15]
    several = methods.composed(material)[2]
    assert (several.ids, several.weights, several.rule) == ([11, 12], [0.5, 0.5], "counted")
    # 猫 was aligned once, too few: the nearest of the words that the pairs hold
    both = methods.alignment_nearest(material)
    assert [start.rule for start in both[:3]] == ["counted", "nearest", "nearest"]
    assert set(both[1].ids) <= {10, 12}
    assert methods.mean(material) == [MEAN] * len(TEXTS)
    drawn = methods.random(material)
    assert drawn == methods.random(material) and set(first(drawn)) <= {10, 11, 12}


@pytest.mark.parametrize("method", [name for name in METHODS if name != "nearest"])
def test_every_kind_follows_its_rule_under_every_method(method: str, material: Material) -> None:
    found = starts(method, material)
    assert list(found) == TEXTS
    assert found["、"] == Start([15], [1.0], [1.0], "copied") and found["🏈"].ids == [14]
    assert found["mp3"].ids == [16, 15] and found["mp3"].rule == "composed"
    assert found["\n"] == MEAN and found["は"] == MEAN
    counts = method in ("alignment", "alignment_nearest", "composed")
    assert found["の"].ids == ([15] if counts else [])


def test_sparsemax_is_the_projection_onto_the_simplex() -> None:
    scores_TN = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)).sort(
        dim=1, descending=True
    )[0]
    weights_TN = sparsemax_weights(scores_TN)
    assert torch.allclose(weights_TN.sum(dim=1), torch.ones(40), atol=1e-6)
    assert (weights_TN == 0).any() and (weights_TN > 0).any()
    # no other point of the simplex is nearer: moving weight between any two raises the distance
    step = 1e-3
    distance_T = (weights_TN - scores_TN).square().sum(dim=1)
    for i, j in itertools.permutations(range(6), 2):
        moved_TN = weights_TN.clone()
        moved_TN[:, i] -= step
        moved_TN[:, j] += step
        inside_T = (moved_TN >= 0).all(dim=1)
        worse_T = (moved_TN - scores_TN).square().sum(dim=1) >= distance_T - 1e-7
        assert worse_T[inside_T].all()


def test_the_gold_list_is_sound() -> None:
    words = gold.read("ja")
    assert len(words) >= 300 and len({word.text for word in words}) == len(words)
    assert len({word.kind for word in words}) >= 10 and not gold.read("xx")
    for word in words:
        assert kind_of(word.text, JAPANESE) in ("word", "fragment"), word
        assert all(one.isascii() and one.isalpha() and one.islower() for one in word.accepted)
    path = Path(gold.__file__).with_name("gold_ja.tsv")
    assert b"\r" not in path.read_bytes()


def test_the_gold_list_judges_first_words() -> None:
    words = [word for word in gold.read("ja") if word.text in ("猫", "赤い", "空", "犬")]
    found = {
        "猫": Start([11, 12], [1.0, 0.0], [], "nearest"),
        "犬": Start([11, 12], [1.0, 0.0], [], "nearest"),
        "赤い": Start([10, 11], [0.6, 0.4], [], "mixed"),
        "空": Start([16, 13], [0.5, 0.5], [], "counted"),
    }
    judged = gold.judge(words, found, {**dict(WORDS), 16: "s", 13: "ky"})
    assert (judged.right, judged.words, judged.wrong) == (3, 4, {"犬": "cat"})
    assert judged.kinds == {"animal": [1, 2], "nature": [1, 1], "adjective": [1, 1]} or (
        judged.kinds["colour"] == [1, 1]
    )
    assert gold.judge(words, {"猫": MEAN}, {}).wrong == {"猫": ""}


@pytest.mark.full_size
def test_the_neighbours_of_a_whole_vocabulary_at_real_width() -> None:
    """51,200 x 49,408 x 1,024, in two gigabytes and three minutes of two cores; as brute force."""
    generator = torch.Generator().manual_seed(0)
    texts_TD, words_ED = (
        torch.nn.functional.normalize(torch.randn(rows, 1024, generator=generator), dim=1)
        for rows in (51_200, 49_408)
    )
    begun = time.process_time()
    ids_TN, cosine_TN = nearest(texts_TD, words_ED, 3)
    seconds = time.process_time() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{seconds:.0f} seconds of one core, {peak / 1e9:.2f} GB with all libraries")
    for row in range(0, 51_200, 1999):
        scores_E = (words_ED.double() @ texts_TD[row].double()).float()
        best = np.argsort(-scores_E.numpy(), kind="stable")[:3]
        assert ids_TN[row].tolist() == best.tolist()
        assert torch.allclose(cosine_TN[row], scores_E[best], atol=1e-7)
    assert peak < 2e9 and seconds < 2 * 180
