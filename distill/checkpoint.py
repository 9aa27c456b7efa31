"""Checkpoints that appear whole or not at all, are known to be whole when read, and continue with
any number of processes.

Out: `<run>/distill/checkpoints/step_000500/`: `student.safetensors` (fp32, transformers' names
     behind `clip_l.` / `clip_bigg.`; the running average of the weights where one is kept),
     `state_00000.safetensors` ... (all else that training needs, fp32: both Adam moments, and the
     weights where the student is their average; each process wrote one), `state.json`, and
     `manifest.json` with a SHA-256 a file, written last; then `<run>/distill/latest`, the newest's
     name, for people and scripts: it is not read here.
In:  the same; nothing in a checkpoint is ever run.
"""

import re
import shutil
import sys
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open

from configs import artefact
from configs.errors import DataError, first_line, one_line
from configs.files import PARTIAL, check_room, publish, sweep, whole
from configs.records import Record
from distill import engine as engines
from distill.engine import Engine
from distill.tensor_file import WORD, TensorFile

MANIFEST = artefact.MANIFEST
STUDENT, STATE = "student.safetensors", "state.json"
NAME, SHARD = re.compile(r"step_[0-9]+"), re.compile(r"state_[0-9]+\.safetensors")
NOT_WHOLE = "so this checkpoint is not whole"
OLDER = "remove that folder, and an older one is taken"
INITIAL = (
    "its embeddings are vocab_init's, its layers the teacher's: make or fetch the damaged one again"
)
HARDWARE = (
    "Run the same command again, which goes on from the newest checkpoint; if it happens there "
    "too, lower distill.learning_rate in another run folder; if not, check this machine's memory"
)


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


class Checkpoints:
    """Those of one run folder, as the processes of a training see them; every rank must call every
    method.
    """

    def __init__(self, run: Path, keep: int) -> None:
        self._run, self._folder, self._keep = run, run / "checkpoints", keep
        self._damaged: set[str] = set()

    def latest(self) -> Path | None:
        """The newest that verifies; None before the first. Removes what a killed process left.

        Raises DataError where none verifies.
        """

        def look() -> tuple[Path | None, dict[str, str]]:
            if engines.rank() != 0:
                return None, {}
            sweep(self._folder)
            return _search(self._run, None)

        found, damaged = engines.in_all(look)[0]
        self._damaged = set(damaged)
        return found

    def resume(self, engine: Engine, folder: Path | None) -> int:
        """Sets the engine to a checkpoint's state; the number of steps it has made.

        None: the state it has, 0.

        Raises DataError where it does not fit this recipe, or is not finite.
        """
        state = None
        if folder is not None:
            state = engines.in_all(lambda: _load(engine, folder))[0]
            engine.share_weights()
        if bad := engine.not_finite():
            source, remedy = (folder, OLDER) if folder else ("the initial student", INITIAL)
            raise DataError(f"{source}: {_some(bad)} not finite (NaN or infinity); {remedy}")
        return state.step if state else 0

    def save(self, engine: Engine, step: int) -> None:
        """A kill or an error at any moment leaves the previous checkpoint the newest.

        Raises DataError for a state that is not finite, SetupError where the disk is full or fails.
        """
        if bad := engine.not_finite():
            raise DataError(
                f"step {step}: not saved, for {_some(bad)} not finite though every gradient was. "
                f"{HARDWARE}"
            )
        folder = self._folder / f"step_{step:06d}"
        partial = folder.with_name(f".{folder.name}{PARTIAL}")
        entries = layout(engine, engines.world_size())
        try:
            engines.in_all(lambda: _begin(partial, entries) if engines.rank() == 0 else None)
            digests = engines.in_all(lambda: _write(engine, partial, entries))
            state = State(
                step=step,
                skipped_steps=engine.skipped_steps,
                processes=engines.world_size(),
                exported=engine.exported,
            )
            known = {file: digest for one in digests for file, digest in one.items()}
            engines.in_all(
                lambda: self._finish(partial, folder, state, known) if engines.rank() == 0 else None
            )
        finally:
            if engines.rank() == 0:
                shutil.rmtree(partial, ignore_errors=True)

    def _finish(self, partial: Path, folder: Path, state: State, digests: dict[str, str]) -> None:
        state.write(partial / STATE)
        artefact.seal(partial, made_from={}, known=digests)
        publish(partial, folder)
        self._damaged.discard(folder.name)
        with whole(self._run / "latest") as temporary:
            temporary.write_text(folder.name + "\n", encoding="utf-8")
        found = {
            one.name: one.name not in self._damaged and (one / MANIFEST).is_file()
            for one in _numbered(self._folder)
        }
        for name in outdated(found, folder.name, self._keep):
            old = (
                self._folder / f".{name}.old{PARTIAL}"
            )  # no half of it is ever seen under its name
            (self._folder / name).rename(old)
            shutil.rmtree(old, ignore_errors=True)


