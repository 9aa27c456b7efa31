"""The tiny world that is attacked: a miniature SDXL of random weights, 400 pairs, 16 steps; and a
run of it in several states.

Every path in its recipe is relative to the case's folder, so that a copied state continues in the
case's folder. A state is made when it is first needed:
  prepared  pairs and initial student
  half      training killed after the checkpoint of step 8
  trained   training finished, nothing exported
  finished  every stage
  pair      as trained, by two processes
  long, long_pair   trainings of LONG_STEPS steps, to be stopped midway
  pictured  as trained, with latents of pictures
  tuned     as pictured, with the stage of finetuning finished
  tuned_half  the same, killed after a checkpoint halfway
  refined   as tuned, and exported
  other     trained and exported with other texts, another teacher and another seed: valid files
  with other content
"""

import shutil
import threading
from pathlib import Path

import yaml

from tests.faults.client import Ended, Slot

STEPS, SAVE_EVERY, PAIRS = 16, 4, 400
LONG_STEPS = 160
LONG = (f"distill.steps={LONG_STEPS}", "distill.save_every_steps=20")
TRAIN, EXPORT = "distill.train", "distill.export"
TUNED_STEPS, TUNED = 8, "finetune/both"
FINETUNE = ("finetune.pictures", "finetune.train", "finetune.export")
# The folder of a command's checkpoints, and the section of its pace.
CHECKPOINTS = {FINETUNE[1]: TUNED}
PACE = {FINETUNE[1]: "finetune.stages.both"}
MAKE = ("corpora.prepare", "vocab_init")
AFTER_EXPORT = ("eval.compare_hidden_states", "eval.generate", "distill.model_card", "eval.summary")
RECIPE = {
    "name": "faults",
    "run": "run",
    "corpora": {
        "sources": [{"kind": "tsv", "name": "texts", "path": "texts.tsv", "licence": "Apache-2.0"}],
        "held_out_pairs": 40,
        "language_id": {"model": "toyworld:language_id.ftz"},
        "near_duplicates": None,
        "shard_rows": 100,
    },
    "vocab_init": {
        "tokenizer": "toyworld:spiece.model",
        "sentence_encoder": "toyworld:sentence_encoder",
    },
    "distill": {
        "base": "teacher/base",
        "refiner": "teacher/refiner",
        "objective": {"cross_attention": 1.0, "random_attention": 0.5, "position": 0.1},
        "steps": STEPS,
        "warmup_steps": 2,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "precision": "fp32",
        "english_share": 0.1,
        "query_bank": {
            "prompts": 4,
            "inference_steps": 4,
            "queries_per_layer": 64,
            "queries_per_step": 16,
        },
        "random_attention": {
            "layers": 2,
            "heads": 2,
            "head_width": 4,
            "queries_per_step": 8,
            "layers_per_step": 2,
        },
        "log_every_steps": 1,
        "save_every_steps": SAVE_EVERY,
        "keep_checkpoints": 2,
    },
    "pictures": {
        "resolution": 32,
        "buckets": None,
        "held_out": 2,
        "sources": [{"kind": "toyworld", "scenes": 12}],
    },
    "finetune": {
        "anchor": 0.1,
        "validation": {"every": 4, "prompts": ["赤い丸"], "seeds": 1, "sampling_steps": 2},
        "stages": {
            "both": {
                "trains": ["text", "unet"],
                "steps": TUNED_STEPS,
                "warmup_steps": 1,
                "batch_size": 4,
                "learning_rate": 1e-3,
                "ema_decay": 0.9,
                "precision": "fp32",
                "log_every_steps": 1,
                "eval_every_steps": 4,
                "save_every_steps": 2,
            }
        },
    },
    "eval": {
        "pairs": 16,
        "timesteps": 2,
        "gap_pairs": 4,
        "prompts": 6,
        "inference_steps": 4,
        "batch_size": 4,
    },
}


