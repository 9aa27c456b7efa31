"""Finds what is wrong with a repository saved with T5Tokenizer, and writes a repaired copy."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from configs.errors import DataError, one_line
from configs.files import read_json, whole_folder, write_json
from distill.encoders.tower import with_prefix
from distill.export import pipeline_folder
from distill.export.pipeline_folder import DROPPED_KEYS, RENAMED, TOKENIZER_CLASS, link_files
from distill.repair import earlier_folder, t5_tokenizer
from distill.repair.t5_tokenizer import SPIECE, T5Tokenizer, write_portable
from distill.sdxl import repository
from distill.sdxl.repository import INDEX, TOKEN_EMBEDDING, Repository, StoredEncoder, tensor_shapes
from distill.verify.readings import PROMPTS, encode, pooled_position

CLIP_DEFAULTS = {
    "eos_token_id": 49407,
    "max_position_embeddings": 77,
}  # defaults of CLIPTextConfig for keys missing from config.json


def repair(
    reference: str,
    out: Path | None = None,
    pool_at_eos: bool = False,
    lower_case: bool | None = None,
) -> Path:
    """Writes the repaired copy and returns its folder.

    `pool_at_eos`: give </s> the highest id, so that the pooled state is read there. `lower_case`:
    the tokenizers read prompts in lower case; None: where the repository's pipeline class did so.
    Raises DataError for a repository that needs no repair or cannot be repaired.
    """
    folder = earlier_folder.fetch(reference)
    name = folder.resolve().name if Path(reference).is_dir() else reference
    out = out or Path(f"{name.rpartition('/')[2]}-repaired")
    if folder.resolve() in out.resolve().parents:
        raise DataError(
            f"{out}: lies inside the repository, which is never changed; give a folder elsewhere"
        )
    if not earlier_folder.is_earlier(folder):
        check(repository.open_folder(folder), pool_at_eos)  # before anything is written
    with whole_folder(out) as partial:
        rewritten, found = folder, []
        if earlier_folder.is_earlier(folder):
            rewritten = partial / ".rewritten"
            found = earlier_folder.rewrite(folder, rewritten)
        with earlier_folder.named_as(folder, rewritten):
            opened = repository.open_folder(rewritten)
            check(opened, pool_at_eos)
            assumed = letters(earlier_folder.pipeline_class(folder), lower_case)
            tokenizers = {
                encoder.name: t5_tokenizer.read(encoder.tokenizer, assumed.lower_case)
                for encoder in opened.encoders
            }
            for encoder in opened.encoders:
                found += findings(encoder, tokenizers[encoder.name], pool_at_eos)
            print(f"{name}: {opened.pipeline}")
            _print(found)
            write_copy(opened, tokenizers, partial, pool_at_eos)
            left = list(other_ids(opened, tokenizers, partial, pool_at_eos))
        if rewritten != folder:
            shutil.rmtree(rewritten)
        made_from = {
            "repository": name,
            "mended_with": "distill.repair",
            "pooled": "at </s>" if pool_at_eos else "where it was trained",
            "letters": "lower case" if assumed.lower_case else "as they are",
        }
        difference = pipeline_folder.verify(partial, made_from)
        write_card(folder, partial, name, [*found, *left], assumed, pool_at_eos)
    _print(left)
    print(
        f"{out}: written, loaded again and compared (largest relative difference "
        f"{difference:.1e}); {assumed.reason}"
    )
    return out


def _print(found: list[str]) -> None:
    for finding in found:
        print(f"  {one_line(finding)}")  # configs of strangers are quoted in it


@dataclass(frozen=True)
class Letters:
    """Whether prompts are read in lower case, and why that was assumed."""

    lower_case: bool
    reason: str


def letters(pipeline_class: Any, asked: bool | None) -> Letters:
    """A `do_lower_case` in tokenizer_config.json had no effect on T5Tokenizer, so only code that
    set it later counts.
    """
    if asked is not None:
        flag = "--lower-case" if asked else "--no-lower-case"
        return Letters(
            asked, f"prompts are read {'in lower case' if asked else 'as they are'} ({flag})"
        )
    if pipeline_class == earlier_folder.JAPANESE:
        return Letters(True, f"prompts are read in lower case, as {pipeline_class} read them")
    return Letters(
        False,
        "prompts are read as they are (--lower-case if it was used with code that set "
        "do_lower_case)",
    )


def check(opened: Repository, pool_at_eos: bool) -> None:
    """Raises DataError unless it can be repaired so."""
    if pool_at_eos and not opened.family.pooled:
        raise DataError(
            f"{opened.folder}: a {opened.pipeline} uses no pooled state; leave --pool-at-eos out"
        )
    for encoder in opened.encoders:
        check_old_style(opened, encoder)


def check_old_style(repository: Repository, encoder: StoredEncoder) -> None:
    """Raises DataError unless the encoder's tokenizer was saved as a T5Tokenizer."""
    part, folder = encoder.tokenizer.name, repository.folder
    kind = (
        repository.index.get(part)
        or [None, read_json(encoder.tokenizer / "tokenizer_config.json").get("tokenizer_class")]
    )[1]
    if kind in ("CLIPTokenizer", "CLIPTokenizerFast"):
        whose = f"{repository.family.name}'s own"
        raise DataError(f"{folder}: its {part} is {whose} English {kind}; nothing needs repair")
    if kind == "PreTrainedTokenizerFast" and (encoder.tokenizer / "tokenizer.json").is_file():
        raise DataError(
            f"{folder}: its {part} is a portable {kind}, as this project exports it; nothing needs "
            "repair (check it: distill.verify)"
        )
    if kind != "T5Tokenizer":
        raise DataError(
            f"{folder}: its {part} is a {kind}, not a T5Tokenizer as it was saved by transformers "
            "4; only those can be repaired here"
        )
    if not (encoder.tokenizer / SPIECE).is_file():
        raise DataError(
            f"{encoder.tokenizer / SPIECE}: missing; transformers 5 drops it on saving: repair the "
            "original, or fetch the folder again"
        )


