"""The training state as the files of one checkpoint: which process writes which tensor, and how any
number of processes reads them.

Out/in: `student.safetensors`, `state_00000.safetensors` ... and `state.json`, as
        `distill/checkpoints/checkpoint.py` says.
"""

import re
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open

from configs import artefact
from configs.errors import DataError, first_line
from configs.files import check_room
from configs.records import Record
from distill.checkpoints.tensor_file import WORD, TensorFile
from distill.parallel import engine as engines
from distill.parallel.engine import Engine

STUDENT, STATE = "student.safetensors", "state.json"
SHARD = re.compile(r"state_[0-9]+\.safetensors")
OLDER = "remove that folder, and an older one is taken"


class State(Record):
    """`state.json`: what of the state is no tensor.

    `exported`: the part that the student's file holds.
    """

    step: int = Field(ge=1)
    skipped_steps: int = Field(ge=0)
    processes: int = Field(ge=1)
    exported: Literal["weight", "average"]


class Entry(NamedTuple):
    """One tensor of a checkpoint: one part of one parameter's state, in a file that process `rank`
    writes.
    """

    rank: int
    file: str
    key: str
    name: str
    part: str
    shape: tuple[int, ...]


def layout(engine: Engine, processes: int) -> list[Entry]:
    """All tensors of a checkpoint in the order they are gathered in, shared out by bytes; rank 0
    writes the student.
    """
    entries, written = [], [0] * processes
    for name, parameter in engine.parameters.items():
        shape = tuple(parameter.shape)
        written[0] += parameter.numel()
        entries.append(Entry(0, STUDENT, name, name, engine.exported, shape))
        for part in engine.parts if parameter.requires_grad else ():
            if part != engine.exported:
                rank = written.index(min(written))
                written[rank] += parameter.numel()
                entries.append(
                    Entry(
                        rank, f"state_{rank:05d}.safetensors", f"{part}.{name}", name, part, shape
                    )
                )
    return entries


def begin(partial: Path, entries: list[Entry]) -> None:
    check_room(partial, WORD * sum(torch.Size(entry.shape).numel() for entry in entries))
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)


def write(engine: Engine, partial: Path, entries: list[Entry]) -> dict[str, str]:
    """Gathers tensor after tensor and writes this process's share of them; the SHA-256 of the files
    it made. Raises OSError.
    """
    files: dict[str, TensorFile] = {}
    for name in {entry.file for entry in entries if entry.rank == engines.rank()}:
        files[name] = TensorFile(
            partial / name, {entry.key: entry.shape for entry in entries if entry.file == name}
        )
    for entry in entries:
        tensor = engine.whole(entry.name, entry.part)
        if entry.file in files:
            files[entry.file].write(entry.key, tensor)
    digests, errors = {}, []
    for name, file in files.items():
        try:
            digests[name] = file.close()
        except OSError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return digests


def load(engine: Engine, folder: Path) -> State:
    """Sets this process's share of the state; the other processes need not do the same.

    Raises DataError.
    """
    state = State.read(folder / STATE, OLDER)
    if state.step != int(folder.name.removeprefix("step_")) or state.exported != engine.exported:
        raise DataError(
            f"{folder / STATE}: of step {state.step}, its student the {state.exported}; {OLDER}"
        )
    with ExitStack() as opened:
        try:
            listed = artefact.ArtefactManifest.read(folder / artefact.MANIFEST, OLDER).files
            paths = [folder / STUDENT, *(folder / name for name in listed if SHARD.fullmatch(name))]
            files = [opened.enter_context(safe_open(path, "pt")) for path in paths]
        except (OSError, SafetensorError) as error:
            raise DataError(f"{folder}: cannot be read ({first_line(error)}); {OLDER}") from None
        place = {key: file for file in files[1:] for key in list(file.keys())}
        place |= dict.fromkeys(files[0].keys(), files[0])

        def read(name: str, part: str) -> torch.Tensor:
            key = name if part == engine.exported else f"{part}.{name}"
            shape = tuple(engine.parameters[name].shape)
            stored = place[key].get_slice(key) if key in place else None
            if stored is None or (stored.get_dtype(), tuple(stored.get_shape())) != ("F32", shape):
                raise DataError(f"{folder}: holds no {key} of shape {shape} in fp32; {OLDER}")
            return place[key].get_tensor(key)

        engine.set_state(state.step, state.skipped_steps, read)
    return state
