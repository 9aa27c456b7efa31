"""Compares the results of two run folders, and finds the complete checkpoints of a run.

Files are compared by their bytes, JSON files by their values except times, places and speeds.
Records of events (locks, `stages.jsonl`, TensorBoard's files, `status.json`) are not compared, nor
are pages made from results that are.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# Values of our JSON files that depend on the clock, the machine or on how often a run was
# interrupted.
VOLATILE = {
    "pairs_per_second",
    "pictures_per_second",
    "seconds",
    "since",
    "time",
    "date",
    "host",
    "pid",
    "machine",
    "started",
    "processes",
    "memory/process",
    "fingerprint",
}
# Below the run's folder. Training's results are the last checkpoint's weights and the metrics;
# others are stepping stones.
RESULTS = (
    "pairs/*",
    "initial_student/**/*",
    "distill/metrics.jsonl",
    "distill/checkpoints/*/*",
    "export/**/*",
    "pictures/*",
    "finetune/*/metrics.jsonl",
    "finetune/*/validation/*",
    "finetune/*/checkpoints/*/*",
    "finetune/*/export/**/*",
    "eval/pictures/**/*",
    "eval/*.json",
)
PAGES = re.compile(r"(\.html|README\.md|\.lock|/images/[^/]+)$")
WEIGHTS = "student.safetensors"


def results(run: Path, parts: Iterable[str] = RESULTS) -> dict[str, str]:
    """A digest of every result file, by its name below the run's folder."""
    found = {
        path
        for pattern in parts
        for path in run.glob(pattern)
        if path.is_file() and not PAGES.search(str(path))
    }
    names = {path.relative_to(run).as_posix(): path for path in found}
    last: dict[str, str] = {}  # by training
    for name in sorted(names):
        training, _, file = name.partition("/checkpoints/")
        step = file.partition("/")[0]
        if step.startswith("step_") and _number(step) >= _number(last.get(training, "")):
            last[training] = step
    ends = {f"{training}/checkpoints/{step}/{WEIGHTS}" for training, step in last.items()}
    kept = {
        name: path for name, path in names.items() if "/checkpoints/" not in name or name in ends
    }
    hidden = {name for name in kept if any(part.startswith(".") for part in Path(name).parts)}
    return {name: _digest(path) for name, path in sorted(kept.items()) if name not in hidden}


def _number(name: str) -> int:
    digits = re.findall(r"\d+", name)
    return int(digits[-1]) if digits else 0


def _digest(path: Path) -> str:
    content = path.read_bytes()
    try:
        if path.suffix == ".json":
            content = json.dumps(_steady(json.loads(content)), sort_keys=True).encode()
        elif path.name == "metrics.jsonl":
            content = json.dumps(
                [_steady(json.loads(line)) for line in content.splitlines()], sort_keys=True
            ).encode()
    except ValueError:
        pass  # damaged: then its bytes
    return hashlib.sha256(content).hexdigest()


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _steady(one)
            for name, one in value.items()
            if name not in VOLATILE
            and not name.startswith("speed/")
            and not name.endswith("manifest_sha256")
        }
    return [_steady(one) for one in value] if isinstance(value, list) else value


def difference(found: dict[str, str], expected: dict[str, str], but_for: Iterable[str] = ()) -> str:
    """The first file that is not as in the reference; empty where all are. Files the run has not
    made yet count as different.
    """
    for name, digest in expected.items():
        if name not in but_for and found.get(name) != digest:
            return f"{name} {'differs' if name in found else 'is missing'}"
    return next(
        (f"{name} is new" for name in found if name not in expected and name not in but_for), ""
    )


def made_by(expected: dict[str, str], *parts: str) -> dict[str, str]:
    """Those of the reference's results that the named stages make."""
    return {name: digest for name, digest in expected.items() if name.startswith(parts)}


def whole_checkpoints(run: Path, training: str = "distill") -> list[int]:
    """The steps of the checkpoints whose files all have the digest in their manifest, ascending."""
    return sorted(
        _number(folder.name)
        for folder in (run / training / "checkpoints").glob("step_*")
        if _is_whole(folder)
    )


def _is_whole(folder: Path) -> bool:
    if not re.fullmatch(r"step_\d+", folder.name):
        return False
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        files = manifest.get("files", manifest)
        return bool(files) and all(
            hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
            for name, digest in files.items()
        )
    except (OSError, ValueError, AttributeError):
        return False
