"""Every row's hidden states beside the teacher's, reader after reader.

In:  the held-out pairs and the readers of the rows.
Out: numbers by row. Each reader's are also written into a work folder, so that an interrupted
     comparison encodes no row twice; at real size a reader takes minutes.
"""

import json
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from configs.errors import DataError
from configs.files import value_sha256, whole
from configs.schema.recipe import Eval
from corpora.pair import Pair
from distill.encoders.teacher import Encoding, TextEncoders
from distill.sdxl.pipelines import device
from eval.states import prompt_forms, weight_response
from eval.states.noise_gap import EMPTY
from eval.states.pair_numbers import Moments, RowNumbers
from eval.states.reference_rows import RowReader


class ComparedStates(NamedTuple):
    """`encodings`: by row, of the first `gap_pairs` pairs, and of the empty prompt. `lengths`: of
    each pair's English, in tokens.
    """

    rows: dict[str, RowNumbers]
    encodings: dict[str, Encoding]
    lengths: list[int]


def compare_states(
    settings: Eval, pairs: list[Pair], readers: list[RowReader], work: Path
) -> ComparedStates:
    """Goes on with what `work` holds. Raises DataError."""
    english = [pair.en for pair in pairs]
    teacher = readers[0].load().to(device())
    tokenizer = next(iter(teacher.tokenizers.values()))
    moments = _moments(teacher, english, settings.batch_size, work / "moments.safetensors")
    empty = teacher.encode([""])
    rows: dict[str, RowNumbers] = {}
    encodings = {EMPTY: on_cpu([empty], 1)}
    for number, reader in enumerate(readers):
        # by what it reads: an older version of this program may have read other rows
        prompts = value_sha256(list(reader.rows.items()))[:12]
        path = work / f"reader-{number}-{prompts}.safetensors"
        if not path.is_file():
            encoders = teacher if number == 0 else reader.load().to(device())
            # before the long work
            check_comparable(next(iter(reader.rows)), encoders.encode([""]), empty)
            found = _read(reader, encoders, teacher, english, moments, settings)
            _save(found, path)
            del encoders
        for name, tensors in _by_row(_load(path), reader).items():
            encoding = {
                part.removeprefix("encoding|"): tensors.pop(part)
                for part in list(tensors)
                if part.startswith("encoding|")
            }
            if not prompt_forms.is_form(name):
                rows[name] = RowNumbers.of(moments, len(pairs), tensors)
            encodings[name] = Encoding.of(encoding)
    for numbers in rows.values():
        numbers.rank(rows[next(iter(readers[0].rows))])
    return ComparedStates(rows, encodings, [len(ids) for ids in tokenizer(english).input_ids])


def _moments(teacher: TextEncoders, english: list[str], size: int, path: Path) -> Moments:
    if path.is_file():
        return Moments.of(_load(path))
    moments = Moments()
    for start in tqdm(range(0, len(english), size), desc="the teacher's variance", unit="batch"):
        texts = english[start : start + size]
        moments.add(teacher.encode(texts), teacher.tokenize(texts))
    _save(moments.tensors(), path)
    return moments


def _read(
    reader: RowReader,
    encoders: TextEncoders,
    teacher: TextEncoders,
    english: list[str],
    moments: Moments,
    settings: Eval,
) -> dict[str, torch.Tensor]:
    """What the reader's file holds: `<row's number>|...`, as names of rows are users' own."""
    size, some = settings.batch_size, settings.gap_pairs
    rows = {
        name: RowNumbers(moments, len(english))
        for name in reader.rows
        if not prompt_forms.is_form(name)
    }
    parts: dict[str, list[Encoding]] = {name: [] for name in reader.rows}
    starts = range(0, len(english), size)
    label = f"{len(reader.rows)} rows from {next(iter(reader.rows))}"
    for start in tqdm(starts, desc=label, unit="batch"):
        part = slice(start, start + size)
        wanted, ids = teacher.encode(english[part]), teacher.tokenize(english[part])
        for name, prompts in reader.rows.items():
            if name not in rows and start >= some:
                continue
            weighted = name in weight_response.ROWS
            encode = partial(weight_response.encode, encoders) if weighted else encoders.encode
            encoding = encode(prompts[part])
            check_comparable(name, encoding, wanted)
            if name in rows:
                rows[name].add(start, encoding, wanted, ids)
            if start < some:
                parts[name].append(encoding)
    found: dict[str, torch.Tensor] = {}
    for number, name in enumerate(reader.rows):
        kept = on_cpu(parts[name], some).named()
        tensors = {f"encoding|{key}": tensor for key, tensor in kept.items()}
        if name in rows:
            tensors |= rows[name].tensors()
        found |= {f"{number}|{key}": tensor for key, tensor in tensors.items()}
    return found


def _by_row(
    tensors: dict[str, torch.Tensor], reader: RowReader
) -> dict[str, dict[str, torch.Tensor]]:
    names = list(reader.rows)
    found: dict[str, dict[str, torch.Tensor]] = {name: {} for name in names}
    for key, tensor in tensors.items():
        number, _, rest = key.partition("|")
        found[names[int(number)]][rest] = tensor
    return found


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """With the order of the names, which the format does not keep."""
    with whole(path) as temporary:
        save_file(tensors, temporary, metadata={"names": json.dumps(list(tensors))})


def _load(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in json.loads(file.metadata()["names"])}


def on_cpu(parts: list[Encoding], count: int) -> Encoding:
    """The first `count` prompts of some batches in main memory, fp32."""
    return Encoding.of(
        {
            name: torch.cat([part.named()[name].float().cpu() for part in parts])[:count]
            for name in parts[0].named()
        }
    )


def check_comparable(name: str, encoding: Encoding, teacher: Encoding) -> None:
    """Raises DataError when a row has other widths than the teacher, or holds NaN or infinity."""
    for kind, want in teacher.named().items():
        got = encoding.named()[kind]
        if got.shape != want.shape:
            shapes = f"{tuple(got.shape)}, the teacher's has {tuple(want.shape)}"
            raise DataError(
                f"{name}: {kind} has the shape {shapes}; was it made from another base?"
            )
        if not got.isfinite().all():
            raise DataError(
                f"{name}: {kind} holds NaN or infinity; train and export the student again"
            )
