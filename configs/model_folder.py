"""A model that somebody else made, looked at before a library loads it.

In:  a folder in the layout of transformers, diffusers or sentence-transformers, or a hub name (of
     which the JSON files alone are fetched here).
Out: nothing. What asks for code, names files outside the folder, has its weights in pickles only,
     or describes more than its weights hold is one `DataError` line.

The libraries' own switches (`trust_remote_code=False`, `use_safetensors=True`) are given at every
call too. They are not enough: a config can name an attention kernel of the hub, which is code; a
tokenizer's settings, a weights index and an adapter can name files anywhere on the machine; and a
config of a million layers is built before the first weight is read.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.errors import DataError, first_line
from configs.files import inside, read_json
from configs.references import looks_like_hub_name

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
WITHOUT = "use one that needs no code of its own"
# Below `config.json` these count layers; each layer has at least one tensor.
LAYER_ENDINGS = ("layer", "depth", "depths", "blocks")
# No dimension of a weight is larger than the largest one in the file; these describe inputs.
INPUT_KEYS = ("sample_size", "image_size", "max_position_embeddings", "n_positions", "max_length")
LARGEST_INPUT = 1 << 20
LARGEST_WIDTH = 1 << 16  # configs keep defaults of parts that the model does not have
MOST_LAYERS = 1000  # where no weights are at hand: of a hub name
LONGEST_HEADER = 100_000_000  # bytes; safetensors' own limit


def check(reference: str | Path) -> None:
    """Raises DataError. A path that is no folder, or a hub name that is out of reach, is left to
    the library that is asked to load it."""
    folder = Path(reference)
    if folder.is_dir():
        return check_folder(folder)
    if looks_like_hub_name(reference):
        from huggingface_hub import snapshot_download

        try:
            fetched = snapshot_download(str(reference), allow_patterns=["*.json"])
        except Exception:  # no network, no such name: the library says so in its own words
            return
        check_folder(Path(fetched))


def check_folder(folder: Path) -> None:
    """The folder's own files and those of the folders in it. Raises DataError."""
    for path in _files(folder):
        _check_link(path, folder)
        if path.name == "adapter_config.json":
            raise DataError(
                f"{path}: an adapter, which names another model to load; merge it and save whole "
                "weights"
            )
        if path.suffix == ".json" and path.name not in ("tokenizer.json", "vocab.json"):
            _check_json(path, folder)


def check_links(folder: Path) -> None:
    """Of all files below. Raises DataError for a link out of the folder."""
    for path in sorted(folder.rglob("*")):
        if not path.is_dir():
            _check_link(path, folder)


def check_weights(config: dict[str, Any], shapes: dict[str, list[int]], path: Path) -> None:
    """Raises DataError where `config` (of `path`) describes more layers or larger ones than there
    are tensors of these shapes."""
    largest = max((size for shape in shapes.values() for size in shape), default=0)
    for key, value in _numbers(config):
        if _counts_layers(key) and value > len(shapes):
            raise DataError(
                f"{path}: its {key} is {value:,}, the weights beside it hold {len(shapes)} tensors;"
                " damaged or made to harm, fetch it again"
            )
        limit = max(largest, LARGEST_INPUT if key in INPUT_KEYS else LARGEST_WIDTH)
        if _is_width(key) and value > limit:
            raise DataError(
                f"{path}: its {key} is {value:,}, the weights beside it have {limit:,} at most;"
                " damaged or made to harm, fetch it again"
            )


def header(path: Path) -> dict[str, list[int]]:
    """The shape of every tensor of a safetensors file. Raises DataError."""
    return {name: shape for name, (_, shape) in typed_header(path).items()}


def typed_header(path: Path, whole: bool = False) -> dict[str, tuple[str, list[int]]]:
    """The type, as safetensors calls it ("F16"), and the shape of every tensor. `whole`: the file
    must also be as long as its header says.

    Raises DataError.
    """
    try:
        with open(path, "rb") as file:
            length, size = int.from_bytes(file.read(8), "little"), path.stat().st_size
            if length > min(LONGEST_HEADER, size):
                raise ValueError(f"a header of {length:,} bytes")
            tree = json.loads(file.read(length))
        tree.pop("__metadata__", None)
        needed = 8 + length + max((entry["data_offsets"][1] for entry in tree.values()), default=0)
        if whole and needed != size:
            raise ValueError(f"{size:,} bytes, its header says {needed:,}")
        return {name: (entry["dtype"], entry["shape"]) for name, entry in tree.items()}
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); fetch it again") from None
    except (
        ValueError,
        RecursionError,
        AttributeError,
        LookupError,
        TypeError,
    ) as error:
        raise DataError(
            f"{path}: truncated, or no safetensors file ({first_line(error)}); fetch it again"
        ) from None


