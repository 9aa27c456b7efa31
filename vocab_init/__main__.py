"""The student's tokenizer and its first token embeddings: every Japanese piece starts from English
tokens, by default from the one nearest in meaning (`vocab_init.method`).

    python -m vocab_init configs/toyworld.yaml

In:  `vocab_init.tokenizer` (a SentencePiece unigram model, a Unigram tokenizer.json, or a folder or
     hub repository with one of them), `vocab_init.sentence_encoder`, and of the teacher
     (`distill.base`, `distill.teacher`) its tokenizers and token embeddings. Methods that count
     translations also read `<run>/pairs/`.
Out: `<run>/initial_student/`: `tokenizer/`, `token_embeddings.safetensors` (`clip_l`, `clip_bigg`,
     each (V, D) float32), `neighbors.jsonl` (one line for each row of the vocabulary, for people)
     and `manifest.json` (settings, counts, the SHA-256 of every file). The folder appears whole or
     not at all; a damaged one is made again. `<run>/piece_vectors/`: what the encoder gave.
"""

from configs import command
from configs.schema.recipe import Recipe

DESCRIPTION = (
    "Gives the student its tokenizer and first token embeddings, from English tokens of the same "
    "meaning."
)


def stage(recipe: Recipe) -> None:
    """Writes `<run>/initial_student/`. Raises DataError."""
    from vocab_init.initial_student import initialise  # loads torch, which --help need not

    initialise(recipe)


def main(argv: list[str] | None = None) -> int:
    return command.run("vocab_init", DESCRIPTION, stage, argv, writes="initial_student")


if __name__ == "__main__":
    raise SystemExit(main())