def findings(encoder: StoredEncoder, tokenizer: T5Tokenizer, pool_at_eos: bool) -> Iterator[str]:
    """What newer (or all) libraries get wrong: one line for each problem, with the number of fixed
    prompts (`PROMPTS`) it affects.
    """
    part, every, length = (
        encoder.tokenizer.name,
        f"{len(PROMPTS)} of {len(PROMPTS)} prompts",
        position_count(encoder),
    )
    unknown = sum(
        any(map(tokenizer.is_unknown, tokenizer.text_ids(prompt)[: length - 1]))
        for prompt in PROMPTS
    )
    yield (
        f"{part}: T5Tokenizer of transformers 5 makes each character it does not know an </s>: "
        f"{unknown} of {len(PROMPTS)} prompts"
    )
    if tokenizer.model_max_length != length:
        value = tokenizer.model_max_length
        effect = (
            "every call raises OverflowError"
            if value is None
            else f"the encoder has {length} positions"
        )
        yield (
            f"{part}: model_max_length is {'missing' if value is None else value}, {effect}: "
            f"{every}"
        )
    beyond = sum(added.id >= table_rows(encoder) for added in tokenizer.added.values())
    if beyond:
        yield (
            f"{part}: {beyond} special tokens have no row in the encoder's table and raise "
            "IndexError when spelled out; left out of the copy"
        )
    if TOKEN_EMBEDDING not in encoder.shapes:
        yield (
            f"{encoder.folder.name}: keys without `text_model.`, which transformers 4 loads as "
            f"random weights: {every}"
        )
    for dtype in sorted(
        {encoder.config.get(key) or "float32" for key in ("dtype", "torch_dtype")} - {"float32"}
    ):
        yield (
            f"{encoder.folder.name}: its config says {dtype}, which transformers 5 obeys and "
            f"transformers 4 did not: {every}"
        )
    if encoder.part.pooled:
        yield from pooled_finding(encoder, tokenizer, pool_at_eos)


def pooled_finding(
    encoder: StoredEncoder, tokenizer: T5Tokenizer, pool_at_eos: bool
) -> Iterator[str]:
    """The position at which `text_embeds` is read; nothing if that is at </s> in every prompt."""
    eos_token_id = encoder.config.get("eos_token_id", CLIP_DEFAULTS["eos_token_id"])
    ids_BL = torch.tensor([tokenizer.encode(prompt, position_count(encoder)) for prompt in PROMPTS])
    position_B = pooled_position(ids_BL, eos_token_id)
    elsewhere = ids_BL.gather(1, position_B[:, None])[:, 0] != tokenizer.eos_id
    rule = (
        "the highest id of the prompt"
        if eos_token_id == 2
        else f"the first id {eos_token_id}, or position 0 where there is none"
    )
    if not elsewhere.any():
        return
    worst = int(elsewhere.int().argmax())
    example = f"position {int(position_B[worst])} of {PROMPTS[worst]!r}"
    after = (
        "the copy reads it at </s>, other than it was trained"
        if pool_at_eos
        else "kept, since the encoder was trained so"
    )
    yield (
        f"{encoder.folder.name}: pooled is not read at </s> but at {rule} ({example}): "
        f"{int(elsewhere.sum())} of {len(PROMPTS)} prompts; {after}"
    )


def table_rows(encoder: StoredEncoder) -> int:
    return next(
        shape[0]
        for name, shape in encoder.shapes.items()
        if name.endswith("token_embedding.weight")
    )


def position_count(encoder: StoredEncoder) -> int:
    return int(
        encoder.config.get("max_position_embeddings", CLIP_DEFAULTS["max_position_embeddings"])
    )


