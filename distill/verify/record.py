"""`verification.json` of an exported folder: its files' digests, what it was made from, what it
gave on the exporter's machine.

In/out: the file, beside `model_index.json`.
"""

from configs.records import Record, SealedRecord

VERIFICATION = "verification.json"
# Keys of `made_from` that not every export has: the SHA-256 of the single file that the rest of the
# pipeline was unpacked from, and how far its own text encoders agree with the teacher's (a cosine).
TEACHER_FILE, AGREEMENT = "teacher_file_sha256", "text_encoders_cosine"
# Encoders below this agreement have been trained too far for the student. On toyworld, rounding to
# bf16 leaves 0.99998. Training on (AdamW, 1e-5) gives 0.9988 after 20 steps and 0.9926 after 50;
# the noise prediction then moves by 0.001 and by 0.009 of the empty prompt's distance, where the
# distilled student's own distance is 0.018.
RETRAINED_BELOW = 0.995


class Prompt(Record):
    """What the exporter's machine gave for one prompt.

    Ids by tokenizer, the norm of each position's state, the first numbers of the pooled state.
    """

    prompt: str
    input_ids: dict[str, list[int]]
    norm_of_each_position: list[float]
    pooled: list[float] | None


class Verification(SealedRecord):
    """What an export was made from and what it gave; holds its own SHA-256.

    `files`: the SHA-256 of every file of the folder except the card, its pictures and this file.
    """

    made_from: dict[str, str]
    made_with: dict[str, str]
    largest_relative_difference: float
    files: dict[str, str]
    prompts: list[Prompt]
