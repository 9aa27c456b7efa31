"""Malicious files by name: the error each must raise, and the function that reads it.

A payload that runs creates `Trap.ran`; a path that leaves the folder leads to `Trap.secret`.
"""

import gzip
import json
import pickle
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from configs.errors import DataError
from configs.references import TOYWORLD_MODELS
from configs.schema.load import load_recipe
from distill.encoders.family import SDXL

RECIPE = Path(__file__).resolve().parent.parent / "configs" / "toyworld.yaml"


class Trap(NamedTuple):
    """`folder`: holds the artefact. `ran`: exists once a payload has run. `secret`: outside."""

    folder: Path
    ran: Path
    secret: Path


class Hostile(NamedTuple):
    """`make` writes the artefact, `use` opens it as the product does; `message`: part of the one
    line of the error.
    """

    make: Callable[[Trap], object]
    use: Callable[[Trap], object]
    message: str


class _Payload:
    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> Any:
        return open, (str(self.ran), "w")


def model(name: str) -> Callable[[Trap], object]:
    return lambda trap: shutil.copytree(TOYWORLD_MODELS / name, trap.folder, dirs_exist_ok=True)


def edit(path: Path, **changes: object) -> None:
    path.write_text(
        json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8"
    )


def code(trap: Trap, folder: Path) -> None:
    """A module that would be the payload."""
    text = (
        f"open({str(trap.ran)!r}, 'w')\nfrom transformers import CLIPTokenizer as T, "
        "CLIPTextConfig as C, CLIPModel as M\n"
    )
    (folder / "payload.py").write_text(text, encoding="utf-8")


def pickled(trap: Trap, weights: Path, name: str = "pytorch_model.bin") -> None:
    """In place of safetensors."""
    torch.save({**load_file(weights), "payload": _Payload(trap.ran)}, weights.with_name(name))
    weights.unlink()


def moved_out(trap: Trap, weights: Path) -> None:
    """The weights lie outside, where an index says they are."""
    names = list(load_file(weights))
    trap.secret.unlink()
    shutil.move(weights, trap.secret)
    stem = weights.name.removesuffix(".safetensors")
    tree = {"metadata": {}, "weight_map": dict.fromkeys(names, f"../../{trap.secret.name}")}
    weights.with_name(f"{stem}.safetensors.index.json").write_text(
        json.dumps(tree), encoding="utf-8"
    )


def changed(name: str, file: str, **changes: object) -> Callable[[Trap], None]:
    def make(trap: Trap) -> None:
        model(name)(trap)
        edit(trap.folder / file, **changes)

    return make


def with_code(name: str, file: str, **changes: object) -> Callable[[Trap], None]:
    def make(trap: Trap) -> None:
        changed(name, file, **changes)(trap)
        code(trap, (trap.folder / file).parent)

    return make


def with_pickle(name: str, file: str, new: str = "pytorch_model.bin") -> Callable[[Trap], None]:
    def make(trap: Trap) -> None:
        model(name)(trap)
        pickled(trap, trap.folder / file, new)

    return make


def with_weights_outside(name: str, file: str) -> Callable[[Trap], None]:
    def make(trap: Trap) -> None:
        model(name)(trap)
        moved_out(trap, trap.folder / file)

    return make


def with_text(name: str, file: str, text: str) -> Callable[[Trap], None]:
    def make(trap: Trap) -> None:
        model(name)(trap)
        (trap.folder / file).write_text(text, encoding="utf-8")

    return make


def with_link(name: str, file: str) -> Callable[[Trap], None]:
    def make(trap: Trap) -> None:
        model(name)(trap)
        shutil.move(trap.folder / file, trap.secret)
        (trap.folder / file).symlink_to(trap.secret)

    return make


def written(name: str, content: bytes | str) -> Callable[[Trap], None]:
    def make(trap: Trap) -> None:
        (trap.folder / name).write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )

    return make


# --- the doors


def teacher(trap: Trap) -> object:
    from distill.encoders.teacher import load_text_encoders

    return load_text_encoders(trap.folder, SDXL)


def student_tokenizer(trap: Trap) -> object:
    from distill.tokenizer import portable

    return portable.load(trap.folder)


def pipeline(trap: Trap) -> object:
    from distill.sdxl.pipelines import load_base

    return load_base(str(trap.folder), SDXL)


def repository(trap: Trap) -> object:
    from distill.sdxl.repository import open_folder

    return open_folder(trap.folder)


def projections(trap: Trap) -> object:
    from distill.objective.projections import Projections

    return Projections(str(trap.folder)).read("conv_in.weight")


