"""An export of random, seeded students in the shape of somebody's SDXL or SD."""

from pathlib import Path

from conftest import write_checkpoint

from configs.references import TOYWORLD_MODELS
from distill.encoders.family import SDXL, Family
from distill.export.__main__ import main
from distill.tokenizer import portable

ROOT = Path(__file__).resolve().parents[1]


def prepare(run: Path, base: Path, family: Family = SDXL) -> None:
    """What the stages before the export leave, with toyworld's Japanese vocabulary."""
    spiece = TOYWORLD_MODELS / "spiece.model"
    vocabulary = portable.build(spiece, run / "initial_student" / "tokenizer")
    write_checkpoint(run, base, len(vocabulary), step=500, family=family)


def export(run: Path, base: Path, refiner: Path | None, *arguments: str) -> int:
    settings = [f"run={run}", f"distill.base={base}", f"distill.refiner={refiner or 'null'}"]
    return main([str(ROOT / "configs" / "toyworld.yaml"), *settings, *arguments])


def toyworld_base(run: Path) -> Path:
    """The exported base of a random student in toyworld's shape."""
    prepare(run, TOYWORLD_MODELS / "base")
    assert export(run, TOYWORLD_MODELS / "base", None) == 0
    return run / "export" / "base"