def write_copy(
    repository: Repository, tokenizers: dict[str, T5Tokenizer], folder: Path, pool_at_eos: bool
) -> None:
    """Writes tokenizers, encoders, index and licences, and links the other parts. Raises
    DataError.
    """
    index = {key: value for key, value in repository.index.items() if key != "_name_or_path"}
    for encoder in repository.encoders:
        part, rows = encoder.folder.name, table_rows(encoder)
        write_portable(
            tokenizers[encoder.name],
            folder / encoder.tokenizer.name,
            rows,
            position_count(encoder),
            highest_eos=pool_at_eos,
        )
        link_files(encoder.folder, folder / part)
        swapped = (tokenizers[encoder.name].eos_id, rows - 1) if pool_at_eos else None
        for path in sorted((folder / part).glob("*.safetensors")):
            write_weights(path, swapped)
        write_config(
            folder / part / "config.json",
            encoder,
            tokenizers[encoder.name],
            rows - 1 if pool_at_eos else None,
        )
        index |= {
            encoder.tokenizer.name: ["transformers", TOKENIZER_CLASS],
            part: ["transformers", encoder.part.class_name],
        }
    for part, entry in index.items():
        if isinstance(entry, list) and entry[0] and not (folder / part).is_dir():
            index[part] = [entry[0], RENAMED.get(entry[1], entry[1])]
            link_files(repository.folder / part, folder / part)
    if repository.index:
        write_json(folder / INDEX, index)
    for licence in repository.folder.glob("LICENSE*"):
        shutil.copyfile(licence, folder / licence.name)


def write_config(
    path: Path, encoder: StoredEncoder, tokenizer: T5Tokenizer, eos_token_id: int | None
) -> None:
    """Replaces the link to `config.json` by a copy with explicit values for every key whose default
    differs between library versions.
    """
    path.unlink()  # the link, not the original
    kept = {key: value for key, value in encoder.config.items() if key not in DROPPED_KEYS}
    moved = (
        {}
        if eos_token_id is None
        else {"eos_token_id": eos_token_id, "pad_token_id": tokenizer.pad_id}
    )
    explicit = {
        "architectures": [encoder.part.class_name],
        "vocab_size": table_rows(encoder),
        "torch_dtype": "float32",
    }
    write_json(path, {**CLIP_DEFAULTS, **kept, **explicit, **moved})


def write_weights(path: Path, swapped_rows: tuple[int, int] | None) -> None:
    """Adds missing `text_model.` prefixes and swaps two rows of the token embedding, in a new file
    in place of the link. Keeps the link if neither is needed.
    """
    names = {name: with_prefix(name) for name in tensor_shapes(path)}
    if swapped_rows is None and all(old == new for old, new in names.items()):
        return
    with safe_open(path, framework="pt") as file:
        tensors = {new: file.get_tensor(old) for old, new in names.items()}
    if swapped_rows is not None:
        table_VD = tensors[TOKEN_EMBEDDING].clone()
        table_VD[list(swapped_rows)] = tensors[TOKEN_EMBEDDING][list(reversed(swapped_rows))]
        tensors[TOKEN_EMBEDDING] = table_VD
    path.unlink()  # the link, not the original
    save_file(tensors, path, metadata={"format": "pt"})


def other_ids(
    repository: Repository, tokenizers: dict[str, T5Tokenizer], folder: Path, pool_at_eos: bool
) -> Iterator[str]:
    """Compares the copy's ids with sentencepiece's: equally likely segmentations may be resolved
    differently.
    """
    for encoder in repository.encoders:
        tokenizer, last = tokenizers[encoder.name], table_rows(encoder) - 1
        swapped = {tokenizer.eos_id: last, last: tokenizer.eos_id} if pool_at_eos else {}
        wanted = [
            [swapped.get(i, i) for i in tokenizer.encode(prompt, position_count(encoder))]
            for prompt in PROMPTS
        ]
        given = encode(folder / encoder.tokenizer.name, list(PROMPTS)).tolist()
        differing = [
            prompt
            for prompt, ours, theirs in zip(PROMPTS, given, wanted, strict=True)
            if ours != theirs
        ]
        if differing:
            yield (
                f"{encoder.tokenizer.name}: not repaired: {len(differing)} of {len(PROMPTS)} "
                f"prompts get other ids than the original's, as {differing[0]!r}"
            )


def write_card(
    source: Path, folder: Path, name: str, found: list[str], assumed: Letters, pool_at_eos: bool
) -> None:
    """Writes the original's README.md with a section about the repair."""
    card = (
        (source / "README.md").read_text(encoding="utf-8", errors="replace").rstrip() + "\n\n"
        if (source / "README.md").is_file()
        else ""
    )
    lines = "\n".join(f"- {finding}" for finding in found)
    moved = (
        "\nIn the vocabulary and the token embedding the row of </s> was swapped with the last "
        "one, so that the pooled state is read at </s>. The encoder was trained without this.\n"
    )
    section = f"""## Repaired copy

Made by `python -m distill.repair` from `{name}`, whose tokenizers were saved with the
T5Tokenizer of transformers 4. Problems found:

{lines}

The tokenizers are now portable ones (`tokenizer.json`) with the ids of that T5Tokenizer; every
version reads the configs and key names alike; every number of the weights is the original's.
So diffusers gives with transformers 4 and 5 what the original gave with transformers 4.57;
`verification.json` records that for a fixed list of prompts. Letters: {assumed.reason}.
{moved if pool_at_eos else ""}"""
    (folder / "README.md").write_text(card + section, encoding="utf-8")