def embedding(trap: Trap) -> object:
    from vocab_init.transplant import _token_embedding

    return _token_embedding(trap.folder / "text_encoder")


def unigram(trap: Trap) -> object:
    from distill.tokenizer import unigram as door

    return door.read(door.find(trap.folder))


def ranker(trap: Trap) -> object:
    from corpora.captions.dual_encoder import TransformersDualEncoder

    return TransformersDualEncoder(str(trap.folder))


def cloob(trap: Trap) -> object:
    from corpora.captions import cloob as door

    return door.load(str(trap.folder))


def translator(engine: str) -> Callable[[Trap], object]:
    def use(trap: Trap) -> object:
        from configs.schema.captions import Translator
        from corpora.captions import translator as door

        return door.load(
            Translator.model_validate({"model": str(trap.folder), "engine": engine}),
            trap.folder.parent,
        )

    return use


def sentence_encoder(trap: Trap) -> object:
    from corpora.filters import sentence_encoder as door

    return door.load(str(trap.folder), "vocab_init.sentence_encoder")


def clip_tokens(trap: Trap) -> object:
    from corpora.filters import clip_tokens as door

    return door.load(f"{trap.folder}//tokenizer")


def language_id(trap: Trap) -> object:
    from corpora.filters import language_id as door

    return door.load(str(trap.folder / "lid.bin"))


def judge(trap: Trap) -> object:
    from transformers import AutoModel, AutoTokenizer

    from eval.pictures import stock_models

    return stock_models.load(
        "eval.dino_model", str(trap.folder / "text_encoder"), AutoModel, AutoTokenizer
    )


def open_clip(trap: Trap) -> object:
    from distill.encoders import open_clip_weights

    return open_clip_weights._read_text(trap.folder / "weights.pt")


def lpips(trap: Trap) -> object:
    from eval.pictures import agreement

    return agreement._lpips(str(trap.folder / "weights.pt"))


def pairs(trap: Trap) -> object:
    from corpora.pair import read_pairs

    return list(read_pairs(trap.folder, "train"))


def verified(trap: Trap) -> object:
    from configs.artefact import check_files
    from configs.files import read_json

    return check_files(
        trap.folder, read_json(trap.folder / "verification.json")["files"], "fetch it again"
    )


def recipe(trap: Trap) -> object:
    return load_recipe(trap.folder / "recipe.yaml")


def override(text: str) -> Callable[[Trap], object]:
    return lambda trap: load_recipe(RECIPE, [text])


def data_set(trap: Trap) -> object:
    from configs.schema.sources import HubSource
    from corpora.sources import hub

    return hub.identity(HubSource(kind="hub", name="x", licence="x", dataset=str(trap.folder)))


def picture(trap: Trap) -> object:
    """A picture that is not there is a counted reason, not an error."""
    from corpora.captions.images import read_files

    (found,) = read_files(trap.folder, [("0", (trap.folder / "name").read_text(encoding="utf-8"))])
    raise DataError(f"{found.reason}: {found.image}")


def picture_text(trap: Trap) -> object:
    from eval.paint import picture_text as door

    return door.read(trap.folder / "picture.png")


def tsv(trap: Trap) -> object:
    """Its one line is longer than any text may be: a counted reason."""
    from corpora.sources import files, lines

    with files.opened(str(trap.folder / "bomb.gz")) as stream:
        rows = lines.cuts(stream, 0).rows
    raise DataError(f"{rows} rows")


# --- makers of bombs


