"""Does a folder give what was trained? A fixed list of prompts through the stock pipeline and
through the trainer's own forward.

In:  a `Repository` whose tokenizers are portable (`tokenizer.json`).
Out: `PromptStates` and their differences; the rows of `verification.json`.

The two ways share the files and nothing else: the trainer's reads `tokenizer.json` with the
tokenizers library and the weights with safetensors, into its own text tower; the pipeline does
whatever the installed diffusers and transformers do.

Shape letters: B batch, L token position (77), D width, P pooled width.
"""

import gc
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from tqdm import tqdm

from configs import stored_weights
from configs.errors import DataError, explained, first_line
from configs.files import identity, known_sha256, read_json
from configs.languages import JAPANESE
from configs.stored_weights import StoredWeights
from distill.encoders.teacher import states_read
from distill.encoders.tower import TextTower, with_prefix
from distill.sdxl.pipelines import load_encoder, load_text_side
from distill.sdxl.repository import (
    TOKEN_EMBEDDING,
    WEIGHTS,
    Repository,
    StoredEncoder,
)
from distill.verify.record import VERIFICATION, Prompt

PROMPTS = JAPANESE.verification_prompts
# of the largest number in the prompt's states: fp32, 32 layers, another order of summation
TOLERANCE = 1e-5


_TRAINERS_STATES: dict[tuple[object, ...], tuple[torch.Tensor, torch.Tensor | None]] = {}


class PromptStates(NamedTuple):
    """What the UNet reads of the prompts; SD 1.x reads no pooled state."""

    prompt_embeds_BLD: torch.Tensor
    pooled_BP: torch.Tensor | None

    def difference(self, other: "PromptStates") -> list[float]:
        """Largest difference of each prompt's states, relative to the largest number in the state
        of that position, (B,).

        By position: BOS has outliers that would hide errors at all other positions.
        """
        worst = []
        for mine_BX, theirs_BX in zip(self, other, strict=True):
            if mine_BX is not None and theirs_BX is not None:
                relative_BX = (mine_BX - theirs_BX).abs().amax(-1) / theirs_BX.abs().amax(-1)
                worst.append(
                    relative_BX.flatten(1).amax(1) if relative_BX.ndim > 1 else relative_BX
                )
        return [float(value) for value in torch.stack(worst).amax(0).nan_to_num(torch.inf)]


def check_portable(encoder: StoredEncoder) -> None:
    """Raises DataError for what loads without an error and gives wrong states: EOS, vocabulary,
    length, key names.
    """
    config = encoder.config
    if TOKEN_EMBEDDING not in encoder.shapes:
        raise DataError(
            f"{encoder.weights.files[0]}: its keys lack the prefix `text_model.`, which "
            "transformers 4 needs to load them; repair it: distill.repair"
        )
    tokenizer, settings = open_tokenizer(encoder.tokenizer)
    vocabulary, rows = tokenizer.get_vocab_size(), encoder.shapes[TOKEN_EMBEDDING][0]
    if not vocabulary == rows == config.get("vocab_size"):
        found = (
            f"the tokenizer has {vocabulary}, {WEIGHTS} {rows}, config.json "
            f"{config.get('vocab_size')}"
        )
        raise DataError(
            f"{encoder.folder}: sizes of the vocabulary differ ({found}); export it again from one "
            "run"
        )
    length, positions = settings.get("model_max_length"), config.get("max_position_embeddings")
    if length != positions:
        raise DataError(
            f"{encoder.tokenizer}: its model_max_length is {length}, the encoder has {positions} "
            "positions; export it again"
        )
    eos_id = special_id(encoder.tokenizer, tokenizer, settings, "eos_token")
    if not all(tokenizer.encode(prompt).ids[-1:] == [eos_id] for prompt in PROMPTS):
        raise DataError(
            f"{encoder.tokenizer}: EOS ({settings['eos_token']!r}) is missing from its prompts, "
            "pooled is read there; export it again"
        )


def open_tokenizer(folder: Path) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer of `tokenizer.json` and the settings of `tokenizer_config.json`.

    Raises DataError.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise DataError(
            f"{path}: missing; repair an old-style repository with distill.repair, fetch a "
            "damaged one again"
        )
    with explained(f"{path}: cannot be loaded", "fetch it again"):
        tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    settings = read_json(folder / "tokenizer_config.json")
    tokenizer.encode_special_tokens = bool(
        settings.get("split_special_tokens")
    )  # a special token spelled out in a prompt is plain text
    return tokenizer, settings


