"""How near the Japanese student's hidden states come to the English teacher's, and how far the UNet's noise goes astray by it.

    python -m eval.compare_hidden_states configs/toyworld.yaml

In:  `<run>/pairs/held_out-*.parquet`, `<run>/export/base`, `<run>/initial_student/`, the teacher's SDXL base folder.
Out: `<run>/eval/compare_hidden_states.json`, `<run>/eval/report.html`, a table in the terminal.

Beside the student stand three rows to judge it by: English itself (the best there is), the student before training, and
Japanese read by the English encoders (what one gets with no student at all).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs import command
from configs.schema import Recipe, RecipeError, resolve_model
from eval import held_out, report, results

if TYPE_CHECKING:
    from distill.teacher import Encoding, TextEncoders, TokenIds

COMMAND = "python -m eval.compare_hidden_states RECIPE"
STUDENT, BEFORE = "japanese_student", "japanese_student_before_training"
ENGLISH, THROUGH_ENGLISH = "english_teacher", "japanese_through_english_encoder"
EXAMPLES = 12
COMPARING = {"pairs", "timesteps", "gap_pairs", "inference_steps", "guidance_scale", "seed"}  # the settings the numbers depend on


def compare(recipe: Recipe) -> None:
    """The stage: compares, writes the JSON, prints the table, renders the report. Raises DataError."""
    path = recipe.run_dir / "eval" / "compare_hidden_states.json"
    base, student = resolve_model(recipe.distill.base), recipe.run_dir / "export" / "base"
    settings = {"eval": recipe.eval.model_dump(mode="json", include=COMPARING), "base": recipe.distill.base, "teacher": recipe.distill.teacher}
    if recipe.eval.pairs < 2:
        raise RecipeError(f"eval.pairs: {recipe.eval.pairs} cannot be compared; give at least 2")
    if not student.is_dir():
        raise command.DataError(f"{student}: there is no exported student; make it with: python -m distill.export RECIPE")
    initial = recipe.run_dir / "initial_student"
    if not initial.is_dir():
        raise command.DataError(f"{initial}: there is no initial student; make it with: python -m vocab_init RECIPE")
    digest = results.fingerprint(settings, [base, student, initial, recipe.run_dir / "pairs"])
    if results.finished(path, recipe.name, digest, COMMAND):
        print(f"{path} is already there for these settings")
    else:
        results.write(path, {"recipe": recipe.name, "fingerprint": digest, **measure(recipe, base, student, initial)})
    print(table(results.read(path, COMMAND)))
    print(f"report: {report.render(recipe)}")


def measure(recipe: Recipe, base: str, student: Path, initial: Path) -> dict[str, Any]:
    """All rows' numbers: `{"pairs", "gap_pairs", "rows": {row: {"states": {encoder: {region: {metric: value}}}, "noise_gap"}}, "examples"}`."""
    from distill.pipelines import load_base, quiet
    from distill.student import initial_text_encoders
    from distill.teacher import load_text_encoders
    from eval.noise_gap import cut, noise_gaps

    pairs = held_out.read(recipe, recipe.eval.pairs)
    japanese, english = [pair.ja for pair in pairs], [pair.en for pair in pairs]
    size = recipe.eval.batch_size
    quiet()
    pipeline = load_base(base)
    teacher_encoders = load_text_encoders(base, recipe.distill.teacher)
    ids = teacher_encoders.tokenize(english)
    teacher, empty = encode(teacher_encoders, english, size, "English"), encode(teacher_encoders, [""], size, "empty prompt")
    rows = {
        ENGLISH: encode(teacher_encoders, english, size, ENGLISH),
        STUDENT: encode(load_text_encoders(student), japanese, size, STUDENT),
        BEFORE: encode(initial_text_encoders(base, initial, recipe.distill.teacher), japanese, size, BEFORE),
        THROUGH_ENGLISH: encode(teacher_encoders, japanese, size, THROUGH_ENGLISH),
    }
    for name, encoding in rows.items():
        check_comparable(name, encoding, teacher)
    some = slice(recipe.eval.gap_pairs)
    gaps = noise_gaps(pipeline, english[some], cut(teacher, some), empty, {name: cut(encoding, some) for name, encoding in rows.items()}, recipe.eval)
    return {
        "pairs": len(pairs),
        "gap_pairs": len(english[some]),
        "rows": {name: {"states": compare_encodings(encoding, teacher, ids), "noise_gap": gaps[name]} for name, encoding in rows.items()},
        "examples": examples(japanese, english, rows[STUDENT], teacher),
    }


