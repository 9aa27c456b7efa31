"""The first look at every picture: its digest, size, captions, bucket and crops, and which are
dropped and why. Nothing is decoded, and nothing is written.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from tqdm import tqdm

from configs.errors import DataError, RecipeError
from configs.files import value_sha256
from configs.schema.pictures import PictureData
from configs.schema.recipe import Recipe
from finetune.pictures import buckets, pixels, sources
from finetune.pictures.buckets import Crop, Size
from finetune.pictures.caption_tokens import CaptionTokens
from finetune.pictures.sources.captioned import CaptionedPicture, NotThere

DUPLICATE, NO_CAPTION, TOO_SMALL, TOO_WIDE = "duplicate", "no_caption", "too_small", "too_wide"
SIDES = ("左", "右")  # left and right: what a mirrored picture has the other way round
BATCH = 1000  # captions tokenised at once


@dataclass
class PlannedPicture:
    """`source` and `place`: the number of its source, and its own there. `sha256`: of its file.

    `size`: of the upright picture.
    """

    source: int
    place: int
    file: str
    sha256: str
    size: Size
    crops: list[Crop]
    texts: list[str]
    en: list[str]

    @cached_property
    def keys(self) -> list[str]:
        """Of its crops, in order."""
        return [crop.key(self.sha256) for crop in self.crops]


@dataclass
class Plan:
    """All pictures that are left, in order; and by source why the others are not."""

    labels: list[str]
    pictures: list[PlannedPicture] = field(default_factory=list)
    dropped: list[Counter[str]] = field(default_factory=list)
    too_long: int = 0

    @property
    def sha256(self) -> str:
        """Of everything in it that the finished folder depends on."""
        return value_sha256(
            [
                self.labels,
                [[one.source, one.file, one.keys, one.texts, one.en] for one in self.pictures],
                [dict(one) for one in self.dropped],
            ]
        )


def make(recipe: Recipe, settings: PictureData) -> Plan:
    """Raises DataError and RecipeError: for a source that cannot be read, mirrored captions that
    say left or right, and where no picture is left.
    """
    plan = Plan(sources.labels(settings.sources))
    sizes, seen = buckets.sizes(settings.resolution, settings.buckets), dict[str, PlannedPicture]()
    with tqdm(desc="pictures", unit=" pictures", unit_scale=True) as bar:
        for number, source in enumerate(settings.sources):
            plan.dropped.append(Counter())
            for place, found in enumerate(sources.read(source)):
                bar.update()
                _check_flip(settings, plan.labels[number], found)
                try:
                    one = _planned(settings, sizes, seen, number, place, found)
                except NotThere as error:
                    plan.dropped[number][str(error)] += 1
                else:
                    seen[one.sha256] = one
                    plan.pictures.append(one)
    if not plan.pictures:
        raise DataError(
            f"no picture is left; {losses(plan)}; correct the sources, or loosen the limits"
        )
    plan.too_long = _too_long(recipe, plan.pictures)
    return plan


def losses(plan: Plan) -> str:
    """Why pictures were dropped, in words."""
    total = sum(plan.dropped, Counter())
    return ", ".join(f"{reason} {count:,}" for reason, count in total.most_common()) or "none came"


def _planned(
    settings: PictureData,
    sizes: list[Size],
    seen: dict[str, PlannedPicture],
    number: int,
    place: int,
    found: CaptionedPicture,
) -> PlannedPicture:
    """Raises NotThere. A picture that was seen before leaves its captions to the first."""
    data = found.load()
    size = pixels.size_of(data)
    texts, en = list(dict.fromkeys(found.texts)), list(dict.fromkeys(found.en))
    if not texts:
        raise NotThere(NO_CAPTION)
    if max(size) > settings.max_aspect * min(size):
        raise NotThere(TOO_WIDE)
    bucket = buckets.nearest(size, sizes)
    if buckets.enlargement(size, bucket) > settings.max_enlargement:
        raise NotThere(TOO_SMALL)
    digest = hashlib.sha256(data).hexdigest()
    if (first := seen.get(digest)) is not None:
        first.texts = list(dict.fromkeys([*first.texts, *texts]))
        first.en = list(dict.fromkeys([*first.en, *en]))
        raise NotThere(DUPLICATE)
    crops = buckets.crops(digest, size, bucket, settings)
    return PlannedPicture(number, place, found.file, digest, size, crops, texts, en)


def _check_flip(settings: PictureData, label: str, found: CaptionedPicture) -> None:
    for text in found.texts if settings.flip else ():
        if any(side in text for side in SIDES):
            raise RecipeError(
                f"pictures.flip is true, and a caption says left or right: {text[:60]!r} "
                f"({label}, {found.file}); mirrored it would be wrong, so set pictures.flip to "
                "false"
            )


def _too_long(recipe: Recipe, pictures: list[PlannedPicture]) -> int:
    tokens = CaptionTokens(recipe)
    return sum(
        tokens.too_long(
            [text for one in batch for text in one.texts],
            [text for one in batch for text in one.en],
        )
        for batch in _batches(pictures)
    )


def _batches(pictures: list[PlannedPicture]) -> Iterator[list[PlannedPicture]]:
    for start in range(0, len(pictures), BATCH):
        yield pictures[start : start + BATCH]
