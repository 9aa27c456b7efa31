"""Checkpoints that appear whole or not at all, and are known to be whole when read.

Out: `<run>/distill/checkpoints/step_000500/`: `student.safetensors` (fp32, transformers' names behind `clip_l.` / `clip_bigg.`),
     `engine/` (DeepSpeed's shards, one a process), `state.json`, and `manifest.json` with a SHA-256 a file, written last;
     then `<run>/distill/latest`, which names the newest.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from configs.errors import DataError, SetupError
from configs.files import file_sha256, whole
from distill import engine as engines
from distill.engine import Engine

MANIFEST = "manifest.json"


def save(engine: Engine, run: Path, step: int, keep: int) -> None:
    """Every rank must call this. A kill at any moment leaves the previous checkpoint the newest."""
    folder = run / "checkpoints" / f"step_{step:06d}"
    work = folder.with_name(folder.name + ".incomplete")
    if engines.rank() == 0:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
    engines.barrier()
    engine.save(work)
    weights = engine.weights()
    engines.barrier()  # all shards are on disk
    if engines.rank() == 0:
        save_file(weights, work / "student.safetensors", metadata={"format": "pt"})
        (work / "state.json").write_text(json.dumps({"step": step, "processes": engines.world_size()}), encoding="utf-8")
        files = sorted(path for path in work.rglob("*") if path.is_file())
        _write_whole(work / MANIFEST, json.dumps({str(path.relative_to(work)): file_sha256(path) for path in files}, indent=2))
        shutil.rmtree(folder, ignore_errors=True)
        work.rename(folder)
        _write_whole(run / "latest", folder.name)
        for old in sorted((run / "checkpoints").glob("step_*"))[:-keep]:
            shutil.rmtree(old)
    engines.barrier()


def latest(run: Path) -> Path | None:
    """The newest checkpoint, its digests checked; None before the first. Raises DataError for a damaged one."""
    folder = newest(run)
    if folder is not None:
        verify(folder)
    return folder


def newest(run: Path) -> Path | None:
    """The checkpoint that `latest` names, not looked into; None before the first. Raises DataError."""
    if not (run / "latest").is_file():
        if any((run / "checkpoints").glob("step_*/" + MANIFEST)):
            raise DataError(f"{run / 'latest'}: missing though there are checkpoints; write the newest one's name into it")
        return None
    folder = run / "checkpoints" / (run / "latest").read_text(encoding="utf-8").strip()
    if not (folder / MANIFEST).is_file():
        raise DataError(f"{folder}: not a whole checkpoint ({MANIFEST} is missing); name an older one in {run / 'latest'}")
    return folder


def verify(folder: Path, names: list[str] | None = None) -> None:
    """Compares files (None: every one) with the manifest. Raises DataError naming the first that differs."""
    remedy = f"name an older checkpoint in {folder.parent.parent / 'latest'}"
    try:
        digests = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: not a whole checkpoint ({error}); {remedy}") from None
    for name in digests if names is None else names:
        if not (folder / name).is_file() or file_sha256(folder / name) != digests.get(name):
            raise DataError(f"{folder / name}: missing or damaged (not the manifest's SHA-256); {remedy}")


def resume(engine: Engine, folder: Path) -> int:
    """Loads a checkpoint into the engine; the number of steps it has made. Raises SetupError for another number of processes."""
    state: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    if state["processes"] != engines.world_size():
        raise SetupError(f"{folder}: made by {state['processes']} processes, this is {engines.world_size()}; resume with as many as before")
    engine.load(folder)
    return int(state["step"])


def _write_whole(path: Path, text: str) -> None:
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