def encode(encoders: "TextEncoders", texts: list[str], batch_size: int, description: str) -> "Encoding":
    """Encodings of all texts in main memory, fp32, computed batch by batch where there is a GPU on it."""
    import torch
    from tqdm import tqdm

    from distill.pipelines import device
    from distill.teacher import Encoding, TokenIds

    for model in encoders.models.values():
        model.to(device())
    parts = []
    for start in tqdm(range(0, len(texts), batch_size), desc=f"encode {description}", unit="batch"):
        ids = encoders.tokenize(texts[start : start + batch_size])
        encoding = encoders.encode_ids(TokenIds(*(tensor.to(device()) for tensor in ids)))
        parts.append([tensor.float().cpu() for tensor in encoding])
    return Encoding(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def check_comparable(name: str, encoding: "Encoding", teacher: "Encoding") -> None:
    """Raises DataError when a row has other widths than the teacher, or holds NaN or infinity."""
    for kind, got, want in zip(("clip_l", "clip_bigg", "pooled"), encoding, teacher, strict=True):
        if got.shape != want.shape:
            shapes = f"{tuple(got.shape)}, the teacher's has {tuple(want.shape)}"
            raise command.DataError(f"{name}: {kind} has the shape {shapes}; was it made from another base?")
        if not got.isfinite().all():
            raise command.DataError(f"{name}: {kind} holds NaN or infinity; train and export the student again")


def compare_encodings(student: "Encoding", teacher: "Encoding", english: "TokenIds") -> dict[str, dict[str, dict[str, float]]]:
    """`{encoder: {region: {metric: value}}}`; the pooled vector is an encoder of its own with the one region `pooled`."""
    from eval.metrics import compare_states, compare_vectors

    return {
        "clip_l": compare_states(student.clip_l_BLD, teacher.clip_l_BLD, english.clip_l_eos_B),
        "clip_bigg": compare_states(student.clip_bigg_BLD, teacher.clip_bigg_BLD, english.clip_bigg_eos_B),
        "pooled": {"pooled": compare_vectors(student.pooled_BP, teacher.pooled_BP)},
    }


def examples(japanese: list[str], english: list[str], student: "Encoding", teacher: "Encoding") -> list[dict[str, Any]]:
    """The first pairs, with the English text the student's pooled vector is nearest to (centred cosine)."""
    from eval.metrics import similarities

    mean_P = teacher.pooled_BP.mean(dim=0)
    similarity_BB = similarities(student.pooled_BP - mean_P, teacher.pooled_BP - mean_P)
    nearest_B = similarity_BB.argmax(dim=1).tolist()
    return [
        {"ja": ja, "en": en, "nearest_en": english[nearest_B[i]], "centred_cosine": similarity_BB[i, i].item()}
        for i, (ja, en) in enumerate(zip(japanese[:EXAMPLES], english, strict=False))
    ]


def table(result: dict[str, Any]) -> str:
    """The numbers for a terminal: one line a row, encoder and region."""
    lines = [f"{'row':<34}{'encoder':<11}{'region':<9}{'nMSE':>9}{'cosine':>9}{'R@1 ja-en':>11}{'R@1 en-ja':>11}"]
    for name, row in result["rows"].items():
        for encoder, regions in row["states"].items():
            for region, metrics in regions.items():
                error = metrics.get("nmse", metrics.get("relative_squared_error"))
                keys = ("centred_cosine", "recall_at_1_ja_en", "recall_at_1_en_ja")
                cells = [f"{metrics[key]:.3f}" if key in metrics else "-" for key in keys]
                lines.append(f"{name:<34}{encoder:<11}{region:<9}{error:>9.4f}{cells[0]:>9}{cells[1]:>11}{cells[2]:>11}")
    lines.append("bos: squared error over the squared norm (its state has no variance); every other nMSE: 0 is equal, 1 predicts the mean")
    lines += [f"{'noise-prediction gap':<34}{name:<34}{row['noise_gap']['value']:>9.4f}" for name, row in result["rows"].items()]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    return command.run("eval.compare_hidden_states", "Compares the Japanese student with the English teacher on held-out pairs.", compare, argv)


if __name__ == "__main__":
    raise SystemExit(main())
