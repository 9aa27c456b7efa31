"""One exported folder: stock encoders with the student's weights, the portable tokenizer, and the rest of the teacher's pipeline.

In:  the student's weights, a tokenizer folder and a teacher's folder in diffusers layout (its unet, vae and scheduler files are
     hard-linked, or copied from another disk).
Out: a folder that unmodified SDXL pipelines load under transformers 4 and 5, its model card and `verification.json`.

Every file is written here, never by `save_pretrained`: transformers 5 drops the `text_model.` prefix, and transformers 4 then loads a
silently random encoder; it also writes tokenizer class names that transformers 4 does not know.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from configs.command import DataError
from configs.files import file_sha256
from distill import tokenizers
from distill.teacher import SUBFOLDERS, first_line

PIPELINES = ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline")
CLASSES = {"clip_l": CLIPTextModel, "clip_bigg": CLIPTextModelWithProjection}
TOKEN_EMBEDDING = "text_model.embeddings.token_embedding.weight"
PROMPTS = ("", "赤い丸", "青い四角の左に大きな緑の三角があります。", "窓辺で眠る猫、水彩画、やわらかい光、" * 12)  # the last one is cut at 77
FIRST = 8  # numbers of an embedding written out, for those who compare with a tolerance


@dataclass(frozen=True)
class Source:
    """Everything a folder is made from: weights by encoder (transformers' names, `text_model.` prefix), tokenizer, and where it came from."""

    weights: dict[str, dict[str, torch.Tensor]]
    tokenizer: Path
    provenance: dict[str, str]


def write_folder(folder: Path, teacher: Path, source: Source, encoders_only: bool) -> None:
    """Writes encoders and tokenizers, links the rest of the pipeline, and verifies what was written. Raises DataError."""
    index = read_json(teacher / "model_index.json")
    pipeline = index.get("_class_name")
    if pipeline not in PIPELINES:
        raise DataError(f"{teacher / 'model_index.json'}: its _class_name is {pipeline!r}, not one of {PIPELINES}; give an SDXL folder")
    ours = [name for name in CLASSES if index.get(SUBFOLDERS[name][1], [None])[0]]  # the refiner has no first encoder
    for name in ours:
        tokenizer, encoder = SUBFOLDERS[name]
        write_encoder(folder / encoder, read_json(teacher / encoder / "config.json"), name, source)
        shutil.copytree(source.tokenizer, folder / tokenizer)
        index[tokenizer], index[encoder] = ["transformers", "PreTrainedTokenizerFast"], ["transformers", CLASSES[name].__name__]
    if not encoders_only:
        write_json(folder / "model_index.json", {key: value for key, value in index.items() if key != "_name_or_path"})
        for part, entry in index.items():
            if isinstance(entry, list) and entry[0] and part not in {subfolder for name in ours for subfolder in SUBFOLDERS[name]}:
                link_part(teacher / part, folder / part)
    (folder / "README.md").write_text(model_card(source, pipeline, encoders_only), encoding="utf-8")
    prompts = {SUBFOLDERS[name][1]: verify_encoder(folder, name, source) for name in ours}
    files = {str(path.relative_to(folder)): file_sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    write_json(folder / "verification.json", {"made_from": source.provenance, "files": files, "embeddings": prompts})


def write_encoder(folder: Path, config: dict[str, Any], name: str, source: Source) -> None:
    """`model.safetensors` (fp32, `text_model.` prefix) and the teacher's `config.json` with the new vocabulary. Raises DataError."""
    vocabulary = source.weights[name][TOKEN_EMBEDDING].shape[0]
    tokenizer = tokenizers.load(source.tokenizer)
    found = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.model_max_length)
    wanted = (vocabulary - 2, vocabulary - 1, config["max_position_embeddings"])
    # EOS as the highest id makes both rules by which CLIP finds it agree: the largest id, and the first `eos_token_id`
    if found != wanted:
        raise DataError(f"{source.tokenizer}: BOS, EOS and length are {found}, {name}'s weights need {wanted}; run vocab_init again")
    folder.mkdir()
    save_file({key: tensor.contiguous() for key, tensor in source.weights[name].items()}, folder / "model.safetensors", metadata={"format": "pt"})
    unwanted = ("_name_or_path", "dtype", "torch_dtype")  # the stock config says float16, and transformers 5 would follow it
    kept = {key: value for key, value in config.items() if key not in unwanted}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    write_json(folder / "config.json", {**kept, "architectures": [CLASSES[name].__name__], "vocab_size": vocabulary, **ids, "torch_dtype": "float32"})


def verify_encoder(folder: Path, name: str, source: Source) -> list[dict[str, Any]]:
    """Loads what was written as anyone would and compares every hidden state with a stock model given the checkpoint's weights.

    Returns a row a prompt: ids, digest of the penultimate states, and the first numbers of what the pipelines read at EOS. Raises DataError.
    """
    kind = CLASSES[name]
    path = folder / SUBFOLDERS[name][1]
    written = kind.from_pretrained(path).eval()
    expected = kind(written.config).eval()
    names = set(expected.state_dict())  # transformers 5 took the prefix off CLIPTextModel
    try:
        expected.load_state_dict({key if key in names else key.removeprefix("text_model."): value for key, value in source.weights[name].items()})
    except RuntimeError as error:
        raise DataError(f"the checkpoint's {name} does not fit the teacher's config.json ({first_line(error)}); was it trained from it?") from None
    tokenizer = tokenizers.load(folder / SUBFOLDERS[name][0])
    rows = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            ours, theirs = written(ids, output_hidden_states=True), expected(ids, output_hidden_states=True)
        if not all(torch.equal(a, b) for a, b in zip((*ours.hidden_states, ours[0]), (*theirs.hidden_states, theirs[0]), strict=True)):
            raise DataError(f"{path}: reloads to other hidden states than the checkpoint's for {prompt!r}; please report this")
        penultimate = ours.hidden_states[-2][0]
        eos = int((ids[0] == tokenizer.eos_token_id).int().argmax())
        row = {"prompt": prompt, "input_ids": ids[0, : eos + 1].tolist(), "penultimate_eos": penultimate[eos, :FIRST].tolist()}
        if name == "clip_bigg":
            row["text_embeds"] = ours.text_embeds[0, :FIRST].tolist()
        rows.append({**row, "penultimate_sha256": hashlib.sha256(penultimate.contiguous().numpy().tobytes()).hexdigest()})
    return rows


def link_part(source: Path, target: Path) -> None:
    """Hard links (or copies, across disks) the JSON and safetensors files of one part of the pipeline. Raises DataError."""
    files = [path for path in sorted(source.glob("*")) if path.suffix in (".json", ".safetensors")]
    if not files:
        raise DataError(f"{source}: holds no JSON or safetensors file; fetch the folder again")
    target.mkdir()
    for path in files:
        try:
            os.link(path.resolve(), target / path.name)  # the hub's cache holds symbolic links
        except OSError:
            shutil.copyfile(path, target / path.name)


def read_json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); fetch the folder again") from None
    return value


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def model_card(source: Source, pipeline: str, encoders_only: bool) -> str:
    """A short README for whoever finds the folder."""
    made = source.provenance
    usage = f"pipeline = {pipeline}.from_pretrained(\"path/of/this/folder\")"
    if encoders_only:
        usage = f"pipeline.register_modules(tokenizer=..., text_encoder=..., tokenizer_2=..., text_encoder_2=...)  # of any {pipeline}"
    return f"""---
language: ja
library_name: diffusers
base_model: {made["teacher"]}
---
Text encoders of `{made["teacher"]}` that understand Japanese, distilled from parallel text by the recipe `{made["recipe"]}` ({made["checkpoint"]}).

    {usage}

Only tokenizers and text encoders differ from `{made["teacher"]}`, whose licence applies: the pictures come from the same UNet, so what it
never saw it still cannot paint. `verification.json` holds the SHA-256 of every file and what the encoders give for a few prompts.
"""
