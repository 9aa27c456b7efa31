"""How close the student's hidden states are to the teacher's, and how much the UNet's prediction
changes because of the difference.
"""

from typing import Any

from configs.errors import DataError, RecipeError
from configs.schema.recipe import Recipe
from corpora.pair import Pair
from distill.encoders.family import Family
from distill.encoders.teacher import Encoding, TextEncoders
from distill.sdxl.base import settled, unpack_files
from distill.sdxl.pipelines import Pipelines, device, load_pipelines, quiet
from eval import card, held_out, results
from eval.compare_hidden_states import table
from eval.intervals import bootstrap
from eval.pictures import painting
from eval.report import report
from eval.rows import ROWS, STUDENT, TEACHER
from eval.states import collapse, noise_gap, reference_rows, word_order
from eval.states.metrics import similarities
from eval.states.noise_gap import EMPTY, Distances
from eval.states.pair_numbers import Moments, Place, RowNumbers, whole_text
from eval.states.reference_rows import RowReader

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
        found = measure(recipe, family)
        found = {"recipe": recipe.name, "fingerprint": digest, **read, **found}
        results.write(path, found | {"card": card.states(found, family, recipe.text_language.name)})
    print(table.table(results.read(path, COMMAND), family))
    print(f"report: {report.render(recipe, family)}")


def measure(recipe: Recipe, family: Family) -> dict[str, Any]:
    """All numbers.

    `{"pairs", "gap_pairs", "rows": {row: {"states": {encoder: {region: {metric: value}}},
    "pooled_intervals", "by_length", "by_source", "collapse", "noise_gap", "refiner_noise_gap"}},
    "word_order", "warnings", "examples"}`; intervals and gaps hold `value`, `low`, `high`. Without
    a pooled vector, `pooled_intervals` and `examples` are of the state at EOS.
    """
    reference_rows.check_names(recipe)
    pairs = held_out.read(recipe, recipe.eval.pairs)
    quiet()
    readers = reference_rows.readers(recipe, family, pairs)
    rows, encodings, lengths = compare_states(recipe, pairs, readers)
    shown = [name for name in (*ROWS, *recipe.eval.repositories) if name in rows]
    gaps = measure_gaps(
        recipe, family, [pair.en for pair in pairs][: recipe.eval.gap_pairs], encodings, shown
    )
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
        "warnings": collapse.warnings(measured),
        "examples": examples(pairs, rows[STUDENT], teacher, whole),
    }


def compare_states(
    recipe: Recipe, pairs: list[Pair], readers: list[RowReader]
) -> tuple[dict[str, RowNumbers], dict[str, Encoding], list[int]]:
    """Every row's numbers, its encodings of the pairs the gap is measured on, and each pair's
    length in English tokens. Raises DataError.
    """
    from tqdm import tqdm

    size, some = recipe.eval.batch_size, recipe.eval.gap_pairs
    english = [pair.en for pair in pairs]
    teacher = readers[0].load()
    tokenizer = next(iter(teacher.tokenizers.values()))
    lengths = [len(ids) for ids in tokenizer(english).input_ids]
    starts = range(0, len(pairs), size)
    moments = Moments()
    for start in tqdm(starts, desc="the teacher's variance", unit="batch"):
        texts = english[start : start + size]
        moments.add(encode(teacher, texts), teacher.tokenize(texts))
    empty = encode(teacher, [""])
    rows: dict[str, RowNumbers] = {}
    kept = {EMPTY: on_cpu([empty], 1)}
    for reader in readers:
        encoders = teacher if reader is readers[0] else reader.load()
        check_comparable(
            next(iter(reader.rows)), encode(encoders, [""]), empty
        )  # before the long work
        rows |= {name: RowNumbers(moments, len(pairs)) for name in reader.rows}
        parts: dict[str, list[Encoding]] = {name: [] for name in reader.rows}
        for start in tqdm(
            starts, desc=f"{len(reader.rows)} rows from {next(iter(reader.rows))}", unit="batch"
        ):
            part = slice(start, start + size)
            wanted, ids = encode(teacher, english[part]), teacher.tokenize(english[part])
            for name, prompts in reader.rows.items():
                encoding = encode(encoders, prompts[part])
                check_comparable(name, encoding, wanted)
                rows[name].add(start, encoding, wanted, ids)
                if start < some:
                    parts[name].append(encoding)
        kept |= {name: on_cpu(found, some) for name, found in parts.items()}
    for numbers in rows.values():
        numbers.rank(rows[TEACHER])
    return rows, kept, lengths


def encode(encoders: TextEncoders, texts: list[str]) -> Encoding:
    """One batch, on the GPU where there is one."""
    for model in encoders.models.values():
        model.to(device())
    return encoders.encode_ids(encoders.tokenize(texts).to(device()))


def on_cpu(parts: list[Encoding], count: int) -> Encoding:
    """The first `count` prompts of some batches in main memory, fp32."""
    import torch

    return Encoding.of(
        {
            name: torch.cat([part.named()[name].float().cpu() for part in parts])[:count]
            for name in parts[0].named()
        }
    )


def check_comparable(name: str, encoding: Encoding, teacher: Encoding) -> None:
    """Raises DataError when a row has other widths than the teacher, or holds NaN or infinity."""
    for kind, want in teacher.named().items():
        got = encoding.named()[kind]
        if got.shape != want.shape:
            shapes = f"{tuple(got.shape)}, the teacher's has {tuple(want.shape)}"
            raise DataError(
                f"{name}: {kind} has the shape {shapes}; was it made from another base?"
            )
        if not got.isfinite().all():
            raise DataError(
                f"{name}: {kind} holds NaN or infinity; train and export the student again"
            )


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
) -> dict[str, Distances]:
    """The UNets' distances of the shown rows from the teacher, and of the reordered prompts from
    those in order.
    """
    import torch

    # SDXL's usual half-precision weights on a GPU, but computed in fp32: rounding must not pass for
    # a gap
    loaded = load_pipelines(*painting.sdxl_folders(recipe, student=False), family)
    pipelines = Pipelines(*(pipeline and pipeline.to(torch.float32) for pipeline in loaded))
    rows = [(name, TEACHER) for name in shown] + [noise_gap.REACTION]
    compared = {"base": rows + word_order.comparisons(list(encodings)), "refiner": rows}
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
