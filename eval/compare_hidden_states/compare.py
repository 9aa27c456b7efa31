"""How close the student's hidden states are to the teacher's, and how much the UNet's prediction
changes because of the difference.
"""

import shutil
from pathlib import Path
from typing import Any

from configs.errors import DataError, RecipeError
from configs.files import remove_unfinished, unfinished
from configs.schema.recipe import Recipe
from corpora.pair import Pair
from distill.encoders.family import Family
from distill.encoders.teacher import Encoding
from distill.sdxl.base import settled, unpack_files
from distill.sdxl.pipelines import Pipelines, load_pipelines, quiet
from eval import card, held_out, results
from eval.compare_hidden_states import table
from eval.compare_hidden_states.states import compare_states
from eval.intervals import bootstrap
from eval.pictures import painting
from eval.report import report
from eval.rows import ROWS, STUDENT, TEACHER
from eval.states import (
    collapse,
    noise_gap,
    prompt_forms,
    reference_rows,
    weight_response,
    word_order,
)
from eval.states.metrics import similarities
from eval.states.noise_gap import Couple, Distances
from eval.states.pair_numbers import Place, RowNumbers, whole_text

COMMAND = "python -m eval.compare_hidden_states RECIPE"
EXAMPLES = 12
GAPS = {"base": "noise_gap", "refiner": "refiner_noise_gap"}  # by UNet
LENGTHS = {
    "1-16": range(17),
    "17-32": range(17, 33),
    "33-77": range(33, 78),
    "over_77": range(78, 1 << 30),
}  # English CLIP tokens with BOS and EOS
# the settings the numbers depend on
COMPARING = {
    "pairs",
    "timesteps",
    "gap_pairs",
    "inference_steps",
    "guidance_scale",
    "denoising_end",
    "seed",
    "repositories",
    "translator",
}


def compare(recipe: Recipe) -> None:
    """The stage: compares, writes the JSON, prints the table, renders the report.

    Raises DataError.
    """
    recipe, family = settled(recipe)
    path = recipe.run_dir / "eval" / "compare_hidden_states.json"
    student, initial = recipe.run_dir / "export" / "base", recipe.run_dir / "initial_student"
    if recipe.eval.pairs < 2:
        raise RecipeError(f"eval.pairs: {recipe.eval.pairs} cannot be compared; give at least 2")
    if not student.is_dir():
        raise DataError(
            f"{student}: there is no exported student; make it with: python -m distill.export "
            "RECIPE"
        )
    if not initial.is_dir():
        raise DataError(
            f"{initial}: there is no initial student; make it with: python -m vocab_init RECIPE"
        )
    sources = recipe.corpora.model_dump(mode="json")["sources"]
    teachers = {
        "base": recipe.distill.base,
        "refiner": recipe.distill.refiner,
        "teacher": recipe.distill.teacher,
    }
    settings = {
        "eval": recipe.eval.model_dump(mode="json", include=COMPARING),
        "sources": sources,
        **teachers,
    }
    folders = [
        name.path
        for name in (recipe.distill.base, recipe.distill.refiner, recipe.eval.translator)
        if name is not None
    ]
    unpack_files(recipe.eval.repositories.values())
    folders += [name.path for name in recipe.eval.repositories.values()]
    folders += (
        [recipe.distill.teacher.partition("/")[2]] if recipe.distill.teacher else []
    )  # open_clip:MODEL/PATH
    digest = results.fingerprint(
        settings, [*folders, initial, recipe.run_dir / "pairs"], exports=[student]
    )
    if results.finished(path, recipe.name, digest, COMMAND):
        print(f"{path} is already there for these settings")
    else:
        read = {"export_sha256": results.export_sha256(student)}
        work = unfinished(path.with_suffix(""), digest)
        remove_unfinished(path.with_suffix(""), but=work)
        work.mkdir(parents=True, exist_ok=True)
        found = measure(recipe, family, work)
        found = {"recipe": recipe.name, "fingerprint": digest, **read, **found}
        results.write(path, found | {"card": card.states(found, family, recipe.text_language.name)})
        shutil.rmtree(work)
    print(table.table(results.read(path, COMMAND), family))
    print(f"report: {report.render(recipe, family)}")


