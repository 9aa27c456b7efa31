"""Paints held-out captions with the student and with the teacher, from the same noise: do the
pictures agree, and is the right scene painted?

    python -m eval.generate configs/toyworld.yaml

In:  `<run>/export/base` and `<run>/export/refiner`, the teacher's SDXL folders; held-out captions
     (toyworld's grammar, else `<run>/pairs`).
Out: `<run>/eval/pictures/<row>/0000.png`..., `<run>/eval/grid.png` (left English, right Japanese,
     the same seed), `<run>/eval/pictures.json`, `<run>/eval/report.html`. Own prompts are painted
     by `eval.paint`.

Rows (eval/rows.py): `teacher`, `student`, `student_english` where the student was trained on some
English, and on toyworld `teacher_untranslated`. A fifth of toyworld's prompts are pairs that
differ only in which object has which role. Numbers: on toyworld the scene accuracy, also by the
captions' source; for any recipe the agreement of `eval/pictures/agreement.py`. `eval.forms` adds
the student's prompts in other forms, such as half of the words in English.
"""

from configs import command
from configs.schema.recipe import Recipe


def stage(recipe: Recipe) -> None:
    from eval.generate.generation import generate

    generate(recipe)


def main(argv: list[str] | None = None) -> int:
    description = (
        "Paints held-out captions with the student and the teacher, and compares the pictures."
    )
    return command.run("eval.generate", description, stage, argv, writes="eval")


if __name__ == "__main__":
    raise SystemExit(main())
