"""The work of vocab_init.compare: every method's start, judged by the gold list and by what the
student computes from it.

Every method gets the same vocabulary, candidates, vectors, pairs and seed.
"""

import json
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from configs import pages
from configs.errors import RecipeError
from configs.files import whole
from configs.languages import Language
from configs.records import with_sha256
from configs.schema.recipe import Recipe
from corpora.pair import read_pairs
from distill.encoders.family import Family
from distill.encoders.student import initial_student, teacher_towers
from distill.encoders.teacher import Encoding, TextEncoders, load_text_encoders
from distill.objective.distances import nmse
from distill.sdxl.base import settled
from distill.tokenizer import portable
from vocab_init import gold, material, transplant
from vocab_init.initial_student import account, norms
from vocab_init.methods import METHODS, Material, Start, starts

FOLDER = "vocab_init"
OTHERS_SHOWN = 200  # words on the page beside those of the gold list
PROMPTS_AT_ONCE = 32
TIE = 1e-5  # cosines of equal vectors differ by rounding


def compare(recipe: Recipe, chosen: Sequence[str] | None) -> None:
    """Prints the table and writes the three files. Raises DataError and RecipeError."""
    unknown = [name for name in chosen or [] if name not in METHODS]
    if unknown:
        raise RecipeError(f"--methods {unknown[0]}: no method; they are {', '.join(METHODS)}")
    recipe, family = settled(recipe)
    teacher = transplant.read_teacher(recipe.distill.base.path, family, recipe.distill.teacher)
    words = gold.read(recipe.language)
    folder = recipe.run_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, dict[str, Any]] = {}
    found: dict[str, dict[str, Start]] = {}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as name:
        work = Path(name)
        multiple = recipe.vocab_init.pad_vocab_to_multiple_of
        vocabulary = portable.build(recipe.vocab_init.tokenizer.path, work / "tokenizer", multiple)
        student = portable.load(work / "tokenizer")
        known = material.of(recipe, vocabulary, student, teacher)
        states = StatesBefore(recipe, family, student)
        for method in chosen or METHODS:
            begun = time.monotonic()
            found[method] = starts(method, known)
            seconds = round(time.monotonic() - begun, 1)
            placed = transplant.rows(vocabulary, teacher, found[method])
            tables = transplant.transplant(placed, teacher, scale=method != "nearest")
            save_file(tables, work / "token_embeddings.safetensors")
            judged = gold.judge(words, found[method], teacher.texts())
            rows[method] = {
                "right": judged.right,
                "words": judged.words,
                "right_by_kind": judged.kinds,
                "wrong": judged.wrong,
                "seconds": seconds,
                **states.of(work),
                "rows_by_rule": account(placed, dict(zip(known.texts, known.kinds, strict=True))),
                "norms": {part: norms(tables[part], teacher.tables[part]) for part in tables},
            }
    text = table(rows)
    page = neighbors_page(found, known, teacher.texts(), words, recipe.text_language, text)
    _write(folder, recipe, rows, known.seed, text, page)


class StatesBefore:
    """The student's encodings of held-out texts before training, against the teacher's English."""

    def __init__(self, recipe: Recipe, family: Family, student: Any) -> None:
        settings = recipe.distill
        pairs = list(islice(read_pairs(recipe.run_dir / "pairs", "held_out"), recipe.eval.pairs))
        self.family = family
        self.teacher = load_text_encoders(settings.base.path, family, settings.teacher)
        own = TextEncoders(family, dict.fromkeys(family.parts, student), self.teacher.models)
        self.tokens, english = (
            [side.tokenize(texts[i : i + PROMPTS_AT_ONCE]) for i in starts_at(texts)]
            for side, texts in (
                (own, [pair.text for pair in pairs]),
                (self.teacher, [pair.en for pair in pairs]),
            )
        )
        self.english = _read(teacher_towers(self.teacher), english)

    def of(self, folder: Path) -> dict[str, Any]:
        """`nmse` and `recall_at_1` of the prompts' pooled state (the last part's EOS state for a
        family that reads none), and the largest difference of any BOS state, which must be 0.

        `folder`: holds the method's token embeddings.
        """
        towers = initial_student(self.teacher, folder).eval().requires_grad_(False)
        student_BD, bos = _read(towers, self.tokens)
        teacher_BD, teacher_bos = self.english
        numbers: dict[str, Any] = {
            "bos_difference": max(
                float((bos[part] - teacher_bos[part]).abs().max()) for part in self.family.parts
            )
        }
        if len(teacher_BD):
            variance_D = teacher_BD.var(dim=0, unbiased=False)
            unit = torch.nn.functional.normalize
            cosine_BB = unit(student_BD, dim=1) @ unit(teacher_BD, dim=1).T
            is_first = cosine_BB.diagonal() >= cosine_BB.max(dim=1).values - TIE
            numbers["pairs"] = len(teacher_BD)
            numbers["nmse"] = float(nmse(student_BD, teacher_BD, variance_D))
            numbers["recall_at_1"] = float(is_first.float().mean())
        return numbers


