"""`verification.json` of an exported folder: its files' digests, what it was made from, what it
gave on the exporter's machine.

In/out: the file, beside `model_index.json`.
"""

from configs.records import Record, SealedRecord

VERIFICATION = "verification.json"


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
