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
from pathlib import Path

from configs import artefact, memory
from configs.errors import DataError, one_line
from configs.files import PARTIAL, publish, sweep, whole
from distill.checkpoints import saved_state
from distill.parallel import engine as engines
from distill.parallel.engine import Engine

MANIFEST = artefact.MANIFEST
NAME = re.compile(r"step_[0-9]+")
NOT_WHOLE = "so this checkpoint is not whole"
INITIAL = (
    "its embeddings are vocab_init's, its layers the teacher's: make or fetch the damaged one again"
)
HARDWARE = (
    "Run the same command again, which goes on from the newest checkpoint; if it happens there "
    "too, lower distill.learning_rate in another run folder; if not, check this machine's memory"
)


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
            state = engines.in_all(lambda: saved_state.load(engine, folder))[0]
            engine.share_weights()
        if bad := engine.not_finite():
            source, remedy = (
                (folder, saved_state.OLDER) if folder else ("the initial student", INITIAL)
            )
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
        entries = saved_state.layout(engine, engines.world_size())
        memory.give_back()  # what the step has freed: copies of the largest tensors come now
        try:
            engines.in_all(
                lambda: saved_state.begin(partial, entries) if engines.rank() == 0 else None
            )
            digests = engines.in_all(lambda: saved_state.write(engine, partial, entries))
            state = saved_state.State(
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

    def _finish(
        self, partial: Path, folder: Path, state: saved_state.State, digests: dict[str, str]
    ) -> None:
        state.write(partial / saved_state.STATE)
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
) -> artefact.ArtefactManifest:
    """Compares files (None: all) with the manifest's digests.

    Raises DataError naming the first that differs.
    """
    if (folder / "engine").is_dir():
        raise DataError(
            f"{folder}: made by an earlier version (it holds engine/), whose checkpoints this one "
            f"cannot read; {way_out}"
        )
    manifest = artefact.ArtefactManifest.read(folder / MANIFEST, way_out)
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


def _some(names: list[str]) -> str:
    more = (
        f" and {len(names) - 3} more are" if len(names) > 3 else " are" if len(names) > 1 else " is"
    )
    return ", ".join(names[:3]) + more
