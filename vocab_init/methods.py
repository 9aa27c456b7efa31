"""From which English tokens the text of a Japanese piece starts: the methods, one function each.

In:  `Material`, what is known of the texts. Out: a `Start` a text; nothing on disk.

A method is a function of the material, named in `METHODS` and chosen by `vocab_init.method`. It
places every text; `starts` then applies the rules by kind (`text_kinds.py`) to all methods but
`nearest`, the reference.

Shape letters: T texts of the student's pieces, E candidate English tokens, D width, N neighbours.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from distill.tokens.alignment import Lexicon
from vocab_init.nearest import nearest as neighbors_of
from vocab_init.text_kinds import TextKind, copied

SHOWN = 3  # neighbours kept of a text, for people to read; it starts from the first
HUB_NEIGHBORS = 10  # Conneau et al. 2018, "Word Translation Without Parallel Data": CSLS with 10
MIXED = 8  # tokens of a softmax
TEMPERATURE = 0.02  # cosines of e5 differ by hundredths
# The support of a sparsemax is exact up to so many candidates; cosines of e5 support some dozens.
SUPPORT = 512
TEXTS_AT_ONCE = 1024
ENOUGH = 2.0  # alignments expected of a couple before its count outweighs the vectors


class Start(NamedTuple):
    """The tokens a text starts from, best first; none: the mean of all.

    `weights` sum to 1; one of weight 0 is only shown. `scores`: what the method ranked them by.
    `rule`: how they were found.
    """

    ids: list[int]
    weights: list[float]
    scores: list[float]
    rule: str


MEAN = Start([], [], [], "mean")


class Evidence(NamedTuple):
    """Translations counted from the pairs: sources are texts, targets index `tokens`."""

    lexicon: Lexicon
    tokens: list[tuple[int, ...]]


@dataclass(frozen=True)
class Material:
    """`texts`: of the pieces, with their kinds. `words`: (id, text) of the candidate tokens;
    `is_word`: (E,) bool, whether each ends a word and is made of letters.

    `pieces`: of a text, the ids of the tokens that CLIP cuts it into. `vectors` gives the texts'
    and the words' unit vectors, (T, D) and (E, D); `evidence` the translations. Both take long, and
    are asked for by the methods that need them.
    """

    texts: Sequence[str]
    kinds: Sequence[TextKind]
    words: Sequence[tuple[int, str]]
    is_word: np.ndarray
    pieces: Callable[[str], list[int]]
    vectors: Callable[[], tuple[torch.Tensor, torch.Tensor]]
    evidence: Callable[[], Evidence]
    seed: int = 0

    def ids(self) -> np.ndarray:
        """(E,): the candidates' token ids."""
        return np.array([token for token, _ in self.words], dtype=np.int64)


Method = Callable[[Material], list[Start]]


def nearest(material: Material) -> list[Start]:
    """The reference's: the nearest token of all by cosine similarity."""
    texts_TD, words_ED = material.vectors()
    return _hard(material.ids(), *neighbors_of(texts_TD, words_ED, SHOWN), "nearest")


def nearest_word(material: Material) -> list[Start]:
    """The nearest among whole words: no fragment, no symbol, no other script."""
    texts_TD, words_ED = material.vectors()
    is_word = torch.from_numpy(material.is_word)
    found = neighbors_of(texts_TD, words_ED[is_word], SHOWN)
    return _hard(material.ids()[material.is_word], *found, "nearest")


def csls(material: Material) -> list[Start]:
    """The nearest by cross-domain similarity local scaling, 2 cos(t, e) - r(t) - r(e): a token that
    is near to every text (a hub) is held back by r(e), its mean cosine with its nearest texts.
    """
    texts_TD, words_ED = material.vectors()
    hub_E1 = neighbors_of(words_ED, texts_TD, HUB_NEIGHBORS)[1].mean(dim=1, keepdim=True)
    one_T1 = torch.ones(len(texts_TD), 1)
    found = neighbors_of(
        torch.cat([2 * texts_TD, one_T1], dim=1), torch.cat([words_ED, -hub_E1], dim=1), SHOWN
    )
    return _hard(material.ids(), *found, "nearest")


