"""How long each stage of a run took.

In/out: `<run>/stages.jsonl`: one stage and its seconds a line, appended when a stage ends well.
"""

import json
from pathlib import Path

from pydantic import ConfigDict, Field, ValidationError

from configs.errors import DataError, one_line
from configs.records import Record

FILE = "stages.jsonl"


class StageTime(Record):
    model_config = ConfigDict(allow_inf_nan=False)

    stage: str
    seconds: float = Field(ge=0)


def append(run_dir: Path, stage: str, seconds: float) -> None:
    line = StageTime(stage=stage, seconds=round(seconds, 2)).model_dump()
    with open(run_dir / FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read(path: Path) -> dict[str, float]:
    """Seconds by stage in the order they first ran, those of a stage that ran twice added up.

    Raises DataError.
    """
    seconds: dict[str, float] = {}
    for number, line in enumerate(path.read_bytes().rstrip(b"\n").split(b"\n"), start=1):
        try:
            found = StageTime.model_validate_json(line)
        except ValidationError:
            shown = one_line(line.decode("utf-8", "replace"), 80)
            raise DataError(
                f"{path}: line {number} is not a stage and its seconds ({shown!r}); delete that "
                "line"
            ) from None
        seconds[found.stage] = round(seconds.get(found.stage, 0.0) + found.seconds, 2)
    return seconds
