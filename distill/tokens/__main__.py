"""Pairs to memory-mapped token ids: read once, then gathered at random without tokenising again.

    python -m distill.tokens configs/toyworld.yaml

In:  `<run>/pairs/` (the training split), the teacher's tokenizer,
     `<run>/initial_student/tokenizer/`.
Out: `<run>/tokens/`: for each of `en_clip_l`, `en_clip_bigg` (SD: `en_clip`), `text` and `en`
     (English by the student's tokenizer) an `_ids.npy` and an `_offsets.npy` (row i is
     ids[offsets[i]:offsets[i + 1]], BOS to EOS, truncated to 77, no padding), and `manifest.json`
     with digests of these files, the pairs and the tokenizers. `sources.npy` holds the index of
     each row's source in the manifest's `sources`. English is stored for each tokenizer of the
     teacher: SDXL's second one reads "!" as its pad token, so the ids differ in more than their
     padding.
"""

from configs import command
from configs.schema.recipe import Recipe
from distill.sdxl.base import settled


def stage(recipe: Recipe) -> None:
    from distill.tokens.store import prepare

    tokens = prepare(*settled(recipe))
    english, text = len(next(iter(tokens.ids.values()))), len(tokens.ids["text"])
    print(
        f"{recipe.run_dir / 'tokens'}: {len(tokens):,} pairs, {english:,} English and "
        f"{text:,} {recipe.text_language.name} tokens"
    )


def main(argv: list[str] | None = None) -> int:
    return command.run(
        "distill.tokens",
        "Tokenises the training pairs once, into memory-mapped files.",
        stage,
        argv,
        writes="tokens",
    )


if __name__ == "__main__":
    raise SystemExit(main())