def measure(recipe: Recipe, family: Family, work: Path) -> dict[str, Any]:
    """All numbers; `work` keeps those of rows that are done.

    `{"pairs", "gap_pairs", "rows": {row: {"states": {encoder: {region: {metric: value}}},
    "pooled_intervals", "by_length", "by_source", "collapse", "noise_gap", "refiner_noise_gap"}},
    "word_order", "forms", "weight_response", "warnings", "examples"}`; intervals and gaps hold
    `value`, `low`, `high`. Without a pooled vector, `pooled_intervals` and `examples` are of the
    state at EOS.
    """
    reference_rows.check_names(recipe)
    pairs = held_out.read(recipe, recipe.eval.pairs)
    quiet()
    readers, forms = reference_rows.readers(recipe, family, pairs)
    rows, encodings, lengths = compare_states(recipe.eval, pairs, readers, work)
    shown = [name for name in (*ROWS, *recipe.eval.repositories) if name in rows]
    some = pairs[: recipe.eval.gap_pairs]
    others = word_order.comparisons(list(encodings)) + weight_response.comparisons()
    others += [couple for form in forms.values() for couple in form.couples()]
    gaps = measure_gaps(recipe, family, [pair.en for pair in some], encodings, shown, others)
    teacher, whole = rows[TEACHER], whole_text(family)
    measured = {}
    for name in shown:
        measured[name] = summary(rows[name], teacher, whole, pairs, lengths, recipe.eval.seed)
        measured[name] |= {"collapse": collapse.measure(rows[name], teacher)}
        measured[name] |= {
            key: gaps[unet].gap(name, recipe.eval.seed)
            for unet, key in GAPS.items()
            if unet in gaps
        }
    return {
        "pairs": len(pairs),
        "gap_pairs": min(len(pairs), recipe.eval.gap_pairs),
        "rows": measured,
        "word_order": word_order.measure(rows, gaps["base"]),
        "forms": prompt_forms.measure(forms, gaps["base"], recipe.eval.seed),
        "weight_response": weight_response.measure(readers[1].rows, gaps["base"], recipe.eval.seed),
        "warnings": collapse.warnings(measured),
        "examples": examples(pairs, rows[STUDENT], teacher, whole),
    }


def summary(
    row: RowNumbers,
    teacher: RowNumbers,
    whole: Place,
    pairs: list[Pair],
    lengths: list[int],
    seed: int,
) -> dict[str, Any]:
    """A row's metrics over all pairs, by length and by source, and the intervals of `whole`, the
    vector of a whole text.
    """
    import numpy as np

    found = row.at[whole]
    values = {"nmse": found.error_B, "centred_cosine": found.cosine_B, **row.hits(whole)}
    sources = np.array([pair.source for pair in pairs])
    chosen = {
        "by_length": {
            name: np.array([length in wanted for length in lengths])
            for name, wanted in LENGTHS.items()
        },
        "by_source": {name: sources == name for name in sorted(set(sources.tolist()))},
    }
    return {
        "states": row.metrics(teacher, np.ones(len(pairs), dtype=bool)),
        "pooled_intervals": {name: bootstrap(column, seed=seed) for name, column in values.items()},
        **{
            part: {
                name: {"pairs": int(mask.sum()), "states": row.metrics(teacher, mask)}
                for name, mask in masks.items()
                if mask.any()
            }
            for part, masks in chosen.items()
        },
    }


def measure_gaps(
    recipe: Recipe,
    family: Family,
    english: list[str],
    encodings: dict[str, Encoding],
    shown: list[str],
    others: list[Couple],
) -> dict[str, Distances]:
    """The UNets' distances of the shown rows from the teacher, and the base UNet's of other
    couples of rows.
    """
    import torch

    # SDXL's usual half-precision weights on a GPU, but computed in fp32: rounding must not pass for
    # a gap
    loaded = load_pipelines(*painting.sdxl_folders(recipe, student=False), family)
    pipelines = Pipelines(*(pipeline and pipeline.to(torch.float32) for pipeline in loaded))
    rows = [(name, TEACHER) for name in shown] + [noise_gap.REACTION]
    compared = {"base": list(dict.fromkeys(rows + others)), "refiner": rows}
    return noise_gap.distances(pipelines, family, english, encodings, compared, recipe.eval)


def examples(
    pairs: list[Pair], student: RowNumbers, teacher: RowNumbers, whole: Place
) -> list[dict[str, Any]]:
    """The first pairs, with the English text that the student's vector at `whole` is nearest to
    (centred cosine).
    """
    mean_D = teacher.moments.mean(whole)
    similarity_BN = similarities(
        student.at[whole].vector_BD[:EXAMPLES] - mean_D, teacher.at[whole].vector_BD - mean_D
    )
    nearest_B = similarity_BN.argmax(dim=1).tolist()
    return [
        {
            "text": pair.text,
            "en": pair.en,
            "nearest_en": pairs[nearest_B[i]].en,
            "centred_cosine": similarity_BN[i, i].item(),
        }
        for i, pair in enumerate(pairs[:EXAMPLES])
    ]