def softmax_k(material: Material) -> list[Start]:
    """The nearest tokens, weighted by the softmax of cosine over TEMPERATURE."""
    texts_TD, words_ED = material.vectors()
    indices_TN, cosine_TN = neighbors_of(texts_TD, words_ED, MIXED)
    weights_TN = torch.softmax(cosine_TN / TEMPERATURE, dim=1)
    return _mixed(material.ids()[indices_TN.numpy()], weights_TN, cosine_TN)


def sparsemax(material: Material) -> list[Start]:
    """The texts that are pieces of both vocabularies, weighted by the sparsemax of their cosines
    (FOCUS, Dobler and de Melo 2023).
    """
    texts_TD, words_ED = material.vectors()
    own = set(material.texts)
    shared = np.array([text in own for _, text in material.words])
    if not shared.any():
        return [MEAN] * len(material.texts)
    shared_DE = words_ED[torch.from_numpy(shared)].T
    found = []
    for some_TD in texts_TD.split(TEXTS_AT_ONCE):
        cosine_TN, indices_TN = (some_TD @ shared_DE).topk(min(SUPPORT, shared_DE.shape[1]), dim=1)
        ids_TN = material.ids()[shared][indices_TN.numpy()]
        found += _mixed(ids_TN, sparsemax_weights(cosine_TN), cosine_TN)
    return found


def alignment(material: Material) -> list[Start]:
    """The best translation counted from the pairs that is one token; the mean without one."""
    return [_best(rows) for rows in _translations(material, most_tokens=1)]


def alignment_nearest(material: Material) -> list[Start]:
    """`alignment` where the couple was seen often enough; else the nearest of the words that occur
    in the pairs, with the mean of each side's vectors taken off.
    """
    counted = _translations(material, most_tokens=1)
    lexicon, tokens = material.evidence()
    occurring = [tokens[i][0] for i in np.unique(lexicon.target).tolist() if len(tokens[i]) == 1]
    ids = material.ids()
    occurs = np.isin(ids, occurring) & material.is_word
    if not occurs.any():
        return [_best(rows) for rows in counted]
    texts_TD, words_ED = material.vectors()
    found = neighbors_of(_centred(texts_TD), _centred(words_ED[torch.from_numpy(occurs)]), SHOWN)
    fallback = _hard(ids[occurs], *found, "nearest")
    return [
        _best(rows) if rows and rows[0][2] >= ENOUGH else other
        for rows, other in zip(counted, fallback, strict=True)
    ]


def composed(material: Material) -> list[Start]:
    """The best translation counted from the pairs, the mean of its tokens if it has several."""
    return [_best(rows) for rows in _translations(material, most_tokens=99)]


def mean(material: Material) -> list[Start]:
    """A floor: the mean of all tokens."""
    return [MEAN] * len(material.texts)


def random(material: Material) -> list[Start]:
    """A floor: any whole word."""
    ids = material.ids()[material.is_word]
    if not len(ids):
        return mean(material)
    drawn = np.random.default_rng(material.seed).integers(0, len(ids), len(material.texts))
    return [Start([int(ids[i])], [1.0], [0.0], "random") for i in drawn]


METHODS: Mapping[str, Method] = {
    method.__name__: method
    for method in (
        nearest,
        nearest_word,
        csls,
        softmax_k,
        sparsemax,
        alignment,
        alignment_nearest,
        composed,
        mean,
        random,
    )
}


def starts(method: str, material: Material) -> dict[str, Start]:
    """By text: what the method finds, and for the other kinds of text what their rule says."""
    found = METHODS[method](material)
    if method == "nearest":
        return dict(zip(material.texts, found, strict=True))
    tokens = {text: token for token, text in material.words}
    return {
        text: _by_kind(text, kind, start, tokens, material.pieces)
        for text, kind, start in zip(material.texts, material.kinds, found, strict=True)
    }