def weight_map(path: Path) -> dict[str, str]:
    """The file that holds each tensor, by an index of shards. Raises DataError."""
    found = read_json(path).get("weight_map")
    if (
        not isinstance(found, dict)
        or not found
        or not all(isinstance(name, str) for name in found.values())
    ):
        raise DataError(f"{path}: its weight_map is damaged; fetch the folder again")
    return found


def _files(folder: Path) -> Iterator[Path]:
    for pattern in ("*", "*/*"):
        yield from sorted(path for path in folder.glob(pattern) if not path.is_dir())


def _check_link(path: Path, folder: Path) -> None:
    """A symbolic link may lead elsewhere in the folder or to the hub's cache, which is made of
    them. One that leads elsewhere would make a private file part of what is exported."""
    target = path.resolve()
    if target.is_relative_to(folder.resolve()) or _is_cached(target):
        return
    raise DataError(f"{path}: a link out of the folder; put the file itself there")


def _is_cached(path: Path) -> bool:
    """`models--ORG--NAME/blobs/DIGEST`: a file of huggingface_hub's cache."""
    return path.parent.name == "blobs" and path.parent.parent.name.startswith("models--")


def _check_json(path: Path, folder: Path) -> None:
    if path.name == "modules.json":
        return _check_modules(path)
    if path.name.endswith(".index.json"):
        for name in weight_map(path).values():
            _check_link(inside(path.parent, name), folder)
        return
    config = read_json(path)
    if path.name.startswith("tokenizer_config"):
        for key, value in config.items():
            # transformers opens what a tokenizer's settings name, wherever it lies
            if (
                key.endswith("_file")
                and key != "special_tokens_map_file"
                and isinstance(value, str)
            ):
                raise DataError(
                    f"{path}: its {key} names a file, {value!r}; take the key out, files are found "
                    "by name"
                )
    if path.name == "config.json":
        _check_config(path, config)


def _check_config(path: Path, config: dict[str, Any]) -> None:
    for key, value in _texts(config):
        if key.endswith("attn_implementation") and "/" in value:
            raise DataError(f"{path}: its {key} names a kernel of the hub, {value!r}; {WITHOUT}")
    weights = sorted(path.parent.glob("*.safetensors"))
    if weights:
        shapes: dict[str, list[int]] = {}
        for file in weights:
            shapes |= header(file)
        check_weights(config, shapes, path)
    elif pickles := sorted(found for one in PICKLES for found in path.parent.glob(one)):
        raise DataError(
            f"{pickles[0]}: pickle weights can run code when loaded; where you trust them, load the"
            " model with transformers and write it with save_pretrained, which makes safetensors"
        )
    else:
        for key, count in _numbers(config):
            if _counts_layers(key) and count > MOST_LAYERS:
                raise DataError(f"{path}: its {key} is {count:,}, {MOST_LAYERS:,} at most")


def _check_modules(path: Path) -> None:
    """sentence-transformers imports the classes that modules.json names, from the folders it
    names.
    """
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
        wanted = [(str(one["type"]), str(one["path"])) for one in modules]
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: no list of modules ({first_line(error)}); fetch it again"
        ) from None
    for kind, name in wanted:
        if not kind.startswith("sentence_transformers."):
            raise DataError(f"{path}: needs {kind!r}, code of its own; {WITHOUT}")
        if name:
            inside(path.parent, name)


def _numbers(config: Any, key: str = "") -> Iterator[tuple[str, int]]:
    """Every integer below, with the key it stands under; of a list, each."""
    if isinstance(config, dict):
        for name, value in config.items():
            yield from _numbers(value, name)
    elif isinstance(config, list):
        for value in config:
            yield from _numbers(value, key)
    elif isinstance(config, int) and not isinstance(config, bool):
        yield key, config


def _texts(config: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(config, dict):
        for name, value in config.items():
            yield from _texts(value, name)
    elif isinstance(config, str):
        yield key, config


def _counts_layers(key: str) -> bool:
    return "layers" in key or key.rpartition("_")[2] in LAYER_ENDINGS


def _is_width(key: str) -> bool:
    if key in INPUT_KEYS:
        return True
    if key == "vocab_size":
        return False  # the libraries compare it with the table before they make room for it
    return key.endswith(("_size", "_dim", "_channels", "_heads")) or key in (
        "d_model",
        "d_ff",
        "d_kv",
    )
