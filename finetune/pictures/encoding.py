"""Pictures whose latents are not in the cache yet: read again, decoded, cut, encoded.

Decoding goes ahead of the VAE in threads; a batch is pictures of one bucket.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from configs.errors import DataError
from configs.schema.pictures import PictureData
from finetune.pictures import pixels, sources
from finetune.pictures.buckets import Size
from finetune.pictures.latent_files import LatentWriter, bucket_name
from finetune.pictures.plan import Plan, PlannedPicture
from finetune.pictures.sources.captioned import NotThere
from finetune.pictures.vae import Vae

BATCH_PIXELS = 1 << 20  # 1024 x 1024: more at once makes no GPU faster, and takes gigabytes each
MOST_PICTURES = 64
THREADS = min(8, os.cpu_count() or 1)

Prepared = list[tuple[str, np.ndarray]]  # keys, and pixels (H, W, 3)


class Waiting(NamedTuple):
    """A crop that waits for others of its bucket."""

    where: str
    key: str
    pixels_HW3: np.ndarray


class LatentEncoding:
    """`missing`: the keys to make. Raises DataError where latents are not finite."""

    def __init__(self, vae: Vae, base: str, writer: LatentWriter, missing: set[str]) -> None:
        self.vae, self.base, self.writer, self.missing = vae, base, writer, missing
        self.waiting: dict[Size, list[Waiting]] = {}

    def run(self, settings: PictureData, plan: Plan) -> None:
        """Encodes what is missing; pictures that cannot be decoded are taken out of the plan and
        counted there. What is made is on disk afterwards, whatever ended it.
        """
        undecodable = set()
        pictures = [one for one in plan.pictures if not self.missing.isdisjoint(one.keys)]
        with tqdm(desc="latents", unit=" crops", total=len(self.missing)) as bar:
            try:
                for one, prepared in _ahead(_loaded(settings, pictures), self._prepared):
                    if isinstance(prepared, str):
                        undecodable.add(one.sha256)
                        plan.dropped[one.source][prepared] += 1
                        bar.total = (bar.total or 0) - len(self.missing.intersection(one.keys))
                        continue
                    where = f"{plan.labels[one.source]}: {one.file}"
                    for key, cut in prepared:
                        bar.update(self._add(Waiting(where, key, cut)))
                for bucket in list(self.waiting):
                    bar.update(self._encode(bucket))
            finally:
                self.writer.flush()
        plan.pictures = [one for one in plan.pictures if one.sha256 not in undecodable]

    def _prepared(self, one: PlannedPicture, data: bytes) -> Prepared | str:
        """The crops that are missing, or why there is none."""
        if hashlib.sha256(data).hexdigest() != one.sha256:
            raise DataError(
                f"{one.file}: changed while the pictures were read; run the same command again"
            )
        try:
            image = pixels.decode(data)
        except NotThere as error:
            return str(error)
        wanted = zip(one.keys, one.crops, strict=True)
        return [(key, pixels.cut(image, crop)) for key, crop in wanted if key in self.missing]

    def _add(self, one: Waiting) -> int:
        """Encodes the bucket when its batch is full; how many crops that were."""
        height, width, _ = one.pixels_HW3.shape
        waiting = self.waiting.setdefault((width, height), [])
        waiting.append(one)
        full = len(waiting) == MOST_PICTURES or (len(waiting) + 1) * width * height > BATCH_PIXELS
        return self._encode((width, height)) if full else 0

    def _encode(self, bucket: Size) -> int:
        batch = self.waiting.pop(bucket)
        mean_BCHW, std_BCHW = self.vae.encode(np.stack([one.pixels_HW3 for one in batch]))
        for one, mean_CHW, std_CHW in zip(batch, mean_BCHW, std_BCHW, strict=True):
            if not (torch.isfinite(mean_CHW).all() and torch.isfinite(std_CHW).all()):
                raise DataError(
                    f"{one.where}: the VAE of {self.base} makes latents of it that are not finite; "
                    "encode with undamaged weights in fp32, or with a VAE fixed for fp16 such as "
                    "madebyollin/sdxl-vae-fp16-fix"
                )
            self.writer.add(one.key, bucket_name(bucket), mean_CHW, std_CHW)
        return len(batch)


def _loaded(
    settings: PictureData, pictures: list[PlannedPicture]
) -> Iterator[tuple[PlannedPicture, bytes]]:
    """The pictures with their bytes, in the sources' order; only theirs are read."""
    for number, source in enumerate(settings.sources):
        wanted = {one.place: one for one in pictures if one.source == number}
        if not wanted:
            continue
        for place, found in enumerate(sources.read(source)):
            if (one := wanted.pop(place, None)) is not None:
                try:
                    yield one, found.load()
                except NotThere:
                    yield one, b""  # told where the digests are compared
            if not wanted:
                break
        if wanted:
            gone = next(iter(wanted.values()))
            raise DataError(f"{gone.file}: gone while the pictures were read; run again")


def _ahead(
    items: Iterator[tuple[PlannedPicture, bytes]],
    prepare: Callable[[PlannedPicture, bytes], Prepared | str],
) -> Iterator[tuple[PlannedPicture, Prepared | str]]:
    """Prepares some items before they are asked for, and gives them in order."""
    pending: deque[tuple[PlannedPicture, Future[Any]]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for one, data in items:
                pending.append((one, pool.submit(prepare, one, data)))
                if len(pending) > 2 * THREADS:
                    first, result = pending.popleft()
                    yield first, result.result()
            while pending:
                first, result = pending.popleft()
                yield first, result.result()
        finally:
            for _, left in pending:
                left.cancel()
