"""Every picture lands in the bucket that loses least of it, whole numbers all the way."""

from math import log

from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schema.pictures import Buckets, PictureData
from finetune.pictures import buckets

SOURCES = [{"kind": "toyworld", "scenes": 1}]
SIDES = st.integers(1, 3000)


@st.composite
def picture_data(draw: st.DrawFn) -> PictureData:
    step = draw(st.sampled_from([1, 8, 32, 64]))
    least, resolution, most = sorted(draw(st.integers(1, 32)) * step for _ in range(3))
    resolution = min(most, resolution + draw(st.integers(0, 63)))
    return PictureData.model_validate(
        {
            "resolution": resolution,
            "buckets": {"step": step, "min_side": least, "max_side": most},
            "crop": "random",
            "crops": draw(st.integers(1, 4)),
            "flip": draw(st.booleans()),
            "sources": SOURCES,
        }
    )


@settings(deadline=None, max_examples=200)
@given(picture_data(), st.tuples(SIDES, SIDES))
def test_every_size_lands_in_the_nearest_bucket_and_covers_it(
    data: PictureData, size: tuple[int, int]
) -> None:
    assert data.buckets
    step, least, most = data.buckets.step, data.buckets.min_side, data.buckets.max_side
    among = buckets.sizes(data.resolution, data.buckets)
    allowed = range(least, most + 1, step)
    for width, height in among:
        assert width in allowed and height in allowed and width * height <= data.resolution**2
        assert (height, width) in among

    bucket = buckets.nearest(size, among)

    def error(one: tuple[int, int]) -> float:
        return abs(log(one[0] / one[1]) - log(size[0] / size[1]))

    assert error(bucket) <= min(map(error, among)) + 1e-9
    for width in allowed:
        heights = [one for one in allowed if one * width <= data.resolution**2]
        assert not heights or (width, max(heights)) in among

    resized = buckets.cover(size, bucket)
    slack = (resized[0] - bucket[0], resized[1] - bucket[1])
    assert min(slack) == 0
    exact = max(bucket[0] / size[0], bucket[1] / size[1])
    for side, made in zip(size, resized, strict=True):
        assert abs(side * exact - made) <= 0.5 + 1e-6

    if max(size) <= 20 * min(size):
        found = buckets.crops("0" * 64, size, bucket, data)
        assert all(0 <= one.left <= slack[0] and 0 <= one.top <= slack[1] for one in found)
        assert len({one.key("0" * 64) for one in found}) == len(found)
        assert len(found) == min(data.crops, sum(slack) + 1) * (2 if data.flip else 1)
        more = buckets.crops("0" * 64, size, bucket, data.model_copy(update={"crops": 5}))
        assert set(found) <= set(more)


def test_the_sizes_sdxl_was_trained_with_are_among_the_default_ones() -> None:
    """Table 2 of the report of SDXL, but for those of more than the square's area."""
    found = buckets.sizes(1024, Buckets())
    for size in ((1024, 1024), (832, 1216), (896, 1152), (768, 1344), (640, 1536), (512, 2048)):
        assert size in found and size[::-1] in found
    assert buckets.nearest((3000, 2000), found) == (1216, 832)
    assert buckets.sizes(512, None) == [(512, 512)]


def test_a_picture_turned_lands_in_the_bucket_turned() -> None:
    among = buckets.sizes(1024, Buckets())
    for width in range(200, 900, 7):
        bucket = buckets.nearest((width, 500), among)
        if buckets.kept_share((width, 500), bucket) != buckets.kept_share(
            (width, 500), bucket[::-1]
        ):
            assert buckets.nearest((500, width), among) == bucket[::-1]