def sparsemax_weights(scores_TN: torch.Tensor) -> torch.Tensor:
    """(T, N) weights of scores sorted from the highest down (Martins and Astudillo 2016): the
    nearest point of the simplex, which is 0 for all but the highest scores.
    """
    rank_N = torch.arange(1, scores_TN.shape[1] + 1)
    sum_TN = scores_TN.double().cumsum(dim=1)
    size_T1 = (1 + rank_N * scores_TN.double() > sum_TN).sum(dim=1, keepdim=True)
    threshold_T1 = (sum_TN.gather(1, size_T1 - 1) - 1) / size_T1
    return (scores_TN.double() - threshold_T1).clamp_min(0).float()


def _by_kind(
    text: str,
    kind: TextKind,
    start: Start,
    tokens: Mapping[str, int],
    pieces: Callable[[str], list[int]],
) -> Start:
    if kind == "word":
        return start
    if kind == "fragment":
        return start if start.rule == "counted" else MEAN
    token = None if kind == "control" else copied(text, tokens)
    if token is not None:
        return Start([token], [1.0], [1.0], "copied")
    parts = pieces(text) if kind in ("digit", "latin") else []
    return _together(parts, 1.0, "composed") if parts else MEAN


Row = tuple[tuple[int, ...], float, float]  # tokens, score, count of one translation


def _translations(material: Material, most_tokens: int) -> list[list[Row]]:
    """The best SHOWN translations of every text that have at most so many tokens."""
    lexicon, tokens = material.evidence()
    begins: list[int] = lexicon.best(len(material.texts)).tolist()
    found = []
    for first, last in pairwise(begins):
        rows: list[Row] = []
        for i in range(first, last):
            one = tokens[lexicon.target[i]]
            if len(one) <= most_tokens and lexicon.score[i] > 0:
                rows.append((one, float(lexicon.score[i]), float(lexicon.seen[i])))
                if len(rows) == SHOWN:
                    break
        found.append(rows)
    return found


def _best(rows: list[Row]) -> Start:
    if not rows:
        return MEAN
    if len(rows[0][0]) > 1:
        return _together(list(rows[0][0]), rows[0][1], "counted")
    shown = [row for row in rows if len(row[0]) == 1]
    weights = [1.0] + [0.0] * (len(shown) - 1)
    return Start([row[0][0] for row in shown], weights, [row[1] for row in shown], "counted")


def _together(ids: list[int], score: float, rule: str) -> Start:
    return Start(ids, [1 / len(ids)] * len(ids), [score] * len(ids), rule)


def _hard(
    ids: np.ndarray, indices_TN: torch.Tensor, scores_TN: torch.Tensor, rule: str
) -> list[Start]:
    """Starts from the first of the neighbours, if there is any; `indices_TN` are positions in
    `ids`.
    """
    if not indices_TN.shape[1]:
        return [MEAN] * len(indices_TN)
    weights = [1.0] + [0.0] * (indices_TN.shape[1] - 1)
    return [
        Start(ids[indices].tolist(), weights, [round(score, 4) for score in scores], rule)
        for indices, scores in zip(indices_TN.numpy(), scores_TN.tolist(), strict=True)
    ]


def _mixed(ids_TN: np.ndarray, weights_TN: torch.Tensor, scores_TN: torch.Tensor) -> list[Start]:
    found = []
    for ids, weights, scores in zip(
        ids_TN.tolist(), weights_TN.tolist(), scores_TN.tolist(), strict=True
    ):
        used = sum(weight > 0 for weight in weights)
        rounded = [round(score, 4) for score in scores[:used]]
        found.append(Start(ids[:used], weights[:used], rounded, "mixed"))
    return found


def _centred(vectors_RD: torch.Tensor) -> torch.Tensor:
    """Unit vectors (R, D) with their mean taken off, at unit length again."""
    return torch.nn.functional.normalize(vectors_RD - vectors_RD.mean(dim=0), dim=1)
