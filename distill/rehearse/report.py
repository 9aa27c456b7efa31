"""What a rehearsal found, for the terminal, as JSON and as a page.

Out: `<run>/rehearsal/report.json`, `report.html`.
"""

import json
from pathlib import Path
from typing import Any

from configs import pages
from configs.files import whole
from configs.schema.recipe import Recipe
from distill.plan import estimate
from distill.plan.estimate import Counted, in_bytes, in_time

TEMPLATE = "report.html.jinja"


def summary(recipe: Recipe, counted: Counted, stages: list[dict[str, Any]]) -> dict[str, Any]:
    """`stages` as they were recorded, and what the whole run will take. The training's memory is
    that of the resumed one, which measures nothing before its first step.
    """
    settings = counted.recipe.distill
    resumed = next(one for one in stages if one["name"] == "resume")
    trained = next(one for one in stages if one["name"] == "train")
    seconds = settings.steps * settings.batch_size / trained["pairs_per_second"]
    return {
        "recipe": recipe.name,
        "processes": counted.gpus,
        "stages": stages,
        "training": {
            "steps": settings.steps,
            "batch_size": settings.batch_size,
            "pairs_per_second": trained["pairs_per_second"],
            "hours": seconds / 3600,
            "gpu_hours": seconds / 3600 * counted.gpus,
            "planned_bytes": estimate.memory(counted).total
            if resumed["gpu_peak_bytes"]
            else estimate.bytes_on_a_cpu(counted),
            "peak_bytes": resumed["gpu_peak_bytes"] or _own(resumed),
            "process_bytes": resumed["process_bytes"],
            "disk_bytes": estimate.disk(counted).total,
        },
    }


def _own(stage: dict[str, Any]) -> int | None:
    """The peak without Python and its libraries, which a plan does not count."""
    peak: int | None = stage["peak_bytes"]
    return peak if peak is None else peak - int(stage["process_bytes"])


def lines(found: dict[str, Any]) -> list[str]:
    """The table for a terminal."""
    training = found["training"]
    rows = [f"{'stage':<16}{'':<6}{'seconds':>9}{'memory':>10}{'GPU':>10}{'pairs/s':>9}"]
    for one in found["stages"]:
        speed = one["pairs_per_second"]
        rows.append(
            f"{one['name']:<16}{'ok':<6}{one['seconds']:>9.1f}{_size(one['peak_bytes']):>10}"
            f"{_size(one['gpu_peak_bytes']):>10}{'-' if speed is None else f'{speed:.3g}':>9}"
        )
    return [
        *rows,
        f"memory of a training process: {_size(training['peak_bytes'])}, planned "
        f"{in_bytes(training['planned_bytes'])}; Python and its libraries, "
        f"{_size(training['process_bytes'])}, are not counted",
        f"the whole training: {training['steps']:,} steps of {training['batch_size']:,} pairs, "
        f"{in_time(3600 * training['hours'])} at this rate, {training['gpu_hours']:,.3g} "
        f"GPU-hours; {in_bytes(training['disk_bytes'])} of disk",
    ]


def write(folder: Path, found: dict[str, Any]) -> None:
    environment = pages.environment(Path(__file__).parent)
    page = environment.get_template(TEMPLATE).render(
        found=found, size=_size, in_bytes=in_bytes, in_time=in_time
    )
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    for name, content in (("report.json", text), ("report.html", page)):
        with whole(folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8")


def _size(count: int | None) -> str:
    return "-" if count is None else in_bytes(count)