def special_id(folder: Path, tokenizer: Tokenizer, settings: dict[str, Any], name: str) -> int:
    """The id of `eos_token` or `pad_token`. Raises DataError where there is none."""
    token = settings.get(name)
    found = tokenizer.token_to_id(
        str(token["content"] if isinstance(token, dict) else token)
    )  # older files write an object
    if found is None:
        raise DataError(
            f"{folder}: its {name} is {token!r}, which tokenizer.json does not hold; export it "
            "again"
        )
    return found


def encode(folder: Path, texts: list[str]) -> torch.Tensor:
    """Token ids (B, L): the template's special tokens, cut so that EOS stays last, padded to
    `model_max_length`.
    """
    tokenizer, settings = open_tokenizer(folder)
    length = settings["model_max_length"]
    eos_id, pad_id = (
        special_id(folder, tokenizer, settings, name) for name in ("eos_token", "pad_token")
    )
    rows = [tokenizer.encode(text).ids for text in texts]
    rows = [ids if len(ids) <= length else [*ids[: length - 1], eos_id] for ids in rows]
    return torch.tensor([ids + [pad_id] * (length - len(ids)) for ids in rows])


def trainers_reading(
    repository: Repository, prompts: tuple[str, ...] = PROMPTS, variant: str | None = None
) -> PromptStates:
    """The prompts through this project's own text towers in fp32.

    Raises DataError for weights that do not fit their config.
    """
    states, pooled_BP = [], None
    for encoder in repository.encoders:
        hidden_BLD, projected_BP = _trainers_states(encoder, prompts, variant)
        states.append(hidden_BLD)
        pooled_BP = pooled_BP if projected_BP is None else projected_BP
        gc.collect()  # the next tower takes this one's place in memory
    return PromptStates(torch.cat(states, dim=-1), pooled_BP)


