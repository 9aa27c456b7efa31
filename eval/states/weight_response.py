"""Does a word's weight do in the student's language what it does in English?

In:  pairs with the pieces that have a translation in them; the encoders of two rows.
Out: a row for the student and one for the teacher, the same word of each pair at `WEIGHT`; how
     alike the two move the UNet's prediction. Nothing on disk.

Weights are applied as ComfyUI applies them (distill/prompt.py, distill/encoders/weighted_prompts.py
have its rule and A1111's): a state moves from the empty prompt's by the weight. A1111's also scales
every state to restore their mean, which moves the prediction by more than the word.
"""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from configs.schema.recipe import Recipe
from corpora.pair import Pair
from distill import prompt
from distill.encoders import weighted_prompts
from distill.encoders.family import Family
from distill.encoders.teacher import Encoding, TextEncoders, load_tokenizer
from distill.prompt import Style, WeightedText
from distill.tokenizer import portable
from distill.tokens.translations import WORD, Unit
from eval.intervals import bootstrap
from eval.rows import STUDENT, TEACHER
from eval.states.noise_gap import Couple, Distances, between
from eval.states.prompt_forms import STUDENTS, TEACHERS

WEIGHT = 1.4
STYLE: Style = "comfyui"
STUDENT_WEIGHTED, TEACHER_WEIGHTED = f"{STUDENTS}weighted", f"{TEACHERS}weighted"
ROWS = (STUDENT_WEIGHTED, TEACHER_WEIGHTED)
MOVES = (STUDENT, STUDENT_WEIGHTED), (TEACHER, TEACHER_WEIGHTED)
Place = tuple[int, int]


def add_rows(
    recipe: Recipe,
    family: Family,
    pairs: Sequence[Pair],
    units: Sequence[list[Unit]],
    teacher: dict[str, list[str]],
    student: dict[str, list[str]],
) -> None:
    """Adds to what both read, by row, the pairs with a word at `WEIGHT`; a pair without one as it
    is. Raises DataError.
    """
    own = portable.load(recipe.run_dir / "initial_student" / "tokenizer")
    english = load_tokenizer(recipe.distill.base.path, next(iter(family.parts.values())))
    couples = []
    for pair, found in zip(pairs, units, strict=True):
        words = one_word(pair, found, random.Random(f"{recipe.eval.seed} {pair.text}"))
        whole = _is_plain(pair.text, own) and _is_plain(pair.en, english)
        couples.append(
            (_weighted(pair.text, words[0]), _weighted(pair.en, words[1]))
            if words and whole
            else (pair.text, pair.en)
        )
    student[STUDENT_WEIGHTED], teacher[TEACHER_WEIGHTED] = map(list, zip(*couples, strict=True))


def one_word(pair: Pair, units: Sequence[Unit], draw: random.Random) -> tuple[Place, Place] | None:
    """Where a word stands in the text and where in the English, of those that stand in each once
    and translate each other alone; None where there is none.
    """
    english = [(found.group().lower(), found.span()) for found in WORD.finditer(pair.en)]
    first = [unit.words[0] for unit in units]
    certain = []
    for unit in units:
        places = [place for word, place in english if word == unit.words[0]]
        piece = pair.text[unit.start : unit.end]
        if len(places) == first.count(unit.words[0]) == pair.text.count(piece) == 1:
            certain.append(((unit.start, unit.end), places[0]))
    return draw.choice(certain) if certain else None


def _is_plain(text: str, tokenizer: Any) -> bool:
    """Whether a text has no signs that would be read as markup, and is read to its end."""
    count = len(tokenizer(text, verbose=False).input_ids)
    unmarked = prompt.read(text, STYLE) == [WeightedText(text, [1.0] * len(text))]
    return unmarked and count <= tokenizer.model_max_length


def _weighted(text: str, place: Place) -> str:
    start, end = place
    return f"{text[:start]}({text[start:end]}:{WEIGHT}){text[end:]}"


def encode(encoders: TextEncoders, prompts: list[str]) -> Encoding:
    """The first window of each prompt, its weights applied: (B, L, D) by part, and (B, P)."""
    length = next(iter(encoders.tokenizers.values())).model_max_length
    windows = [
        Encoding({name: states[:, :length] for name, states in one.states.items()}, one.pooled_BP)
        for one in weighted_prompts.encode(encoders, prompts, STYLE)
    ]
    names = windows[0].named()
    return Encoding.of({name: torch.cat([one.named()[name] for one in windows]) for name in names})


def comparisons() -> list[Couple]:
    """What `noise_gap.distances` must compare."""
    return between(*MOVES)


def measure(student: dict[str, list[str]], base: Distances, seed: int) -> dict[str, Any]:
    """`{"cosine", "size": {"value", "low", "high"}, "weight", "pairs"}` of how the base UNet's
    prediction moves when the word is raised: the cosine between student and teacher, the mean over
    pairs, and how far the student's moves over how far the teacher's does. Empty where no pair
    has a word. `student`: what it read, by row.
    """
    plain = zip(student[STUDENT], student[STUDENT_WEIGHTED], strict=True)
    sizes = [np.sqrt(base.squared[move].sum(axis=1)) for move in MOVES]
    weighted = np.array([one != other for one, other in plain])[: base.pairs]
    some = weighted & (sizes[1] > 0)
    if not some.any():
        return {}
    own_N, wanted_N = (size[some] for size in sizes)
    inner_N = base.inner(*MOVES).sum(axis=1)[some]
    cosine_N = np.divide(inner_N, own_N * wanted_N, out=np.zeros_like(inner_N), where=own_N > 0)
    return {
        "cosine": bootstrap(cosine_N, seed=seed),
        "size": bootstrap(own_N, wanted_N, seed),
        "weight": WEIGHT,
        "pairs": int(some.sum()),
    }
