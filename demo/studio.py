"""Paints what the page asks for: a Japanese prompt through the exported encoders, and beside it an
English one through their teacher's, from the same seeds and through the same UNet.

In:  an export, its teacher, its refiner; what a user has filled in.
Out: pictures one after the other, pair by pair; the tokens of a prompt.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from configs.errors import DataError
from configs.references import looks_like_hub_name
from distill import prompt
from distill.prompt import Style
from distill.sdxl.repository import INDEX
from distill.verify.record import VERIFICATION, Verification
from eval.paint import kinds, models, painter, request, window
from eval.paint.models import PaintModels
from eval.paint.painter import Painted, Painter
from eval.paint.request import MULTIPLE, Request

Side = Literal["ja", "en"]
WINDOW = 75  # tokens of a prompt that are read at once, beside BOS and EOS


class Stopped(Exception):
    """The user has asked to stop."""


class Mistake(Exception):
    """What a user has filled in cannot be painted; `key` and `values` of a message in words.py."""

    def __init__(self, key: str, **values: object) -> None:
        super().__init__(key)
        self.key, self.values = key, values


class Places(NamedTuple):
    """Folders or hub names; `report` a file or an address. `teacher_given`: by the user."""

    base: str
    refiner: str | None
    teacher: str | None
    teacher_given: bool
    report: str | None

    @property
    def is_toyworld(self) -> bool:
        return any(str(name).startswith("toyworld:") for name in (self.base, self.teacher))


@dataclass(frozen=True)
class Wish:
    """What a user has filled in. An empty text is none; a number is None where the field was
    emptied. `weights` and `scheduler` are empty for the repository's own way.
    """

    japanese: str
    english: str
    japanese_negative: str
    english_negative: str
    weights: Style | Literal[""]
    steps: int | None
    guidance: float | None
    scheduler: str
    width: int | None
    height: int | None
    count: int | None
    seed: int | None
    refine: bool
    denoising_end: float
    start: str | None
    strength: float


class SidePicture(NamedTuple):
    """The picture of one side. With the first of each side come `cut`, what is not read of its
    prompts, and `notices`, lines for the user.
    """

    side: Side
    painted: Painted
    cut: tuple[str, ...]
    notices: tuple[str, ...]


@dataclass(frozen=True)
class Studio:
    """`models` by side; English only where there is a teacher. One picture is painted at a time."""

    places: Places
    models: dict[Side, PaintModels]
    lock: threading.Lock = field(default_factory=threading.Lock)

    def tokens(self, side: Side, text: str, weights: Style | Literal[""]) -> int:
        """Of a prompt, BOS and EOS left out; the most that one of the tokenizers makes of it."""
        texts = [one.text for one in prompt.read(text, weights)] if weights else [text]
        loaded = self.models[side]
        tokenizers = window.tokenizers(loaded.family, loaded.pipelines)
        return sum(window.count(one, tokenizers) for one in texts)

    def paint(
        self, wish: Wish, on_progress: Callable[[float], None], stop: threading.Event
    ) -> Iterator[SidePicture]:
        """Seed by seed, Japanese first. `on_progress` is told the share of all steps that are done.

        Raises Stopped once `stop` is set, and, before anything is painted, Mistake, RecipeError and
        DataError for what cannot be.
        """
        check(wish)
        ready = self._ready(wish)
        seeds = next(iter(ready.values())).request.seeds(0)
        jobs = [(seed, side) for seed in seeds for side in ready]

        for number, (seed, side) in enumerate(jobs):

            def on_step(done: float, number: int = number) -> None:
                if stop.is_set():
                    raise Stopped
                on_progress((number + done) / len(jobs))

            with self.lock:
                on_step(0.0)
                (painted,) = _painted(ready[side], [seed], on_step)
            first = seed == seeds[0]
            notices = ready[side].notices if first else ()
            yield SidePicture(side, painted, _cut(ready[side]) if first else (), notices)

    def _ready(self, wish: Wish) -> dict[Side, Painter]:
        texts: dict[Side, tuple[str, str]] = {"ja": (wish.japanese, wish.japanese_negative)}
        if wish.english.strip() and "en" in self.models:
            texts["en"] = (wish.english, wish.english_negative)
        found = {}
        for side, (positive, negative) in texts.items():
            asked = self._request(wish, positive, negative)
            request.check(asked)
            found[side] = painter.prepare(self.models[side], asked)
        return found

    def _request(self, wish: Wish, positive: str, negative: str) -> Request:
        assert wish.steps and wish.count and wish.seed is not None
        refine = wish.refine and self.places.refiner is not None
        return Request(
            repository=self.places.base,
            prompts=(positive,),
            refiner=self.places.refiner if refine else None,
            negative_prompt=negative or None,
            weights=wish.weights or None,
            steps=wish.steps,
            guidance_scale=wish.guidance,
            seed=wish.seed,
            height=wish.height,
            width=wish.width,
            n_samples=wish.count,
            init_image=Path(wish.start) if wish.start else None,
            strength=wish.strength if wish.start else None,
            scheduler=wish.scheduler or None,
            denoising_end=wish.denoising_end if refine else None,
        )


def find(export: str, teacher: str | None, refiner: str | None, report: str | None) -> Places:
    """Where what was not given lies: beside the export, as a run leaves it. Raises DataError for
    what is no base.
    """
    folder = Path(export)
    is_whole = (folder / "base" / INDEX).is_file()
    base = str(folder / "base") if is_whole else export
    if refiner is None and is_whole and (folder / "refiner" / INDEX).is_file():
        refiner = str(folder / "refiner")
    page = Path(base).parent.parent / "eval" / "report.html"
    if report is None and Path(base).is_dir() and page.is_file():
        report = str(page)
    if report and not report.startswith(("https://", "http://")) and not Path(report).is_file():
        raise DataError(f"--report {report}: there is no such file; give a page, or an address")
    named = teacher or _teacher_of(kinds.base(base).folder)
    return Places(base, refiner, named, teacher is not None, report)


def _teacher_of(folder: Path) -> str | None:
    """As the export names it, if it can be found by that name."""
    if not (folder / VERIFICATION).is_file():
        return None
    record = Verification.read(folder / VERIFICATION, "run distill.export again")
    name = record.made_from.get("teacher", "")
    known = name.startswith(("toyworld:", "emojiworld:")) or looks_like_hub_name(name)
    return name if known or (Path(name) / INDEX).is_file() else None


def load(places: Places) -> tuple[Studio, str]:
    """And a line for the user where the English side is missing, else an empty one. Raises
    DataError; for the teacher only where the user has named it.
    """
    student = models.load(Request(places.base, (), refiner=places.refiner))
    found: dict[Side, PaintModels] = {"ja": student}
    notice = "" if places.teacher else "the export names no teacher that can be found"
    if places.teacher:
        try:
            found["en"] = models.with_text_encoders(student, places.teacher)
        except DataError as error:
            if places.teacher_given:
                raise
            notice = str(error)
    line = f"{notice}; without English pictures, unless --teacher names an SDXL" if notice else ""
    return Studio(places, found), line


def check(wish: Wish) -> None:
    """Raises Mistake for the first thing that is missing or of no use. What eval.paint checks as
    well and a form lets nobody enter is left to it.
    """
    if not wish.japanese.strip():
        raise Mistake("no_prompt")
    for name in ("steps", "guidance", "width", "height", "count", "seed"):
        if getattr(wish, name) is None:
            raise Mistake("no_number", field=name)
    for name in ("width", "height"):
        side = getattr(wish, name)
        if side % MULTIPLE:
            nearest = max(MULTIPLE, round(side / MULTIPLE) * MULTIPLE)
            raise Mistake("no_multiple", field=name, value=side, of=MULTIPLE, nearest=nearest)


def _painted(ready: Painter, seeds: list[int], on_step: Callable[[float], None]) -> list[Painted]:
    try:
        return painter.paint(ready, ready.request.prompts[0], seeds, on_step)
    except torch.OutOfMemoryError:
        raise Mistake("no_memory") from None


def _cut(ready: Painter) -> tuple[str, ...]:
    """The ends of the prompt and of the negative prompt that are not read."""
    asked = ready.request
    texts = dict.fromkeys((*asked.prompts, asked.negative_prompt or ""))
    return tuple(filter(None, (painter.not_read(ready, text) for text in texts)))