def _trainers_states(
    encoder: StoredEncoder, prompts: tuple[str, ...], variant: str | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(B, L, D) and, of an encoder with a projection, (B, P).

    The same files are computed once by a process: an export links its encoders into each pipeline.
    """
    files = (
        *_weights(encoder, variant).files,
        encoder.folder / "config.json",
        encoder.tokenizer / "tokenizer.json",
        encoder.tokenizer / "tokenizer_config.json",
    )
    key = (*map(identity, files), prompts, encoder.part)
    if key not in _TRAINERS_STATES:
        tower = load_tower(encoder, variant)
        ids_BL = encode(encoder.tokenizer, list(prompts))
        eos_id = encoder.config.get("eos_token_id", 49407)  # transformers' default
        if type(eos_id) is not int:
            raise DataError(
                f"{encoder.folder / 'config.json'}: its eos_token_id is {eos_id!r}, no number; "
                "export it again"
            )
        rows = []
        for ids_1L, position_1 in tqdm(
            list(zip(ids_BL.split(1), pooled_position(ids_BL, eos_id).split(1), strict=True)),
            desc=f"trainer, {encoder.name}",
            leave=False,
        ):
            with torch.no_grad():
                rows.append(tower(ids_1L, position_1))
        pooled = [pooled_1P for _, pooled_1P in rows if pooled_1P is not None]
        hidden_BLD = torch.cat([hidden_1LD for hidden_1LD, _ in rows])
        _TRAINERS_STATES[key] = hidden_BLD, torch.cat(pooled) if pooled else None
    return _TRAINERS_STATES[key]


def load_tower(encoder: StoredEncoder, variant: str | None = None) -> TextTower:
    """The trainer's tower over the mapped weights file: nothing is copied while it is fp32.

    Raises DataError.
    """
    from transformers import CLIPTextConfig

    with torch.device("meta"):
        tower = TextTower(
            CLIPTextConfig(**encoder.config),
            encoder.part.states,
            with_projection="text_projection.weight" in encoder.shapes,
        )
    weights, state = _weights(encoder, variant), {}
    for path in weights.files:
        with safe_open(path, framework="pt") as file:
            keys = file.keys()  # the handle is no mapping
            for name in keys:
                if not name.endswith("position_ids"):  # a buffer that old versions saved
                    state[with_prefix(name)] = file.get_tensor(name).float()
    try:
        tower.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise DataError(
            f"{weights.files[0]}: does not fit the config.json beside it ({first_line(error)}); "
            "fetch or export the folder again"
        ) from None
    return tower.eval().requires_grad_(False)


def _weights(encoder: StoredEncoder, variant: str | None) -> StoredWeights:
    """Those of the variant asked for, else those that a loader finds. Raises DataError."""
    if variant is None:
        return encoder.weights
    return stored_weights.find(encoder.folder, wanted=variant)


def pooled_position(ids_BL: torch.Tensor, eos_token_id: int) -> torch.Tensor:
    """(B,): where CLIPTextModelWithProjection reads the pooled state.

    A configured 2 means "the highest id" (transformers' CLIPTextTransformer).
    """
    return (
        ids_BL.argmax(dim=1) if eos_token_id == 2 else ids_BL.eq(eos_token_id).int().argmax(dim=1)
    )


def stock_reading(
    repository: Repository, prompts: tuple[str, ...] = PROMPTS, variant: str | None = None
) -> PromptStates:
    """The prompts through what users load, in fp32: `encode_prompt` of the stock pipeline, or the
    stock encoders that lie alone.

    Raises DataError when it cannot be loaded.
    """
    if not repository.index:
        return _stock_encoders_reading(repository, prompts, variant)
    pipeline = load_text_side(repository, variant)
    readings = []
    for prompt in tqdm(prompts, desc=repository.pipeline, leave=False):
        with torch.no_grad():
            embeds = pipeline.encode_prompt(
                prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
            )
        readings.append(PromptStates(embeds[0], embeds[2] if len(embeds) == 4 else None))
    pooled = [reading.pooled_BP for reading in readings if reading.pooled_BP is not None]
    return PromptStates(
        torch.cat([reading.prompt_embeds_BLD for reading in readings]),
        torch.cat(pooled) if pooled else None,
    )


def _stock_encoders_reading(
    repository: Repository, prompts: tuple[str, ...], variant: str | None
) -> PromptStates:
    """One encoder after the other, so that the larger one alone sets the memory needed."""
    states, pooled = [], []
    for encoder in repository.encoders:
        tokenizer, model = load_encoder(encoder, variant)
        hidden = []
        for prompt in tqdm(prompts, desc=type(model).__name__, leave=False):
            ids_1L = tokenizer(
                prompt,
                padding="max_length",
                max_length=tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            ).input_ids
            with torch.no_grad():
                out = model(ids_1L, output_hidden_states=True)
            hidden.append(states_read(out, encoder.part))
            pooled += [out.text_embeds] if encoder.part.pooled else []
        states.append(torch.cat(hidden))
        del model  # the next one takes its place in memory; modules may refer to themselves
        gc.collect()
    return PromptStates(torch.cat(states, dim=-1), torch.cat(pooled) if pooled else None)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file but the card and its pictures: those may change when there is more to
    say.
    """
    files = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return {
        name: known_sha256(path)
        for name, path in files.items()
        if name not in (VERIFICATION, "README.md") and not name.startswith("images/")
    }


def rows(
    repository: Repository, reading: PromptStates, prompts: tuple[str, ...] = PROMPTS
) -> list[Prompt]:
    """What `verification.json` keeps of each prompt: ids up to EOS, the norm of each position's
    state, the first numbers of pooled.
    """
    ids = {
        encoder.tokenizer.name: encode(encoder.tokenizer, list(prompts)).tolist()
        for encoder in repository.encoders
    }
    norms = reading.prompt_embeds_BLD.norm(dim=-1).tolist()
    pooled = (
        [None] * len(prompts) if reading.pooled_BP is None else reading.pooled_BP[:, :8].tolist()
    )
    return [
        Prompt(
            prompt=prompt,
            input_ids={name: batch[i] for name, batch in ids.items()},
            norm_of_each_position=norms[i],
            pooled=pooled[i],
        )
        for i, prompt in enumerate(prompts)
    ]


def versions() -> dict[str, str]:
    """Of the libraries that matter to what comes out."""
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "diffusers", "tokenizers")}
