"""Whether the right things are painted, by how many training pairs speak of them.

In and out: scenes of a world, what was read from their pictures, and counts in; shares out.
"""

from collections.abc import Mapping
from typing import Any

from corpora.worlds import World
from eval.intervals import share

# Least number of training pairs, by the name of the bucket.
BUCKETS = {"1,000 or more": 1000, "100 to 999": 100, "10 to 99": 10, "1 to 9": 1, "unseen": 0}


def things_by_frequency(
    world: World, scenes: list[Any], readings: list[Any], spoken: Mapping[str, int]
) -> dict[str, Any]:
    """`{bucket: share}` of the things that stand at their place, those of buckets that any thing is
    in; `spoken`: pairs by the name of a thing. A thing that a scene counts is one for each.
    """
    right: dict[str, list[bool]] = {bucket: [] for bucket in BUCKETS}
    for scene, reading in zip(scenes, readings, strict=True):
        names, found = world.names(scene), world.things_right(scene, reading)
        for name, is_right in zip(names, found, strict=True):
            right[bucket_of(spoken.get(name, 0))].append(is_right)
    return {bucket: share(found) for bucket, found in right.items() if found}


def bucket_of(pairs: int) -> str:
    """The bucket of a thing that so many pairs speak of."""
    return next(bucket for bucket, least in BUCKETS.items() if pairs >= least)