class World:
    """Makes states below `folder`, each once, and copies them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.RLock()

    def state(self, name: str, slot: Slot) -> Path:
        """The folder of a state, to be read only."""
        with self._lock:
            target = self.folder / name
            if not target.exists():
                work = self.folder / f".{name}"
                shutil.rmtree(work, ignore_errors=True)
                getattr(self, f"_{name}")(work, slot)
                work.rename(target)
            return target

    def copy(self, name: str, target: Path, slot: Slot) -> None:
        """A state in a case's folder, times of change included: fingerprints of evaluation hold
        them.
        """
        shutil.copytree(
            self.state(name, slot),
            target,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("log_*"),
        )

    def copy_without(self, name: str, target: Path, slot: Slot, missing: list[str]) -> None:
        """A copy of a state in which some folders of the run are not made yet."""
        self.copy(name, target, slot)
        for part in missing:
            shutil.rmtree(target / "run" / part)

    def seconds(self, name: str, entry: str, slot: Slot, missing: list[str]) -> float:
        """How long `entry` takes from state `name`, undisturbed."""
        self.operations(name, entry, slot, missing)
        return float((self.folder / f"operations_{name}_{entry}" / "seconds").read_text())

    def operations(self, name: str, entry: str, slot: Slot, missing: list[str]) -> list[str]:
        """The file operations of an undisturbed run of `entry` from state `name`."""
        with self._lock:
            folder = self.folder / f"operations_{name}_{entry}"
            if not folder.exists():
                work = folder.with_name(f".{folder.name}")
                shutil.rmtree(work, ignore_errors=True)
                self.copy_without(name, work, slot, missing)
                ended = _well(slot.run(entry, work, hook={}))
                (work / "seconds").write_text(str(ended.seconds))
                work.rename(folder)
            return slot.operations(folder)

    def clean(self, name: str, entries: tuple[str, ...], slot: Slot) -> Path:
        """A folder with the logs of `entries` from a state, nothing damaged."""
        with self._lock:
            folder = self.folder / f"clean_{name}"
            if not folder.exists():
                work = folder.with_name(f".{folder.name}")
                shutil.rmtree(work, ignore_errors=True)
                self.copy(name, work, slot)
                for entry in entries:
                    _well(
                        slot.call(entry, work, [self.exported(name)])
                        if entry == "distill.verify"
                        else slot.run(entry, work)
                    )
                work.rename(folder)
            return folder

    @staticmethod
    def exported(state: str) -> str:
        """The exported pipeline of a state, for distill.verify."""
        return f"run/{TUNED}/export" if state == "refined" else "run/export/base"

    def _prepared(self, folder: Path, slot: Slot, seed: int = 0) -> None:
        folder.mkdir(parents=True)
        (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
        _well(slot.call("tests.faults.world_files", folder, [str(seed), str(PAIRS)]))
        for entry in MAKE:
            _well(slot.run(entry, folder))

    def _half(self, folder: Path, slot: Slot) -> None:
        self.copy("prepared", folder, slot)
        slot.run(
            TRAIN,
            folder,
            kill_when=str(
                folder / "run" / "distill" / "checkpoints" / f"step_{2 * SAVE_EVERY:06d}"
            ),
        )

    def _trained(self, folder: Path, slot: Slot) -> None:
        self.copy("prepared", folder, slot)
        _well(slot.run(TRAIN, folder))

    def _finished(self, folder: Path, slot: Slot) -> None:
        self.copy("trained", folder, slot)
        for entry in (EXPORT, *AFTER_EXPORT):
            _well(slot.run(entry, folder))

    def _pair(self, folder: Path, slot: Slot) -> None:
        self.copy("prepared", folder, slot)
        _well(slot.run(TRAIN, folder, processes=2))

    def _pictured(self, folder: Path, slot: Slot) -> None:
        self.copy("trained", folder, slot)
        _well(slot.run(FINETUNE[0], folder))

    def _tuned(self, folder: Path, slot: Slot) -> None:
        self.copy("pictured", folder, slot)
        _well(slot.run(FINETUNE[1], folder))

    def _tuned_half(self, folder: Path, slot: Slot) -> None:
        self.copy("pictured", folder, slot)
        when = folder / "run" / TUNED / "checkpoints" / f"step_{TUNED_STEPS // 2:06d}"
        slot.run(FINETUNE[1], folder, kill_when=str(when))

    def _refined(self, folder: Path, slot: Slot) -> None:
        self.copy("tuned", folder, slot)
        _well(slot.run(FINETUNE[2], folder))

    def _long(self, folder: Path, slot: Slot) -> None:
        self.copy("prepared", folder, slot)
        _well(slot.run(TRAIN, folder, *LONG))

    def _long_pair(self, folder: Path, slot: Slot) -> None:
        self.copy("prepared", folder, slot)
        _well(slot.run(TRAIN, folder, *LONG, processes=2))

    def _other(self, folder: Path, slot: Slot) -> None:
        self._prepared(folder, slot, seed=1)
        for entry in (TRAIN, EXPORT, *FINETUNE):
            _well(slot.run(entry, folder, "distill.seed=1", "finetune.stages.both.seed=1"))


def _well(ended: Ended) -> Ended:
    if ended.code:
        raise RuntimeError(f"an undisturbed run ended with {ended.code}: {ended.text[-2000:]}")
    return ended
