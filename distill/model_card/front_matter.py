"""The YAML head of a model card, as the Hugging Face Hub reads it: what the model is, what it was
made from, its pictures and its figures.

In:  the recipe, what the folder was exported from, what was measured.
Out: a mapping; `model-index` as huggingface_hub writes and reads it.
"""

import re
from typing import Any

from huggingface_hub import EvalResult
from huggingface_hub.repocard_data import eval_results_to_model_index

from configs.references import looks_like_hub_name
from configs.schema.recipe import Recipe
from configs.schema.sources import HubSource
from distill.encoders.family import Family
from distill.model_card.evaluation import Pictures, States

TAGS = ("knowledge-distillation", "sdxl-mother-tongue")
LICENSE_LINKS = {
    "openrail++": "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0"
    "/blob/main/LICENSE.md",
    "creativeml-openrail-m": "https://huggingface.co/spaces/CompVis/stable-diffusion-license",
}
SHOWN = 4  # pictures in the Hub's gallery
OF_THE_HUB = re.compile(r"hf://datasets/([^/@]+/[^/@]+)")


def front_matter(
    kind: str,
    pipeline: str,
    family: Family,
    recipe: Recipe,
    made_from: dict[str, str],
    comparison: States | None,
    pictures: Pictures | None,
) -> dict[str, Any]:
    """`pictures` and `comparison` are those that the card shows."""
    link = LICENSE_LINKS.get(recipe.export.license)
    teacher, english = made_from["teacher"], recipe.distill.english_share > 0
    base = {"base_model": teacher, "base_model_relation": "finetune"}
    found = {
        "language": [recipe.language, *(["en"] if english else [])],
        "license": recipe.export.license,
        "license_link": link,
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image" if pipeline == family.pipelines[0] else "image-to-image",
        **(base if looks_like_hub_name(teacher) else {}),
        "datasets": datasets(recipe),
        "tags": [
            family.tag,
            recipe.text_language.name.lower(),
            *TAGS,
            *(["text-encoder"] if kind == "encoders" else []),
        ],
        "widget": [
            {"text": one.text, "output": {"url": picture_of(one.number)}}
            for one in (pictures.examples if pictures else [])[:SHOWN]
        ],
        "model-index": _model_index(recipe, comparison, pictures),
    }
    return {name: value for name, value in found.items() if value}


def picture_of(number: int) -> str:
    """Where picture `number` of the grid lies in the folder, by itself."""
    return f"images/{number}.png"


def datasets(recipe: Recipe) -> list[str]:
    """The recipe's sources that are data sets on the Hub, by their names there; their licences and
    all other sources stand in the card's table.
    """
    names = []
    for source in recipe.corpora.sources:
        if isinstance(source, HubSource) and looks_like_hub_name(source.dataset):
            names.append(source.dataset)
        names += OF_THE_HUB.findall(str(getattr(source, "path", "")))
    return list(dict.fromkeys(names))


def _model_index(
    recipe: Recipe, comparison: States | None, pictures: Pictures | None
) -> list[dict[str, Any]]:
    """The student's figures on the recipe's held-out texts; empty before any was measured."""
    figures: list[tuple[str, str, float | None]] = []
    if comparison:
        figures += [
            ("noise_prediction_gap", "Noise-prediction gap (0 is best)", comparison.gap),
            ("recall_at_1", "Recall@1 to English", comparison.recall_at_1),
        ]
    if pictures:
        figures.append(("accuracy", "Scene accuracy", pictures.accuracy))
    measured = [
        EvalResult(
            task_type="text-to-image",
            dataset_type=next(iter(datasets(recipe)), "parallel-text"),
            dataset_name=f"held-out texts of {recipe.name}",
            metric_type=kind,
            metric_name=name,
            metric_value=value,
        )
        for kind, name, value in figures
        if value is not None
    ]
    return eval_results_to_model_index(recipe.name, measured) if measured else []
