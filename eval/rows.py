"""The rows that evaluations compare: which encoders read which prompts. Names, labels, meanings and
colours.

In and out: nothing on disk.

A name stands in result files and names a folder of pictures. It says the role: `student` reads the
student's language, `teacher` reads English, and a second word says what is different. Labels and
meanings are for people; `{language}` in them becomes the name of the student's language.
"""

from typing import NamedTuple

TEACHER, STUDENT = "teacher", "student"
STUDENT_ENGLISH, STUDENT_MIXED = "student_english", "student_mixed"
STUDENT_SEGMENTED = "student_segmented"
BEFORE_TRAINING, UNTRANSLATED = "student_before_training", "teacher_untranslated"
PARAPHRASE, TRANSLATED = "teacher_paraphrase", "teacher_translated"
OTHER_CAPTION = "teacher_other_caption"
# Prompts with the words in another order. They are compared with the same prompts in order, not
# with the teacher (eval/states/word_order.py), so they have no row in the tables.
TEACHER_SWAPPED, STUDENT_SWAPPED = "teacher_role_swapped", "student_role_swapped"
TEACHER_SCRAMBLED, STUDENT_SCRAMBLED = "teacher_scrambled", "student_scrambled"
REORDERED = (TEACHER_SWAPPED, STUDENT_SWAPPED, TEACHER_SCRAMBLED, STUDENT_SCRAMBLED)


class Legend(NamedTuple):
    """`colour`: of Okabe and Ito's, told apart by colour-blind readers
    (https://jfly.uni-koeln.de/color/).
    """

    label: str
    meaning: str
    colour: str = "#777777"


ROWS = {
    TEACHER: Legend(
        "English teacher",
        "English through the teacher: the target of all other rows, so its errors are 0.",
        "#009E73",
    ),
    STUDENT: Legend("{language} student", "{language} through the student.", "#0072B2"),
    STUDENT_ENGLISH: Legend(
        "English through the student",
        "The English prompts through the student: how much English it keeps.",
        "#56B4E9",
    ),
    STUDENT_MIXED: Legend(
        "both languages mixed, student", "Prompts of {language} and English words.", "#CC79A7"
    ),
    STUDENT_SEGMENTED: Legend(
        "one word by itself, student",
        "{language} with one word tokenised by itself, as programs do that weight words.",
        "#F0E442",
    ),
    BEFORE_TRAINING: Legend(
        "student before training", "The new vocabulary under the teacher's layers.", "#E69F00"
    ),
    UNTRANSLATED: Legend(
        "{language} through the teacher", "What one gets without a student.", "#999999"
    ),
    PARAPHRASE: Legend(
        "English paraphrase, teacher",
        "The same scene in other English words: the distance a good translation may have.",
        "#8FD3BC",
    ),
    TRANSLATED: Legend(
        "translated, then the teacher",
        "{language} translated to English by a translation model first.",
        "#D55E00",
    ),
}
OF_PICTURES = {
    OTHER_CAPTION: Legend(
        "English of another caption",
        "The teacher's picture of the next caption: what chance gives.",
    )
}


def label(name: str, language: str) -> str:
    """For tables and plots; `language` is the name of the student's language. A repository of
    `eval.repositories` keeps its own name.
    """
    row = (ROWS | OF_PICTURES).get(name)
    return row.label.format(language=language) if row else name


def colour(name: str) -> str:
    return ROWS[name].colour if name in ROWS else "#777777"