def png_bomb(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def fasttext_model(words: int, rows: int = 0) -> bytes:
    sizes = struct.pack("<14i", 793712314, 12, 16, 5, 5, 1, 5, 1, 3, 1, 10, 0, 0, 100)
    return (
        sizes
        + struct.pack("<d3i2q", 1e-4, words, words, 0, 100, -1)
        + struct.pack("<?2q", False, rows, 16)
    )


def yaml_bomb(key: str) -> str:
    levels = "".join(f"  - &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10))
    return f"{key}:\n  - &a0 [x, x, x, x, x, x, x, x, x, x]\n{levels}"


def flow_bomb() -> str:
    """The same in one line."""
    levels = [f"b{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    return "{a: &a0 [x, x, x, x, x, x, x, x, x, x], " + ", ".join(levels) + "}"


def outside_manifest(name: str) -> Callable[[Trap], None]:
    def make(trap: Trap) -> None:
        size = trap.secret.stat().st_size
        shard = {
            "file": name.replace("SECRET", str(trap.secret)),
            "rows": 1,
            "bytes": size,
            "sha256": "0" * 64,
        }
        stage = {"name": "read", "rows_in": 1, "dropped": {}, "rows_out": 1}
        tree = {"format": 2, "fingerprint": "x", "settings": {}, "inputs": [], "stages": [stage]}
        (trap.folder / "manifest.json").write_text(
            json.dumps(tree | {"splits": {"train": [shard], "held_out": []}})
        )

    return make


def data_set_outside(trap: Trap) -> None:
    trap.secret.write_text("ja\ten\n", encoding="utf-8")
    outside = trap.secret.rename(trap.secret.with_suffix(".tsv"))
    front = (
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: "
        f"{outside}\n---\n"
    )
    (trap.folder / "README.md").write_text(front, encoding="utf-8")


def picture_link(trap: Trap) -> None:
    (trap.folder / "a.png").symlink_to(trap.secret)
    (trap.folder / "name").write_text("a.png")


def bare_pickle(trap: Trap) -> None:
    (trap.folder / "weights.pt").write_bytes(pickle.dumps({"state_dict": _Payload(trap.ran)}))


def zipped_pickle(trap: Trap) -> None:
    torch.save({"state_dict": _Payload(trap.ran)}, trap.folder / "weights.pt")


def cloob_pickle(trap: Trap) -> None:
    model("ranker")(trap)
    pickled(trap, trap.folder / "model.safetensors")


def huge_header(trap: Trap) -> None:
    model("base")(trap)
    path = trap.folder / "text_encoder" / "model.safetensors"
    path.write_bytes((1 << 50).to_bytes(8, "little") + b"{}")


def part_outside(trap: Trap) -> None:
    changed("base", "model_index.json", **{"../../secret": ["diffusers", "AutoencoderKL"]})(trap)


KERNEL = {"attn_implementation": "someone/attention"}
LAYERS = {"num_hidden_layers": 3_000_000}
NO_CODE = "custom code"
AUTO = {"auto_map": {"AutoTokenizer": ["payload.T", None]}, "tokenizer_class": "T"}
MODEL = {
    "auto_map": {
        "AutoConfig": "payload.C",
        "AutoModel": "payload.M",
        "AutoModelForSeq2SeqLM": "payload.M",
    },
    "model_type": "mine",
}
TEACHER, UNET, VAE = (
    "text_encoder/model.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
)
DEEP = "[" * 100_000
CALL = "!!python/object/apply:os.system ['touch RAN']"

CASES: dict[str, Hostile] = {
    # code
    "a teacher's tokenizer of its own": Hostile(
        with_code("base", "tokenizer/tokenizer_config.json", **AUTO), teacher, NO_CODE
    ),
    "a student's tokenizer of its own": Hostile(
        lambda trap: (
            [written(name, "{}")(trap) for name in ("tokenizer.json", "special_tokens_map.json")],
            written("tokenizer_config.json", json.dumps(AUTO))(trap),
            code(trap, trap.folder),
        ),
        student_tokenizer,
        NO_CODE,
    ),
    "a tokenizer that reads a device": Hostile(
        changed("base", "tokenizer/tokenizer_config.json", vocab_file="/dev/zero"),
        clip_tokens,
        "vocab_file names a file",
    ),
    "a unigram tokenizer of its own": Hostile(
        lambda trap: (
            written("tokenizer_config.json", json.dumps(AUTO))(trap),
            written("tokenizer.json", "{}")(trap),
        ),
        unigram,
        "auto_map",
    ),
    "an encoder of its own": Hostile(
        with_code("base", "text_encoder/config.json", **MODEL), repository, "brings code of its own"
    ),
    "an encoder's auto_map": Hostile(
        changed("base", "text_encoder/config.json", **MODEL), repository, "auto_map"
    ),
    "a teacher's attention kernel": Hostile(
        changed("base", "text_encoder/config.json", **KERNEL), teacher, "names a kernel"
    ),
    "a ranker's attention kernel": Hostile(
        changed("ranker", "config.json", text_config=KERNEL), ranker, "names a kernel"
    ),
    "a ranker of its own": Hostile(with_code("ranker", "config.json", **MODEL), ranker, NO_CODE),
    "a judge of its own": Hostile(
        with_code("base", "text_encoder/config.json", **MODEL), judge, NO_CODE
    ),
    "a translator of its own": Hostile(
        with_code("translator", "config.json", **MODEL), translator("transformers"), NO_CODE
    ),
    "a sentence encoder's module": Hostile(
        lambda trap: (
            model("sentence_encoder")(trap),
            code(trap, trap.folder),
            written(
                "modules.json",
                json.dumps([{"idx": 0, "name": "0", "path": "", "type": "payload.T"}]),
            )(trap),
        ),
        sentence_encoder,
        "code of its own",
    ),
    "a pipeline class of its own": Hostile(
        with_code("base", "model_index.json", _class_name=["payload", "T"]),
        pipeline,
        "code of its own",
    ),
    "a part of a module's": Hostile(
        with_code("base", "model_index.json", unet=["payload", "T"]), pipeline, "code of its own"
    ),
    "a part of any library": Hostile(
        changed("base", "model_index.json", unet=["antigravity", "T"]), pipeline, "code of its own"
    ),
    "a repository's pipeline.py": Hostile(
        with_code("base", "model_index.json"), repository, "code of its own"
    ),
    # pickles
    "a teacher's pickle": Hostile(
        with_pickle("base", TEACHER), teacher, "pickle weights can run code"
    ),
    "a UNet's pickle": Hostile(
        with_pickle("base", UNET, "diffusion_pytorch_model.bin"),
        pipeline,
        "pickle weights can run code",
    ),
    "a VAE's pickle": Hostile(
        with_pickle("base", VAE, "diffusion_pytorch_model.bin"),
        pipeline,
        "pickle weights can run code",
    ),
    "a UNet's pickle in the bank": Hostile(
        with_pickle("base", UNET, "diffusion_pytorch_model.bin"), projections, "pickle weights"
    ),
    "a translator's pickle": Hostile(
        with_pickle("translator", "model.safetensors"), translator("transformers"), "pickle weights"
    ),
    "a converted translator's pickle": Hostile(
        with_pickle("translator", "model.safetensors"), translator("ctranslate2"), "pickle weights"
    ),
    "a judge's pickle": Hostile(with_pickle("base", TEACHER), judge, "pickle weights"),
    "a ranker's pickle": Hostile(
        with_pickle("ranker", "model.safetensors"), ranker, "pickle weights"
    ),
    "a CLOOB's pickle": Hostile(cloob_pickle, cloob, "cannot be read"),
    "an OpenCLIP pickle": Hostile(zipped_pickle, open_clip, "no checkpoint of tensors alone"),
    "an OpenCLIP pickle of old": Hostile(bare_pickle, open_clip, "no checkpoint of tensors alone"),
    "an AlexNet pickle": Hostile(zipped_pickle, lpips, "cannot be loaded"),
    # names that lead out
    "a teacher's weights outside": Hostile(
        with_weights_outside("base", TEACHER), teacher, "leads out"
    ),
    "a UNet's weights outside": Hostile(with_weights_outside("base", UNET), pipeline, "leads out"),
    "a UNet's weights outside, for the bank": Hostile(
        with_weights_outside("base", UNET), projections, "leads out"
    ),
    "token embeddings outside": Hostile(
        with_weights_outside("base", TEACHER), embedding, "leads out"
    ),
    "a ranker's weights outside": Hostile(
        with_weights_outside("ranker", "model.safetensors"), ranker, "leads out"
    ),
    "pairs outside": Hostile(outside_manifest("../secret"), pairs, "leads out"),
    "pairs at a root": Hostile(outside_manifest("SECRET"), pairs, "leads out"),
    "verified files outside": Hostile(
        written("verification.json", json.dumps({"files": {"../secret": "0"}})),
        verified,
        "leads out",
    ),
    "a pipeline's part outside": Hostile(part_outside, pipeline, "no name of a part"),
    "a module outside": Hostile(
        lambda trap: (
            model("sentence_encoder")(trap),
            written(
                "modules.json",
                json.dumps([{"path": "../secret", "type": "sentence_transformers.models.Dense"}]),
            )(trap),
        ),
        sentence_encoder,
        "leads out",
    ),
    "a tokenizer's file outside": Hostile(
        changed("base", "tokenizer/tokenizer_config.json", tokenizer_file="../secret"),
        teacher,
        "tokenizer_file names a file",
    ),
    "an adapter's base outside": Hostile(
        lambda trap: (
            model("base")(trap),
            written(
                "text_encoder/adapter_config.json",
                json.dumps({"base_model_name_or_path": "../secret"}),
            )(trap),
        ),
        teacher,
        "an adapter",
    ),
    "a link out of the folder": Hostile(
        with_link("base", TEACHER), teacher, "a link out of the folder"
    ),
    "a link out of a pipeline": Hostile(
        with_link("base", "scheduler/scheduler_config.json"), pipeline, "a link out of the folder"
    ),
    "a data set's files outside": Hostile(data_set_outside, data_set, "a file outside of it"),
    "a picture outside": Hostile(written("name", "../secret"), picture, "no_image: None"),
    "a picture's link": Hostile(picture_link, picture, "no_image: None"),
    # more than a file holds
    "a teacher of 3,000,000 layers": Hostile(
        changed("base", "text_encoder/config.json", **LAYERS), teacher, "3,000,000"
    ),
    "a ranker of 3,000,000 layers": Hostile(
        changed("ranker", "config.json", **LAYERS), ranker, "3,000,000"
    ),
    "a translator of 3,000,000 layers": Hostile(
        changed("translator", "config.json", encoder_layers=3_000_000),
        translator("ctranslate2"),
        "3,000",
    ),
    "a UNet of 3,000,000 layers": Hostile(
        changed("base", "unet/config.json", layers_per_block=3_000_000), pipeline, "3,000,000"
    ),
    "a VAE of 10,000,000 channels": Hostile(
        changed("base", "vae/config.json", latent_channels=10**7), pipeline, "10,000,000"
    ),
    "a teacher of 10^12 positions": Hostile(
        changed("base", "text_encoder/config.json", max_position_embeddings=10**12),
        teacher,
        "1,000,000,000,000",
    ),
    "weights with a header of a petabyte": Hostile(
        huge_header, teacher, "truncated, or no safetensors"
    ),
    "a config nested 100,000 deep": Hostile(
        with_text("base", "text_encoder/config.json", DEEP), teacher, "no valid JSON"
    ),
    "an index nested 100,000 deep": Hostile(
        with_text("base", "model_index.json", DEEP), pipeline, "no valid JSON"
    ),
    "a number of 10,000 digits": Hostile(
        with_text("base", "text_encoder/config.json", '{"a": ' + "9" * 10_000 + "}"),
        teacher,
        "no valid JSON",
    ),
    "a tokenizer nested 100,000 deep": Hostile(
        written("tokenizer.json", DEEP), unigram, "damaged one"
    ),
    "a SentencePiece model of a petabyte": Hostile(
        written("spiece.model", b"\x0a" + b"\xff" * 8 + b"\x7f"), unigram, "no SentencePiece model"
    ),
    "a fastText model of 10^9 words": Hostile(
        written("lid.bin", fasttext_model(10**9)), language_id, "1,000,000,000 words"
    ),
    "a fastText matrix of a terabyte": Hostile(
        written("lid.bin", fasttext_model(0, 2**34)), language_id, "a matrix of"
    ),
    "a picture of 10^10 pixels": Hostile(
        lambda trap: (
            written("a.png", png_bomb(100_000, 100_000))(trap),
            written("name", "a.png")(trap),
        ),
        picture,
        "too_many_pixels: None",
    ),
    "settings in a picture of 10^10 pixels": Hostile(
        written("picture.png", png_bomb(100_000, 100_000)), picture_text, "cannot be read"
    ),
    "a line of a gigabyte": Hostile(
        written("bomb.gz", gzip.compress(b"x" * 300_000_000, 1)), tsv, "1 rows"
    ),
    # recipes
    "a recipe that calls": Hostile(
        lambda trap: written("recipe.yaml", f"name: {CALL}".replace("RAN", str(trap.ran)))(trap),
        recipe,
        "not valid YAML",
    ),
    "an override that calls": Hostile(
        lambda trap: None, override(f"name={CALL}"), "not valid YAML"
    ),
    "a recipe of 10^10 values": Hostile(
        written("recipe.yaml", yaml_bomb("name")), recipe, "more than 100,000 values"
    ),
    "an override of 10^10 values": Hostile(
        lambda trap: None, override(f"name={flow_bomb()}"), "more than 100,000 values"
    ),
    "a value that holds itself": Hostile(
        written("recipe.yaml", "name: &a [*a]"), recipe, "stands inside of what it repeats"
    ),
    "a recipe nested 10,000 deep": Hostile(
        written("recipe.yaml", "name: " + "[" * 10_000), recipe, "not valid YAML"
    ),
    "a recipe of 2,000,000 characters": Hostile(
        written("recipe.yaml", "name: " + "x" * 2_000_000), recipe, "1,000,000 at most"
    ),
    "a key of 100,000 characters": Hostile(
        lambda trap: None, override("k" * 100_000 + "=1"), "no such key"
    ),
    "a value of 100,000 characters": Hostile(
        lambda trap: None, override("distill.steps=" + "x" * 100_000), "distill.steps"
    ),
    "an override that moves the cursor": Hostile(
        lambda trap: None, override("name\x1b[2J=1"), r"name\x1b[2J"
    ),
}