def starts_at(texts: Sequence[str]) -> range:
    return range(0, len(texts), PROMPTS_AT_ONCE)


@torch.no_grad()
def _read(towers: Any, batches: list[Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The prompts' states (B, D), and of each part the first prompt's BOS state (D,)."""
    found, bos = [], {}
    for tokens in batches:
        encoding: Encoding = towers(tokens)
        last = list(encoding.states)[-1]
        eos_B = tokens.eos[last]
        rows_B = torch.arange(len(eos_B))
        pooled_BP = encoding.pooled_BP
        found.append(encoding.states[last][rows_B, eos_B] if pooled_BP is None else pooled_BP)
        bos = {part: states_BLD[0, 0] for part, states_BLD in encoding.states.items()}
    return torch.cat([*found, torch.zeros(0, found[0].shape[1])]), bos


def _write(
    folder: Path,
    recipe: Recipe,
    rows: dict[str, dict[str, Any]],
    seed: int,
    text: str,
    page: str,
) -> None:
    print(text)
    result = with_sha256({"recipe": recipe.name, "seed": seed, "methods": rows})
    for name, content in (
        ("compare.json", json.dumps(result, ensure_ascii=False, indent=1)),
        ("compare.md", text),
        ("neighbors.html", page),
    ):
        with whole(folder / name) as temporary:
            temporary.write_text(content + "\n", encoding="utf-8")
    print(f"{folder / 'neighbors.html'}: what words start from, by each method")


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown, a line a method."""
    lines = [
        "| method | right translations | of words | nMSE | recall@1 | BOS difference | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for method, row in rows.items():
        share = f"{row['right'] / row['words']:.3f}" if row["words"] else "-"
        numbers = [f"{row[name]:.3f}" if name in row else "-" for name in ("nmse", "recall_at_1")]
        cells = [f"`{method}`", share, row["words"], *numbers, f"{row['bos_difference']:g}"]
        lines.append(f"| {' | '.join(map(str, [*cells, row['seconds']]))} |")
    return "\n".join(lines)


def neighbors_page(
    found: dict[str, dict[str, Start]],
    known: Material,
    texts: dict[int, str],
    words: list[gold.GoldWord],
    language: Language,
    summary: str,
) -> str:
    """HTML: the gold list's words, and other words evenly spaced, with what they start from.
    `texts`: of CLIP's tokens, by id.
    """
    accepted = {word.text: word.accepted for word in words}
    own = [
        text for text, kind in zip(known.texts, known.kinds, strict=True) if kind == "word"
    ]  # in the vocabulary's order, frequent ones first in most
    others = [text for text in own if text not in accepted]
    others = others[:: max(1, len(others) // OTHERS_SHOWN)][:OTHERS_SHOWN]
    shown = [text for text in accepted if text in set(own)] + others
    lines = [
        {
            "text": text,
            "accepted": " ".join(sorted(accepted.get(text, ()))),
            "starts": [
                _cell(starts_of[text], texts, accepted.get(text)) for starts_of in found.values()
            ],
        }
        for text in shown
    ]
    environment = pages.environment(Path(__file__).parent)
    return environment.get_template("neighbors.html.jinja").render(
        methods=list(found), lines=lines, language=language, summary=summary
    )


def _cell(
    start: Start, texts: dict[int, str], accepted: frozenset[str] | None
) -> dict[str, str | bool | None]:
    """One start: its first word, the others shown beside it, and whether it is a right one (None:
    not in the list).
    """
    first = gold.english(start, texts)
    rest = [texts[i] for i in start.ids[1:4]] if start.weights[:1] == [1.0] else []
    return {
        "first": first or start.rule,
        "rest": " ".join(rest),
        "right": None if accepted is None else first in accepted,
    }