def outdated(whole_by_name: dict[str, bool], saved: str, keep: int) -> list[str]:
    """Which checkpoints may go when `saved` has just appeared: all older ones but the newest `keep`
    - 1 of those that are whole.

    Later ones stay, and count for nothing: a run that has gone back to an older checkpoint found
    them damaged, and makes them again.
    """
    older = sorted((name for name in whole_by_name if _number(name) < _number(saved)), key=_number)
    good = [name for name in older if whole_by_name[name]]
    kept = good[max(0, len(good) - keep + 1) :]
    return [name for name in older if name not in kept]


def newest(run: Path, names: Collection[str] | None = None) -> Path | None:
    """The newest checkpoint of which these files (None: all) are whole; None before the first.

    Says on stderr which newer ones were passed over. Raises DataError where none is whole.
    """
    return _search(run, names)[0]


def verify(
    folder: Path, names: Collection[str] | None = None, way_out: str = "name another checkpoint"
) -> artefact.Manifest:
    """Compares files (None: all) with the manifest's digests.

    Raises DataError naming the first that differs.
    """
    if (folder / "engine").is_dir():
        raise DataError(
            f"{folder}: made by an earlier version (it holds engine/), whose checkpoints this one "
            f"cannot read; {way_out}"
        )
    manifest = artefact.Manifest.read(folder / MANIFEST, way_out)
    wanted = (
        manifest.files if names is None else {name: manifest.files.get(name, "") for name in names}
    )
    artefact.check_files(folder, wanted, way_out)
    return manifest


def _number(name: str) -> int:
    return int(name.removeprefix("step_"))


def _numbered(folder: Path) -> list[Path]:
    """The folders that are named as checkpoints are, the oldest first."""
    named = [path for path in folder.glob("step_*") if NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(named, key=lambda path: _number(path.name))


def _search(run: Path, names: Collection[str] | None) -> tuple[Path | None, dict[str, str]]:
    """The newest whole one, and why each newer one is not, by its name."""
    damaged: dict[str, str] = {}
    for folder in reversed(_numbered(run / "checkpoints")):
        try:
            verify(folder, names, NOT_WHOLE)
        except DataError as error:
            damaged[folder.name] = str(error)
            continue
        if damaged:
            print(
                one_line(f"{'. '.join(damaged.values())}. Passed over for {folder}"),
                file=sys.stderr,
            )
        return folder, damaged
    if damaged:
        remedy = (
            f"No other is whole: put one back, or move {run / 'checkpoints'} away to start again"
        )
        raise DataError(f"{'. '.join(damaged.values())}. {remedy}")
    return None, damaged


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


def _begin(partial: Path, entries: list[Entry]) -> None:
    check_room(partial, WORD * sum(torch.Size(entry.shape).numel() for entry in entries))
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)


def _write(engine: Engine, partial: Path, entries: list[Entry]) -> dict[str, str]:
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


def _load(engine: Engine, folder: Path) -> State:
    """Sets this process's share of the state; the other processes need not do the same.

    Raises DataError.
    """
    state = State.read(folder / STATE, OLDER)
    if state.step != _number(folder.name) or state.exported != engine.exported:
        raise DataError(
            f"{folder / STATE}: of step {state.step}, its student the {state.exported}; {OLDER}"
        )
    with ExitStack() as opened:
        try:
            listed = artefact.Manifest.read(folder / MANIFEST, OLDER).files
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


def _some(names: list[str]) -> str:
    more = (
        f" and {len(names) - 3} more are" if len(names) > 3 else " are" if len(names) > 1 else " is"
    )
    return ", ".join(names[:3]) + more
