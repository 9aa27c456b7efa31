"""One HTML page that shows a run: pictures, numbers, plots. It holds everything it shows and opens
from anywhere.

In:  `<run>/eval/compare_hidden_states.json`, `<run>/eval/pictures.json` with its pictures,
     `<run>/distill/metrics.jsonl`; what is not there yet is left out, and the page says which
     command makes it.
Out: `<run>/eval/report.html`. The two evaluations render it; there is no command of its own.
"""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from configs import pages
from configs.errors import DataError, first_line
from configs.files import inside
from configs.schema.recipe import Recipe
from distill.encoders.family import Family
from distill.train import metrics_file
from eval import results, rows
from eval.pictures import painted
from eval.report import plots
from eval.states import prompt_forms
from eval.states.pair_numbers import whole_text

THUMBNAIL = 384  # pixels
COMPARE, GENERATE = "python -m eval.compare_hidden_states", "python -m eval.generate"


def render(recipe: Recipe, family: Family) -> Path:
    """Writes the page and returns its path.

    Raises DataError when a result is there but cannot be read.
    """
    folder = recipe.run_dir / "eval"
    comparison = _result(folder / "compare_hidden_states.json", COMPARE)
    pictures = _result(folder / "pictures.json", GENERATE)
    try:
        page = _page(recipe, family, comparison, pictures)
    except (jinja2.UndefinedError, KeyError) as error:
        raise DataError(
            f"{folder}: its results are another version's ({error}); delete them and run: "
            f"{COMPARE} RECIPE, {GENERATE} RECIPE"
        ) from None
    path = folder / "report.html"
    results.write_bytes(path, page.encode())
    return path


def _page(
    recipe: Recipe,
    family: Family,
    comparison: dict[str, Any] | None,
    pictures: dict[str, Any] | None,
) -> str:
    folder, language = recipe.run_dir / "eval", recipe.text_language
    history = training_history(recipe.run_dir / "distill" / "metrics.jsonl")

    def compared(plot: Callable[[dict[str, Any], str], bytes]) -> str | None:
        return _image(plot(comparison, language.name)) if comparison else None

    return _template().render(
        recipe=recipe,
        family=family,
        place=whole_text(family),
        vector="pooled vector" if family.pooled else "state at EOS",
        comparison=comparison,
        pictures=pictures,
        errors_plot=compared(plots.errors_by_region),
        gaps_plot=compared(plots.noise_gaps),
        timesteps_plot=compared(plots.gaps_by_timestep),
        loss_plot=_image(plots.training_loss(history)),
        measures_plot=_image(plots.training_measures(history)),
        picture_of=lambda path: _image(thumbnail(inside(folder, path))),
        rows=rows,
        titles=prompt_forms.TITLES,
        language=language,
        commands={"compare": COMPARE, "generate": GENERATE},
    )


def training_history(path: Path) -> list[dict[str, Any]]:
    """The logged steps, in order; of a step logged twice (a run that was resumed) the later row
    counts. [] without a log.
    """
    rows: dict[int, dict[str, Any]] = {}
    for row in metrics_file.read(path):
        rows[row["step"]] = rows.get(row["step"], {}) | row
    return [rows[step] for step in sorted(rows)]


def thumbnail(path: Path) -> bytes:
    """The picture as PNG, at most `THUMBNAIL` pixels wide: two dozen full SDXL pictures would make
    a page of 40 MB.

    Raises DataError for one that is missing or damaged.
    """
    painted.check(path)
    try:
        return _small(path)
    except (
        OSError,
        SyntaxError,
        ValueError,
    ) as error:  # Pillow raises SyntaxError for a damaged PNG
        raise DataError(
            f"{path}: no picture ({first_line(error)}); run: {GENERATE} RECIPE"
        ) from None


def _small(path: Path) -> bytes:
    with Image.open(path) as picture:
        picture.load()
        if picture.width <= THUMBNAIL:
            return path.read_bytes()
        small, buffer = (
            picture.resize(
                (THUMBNAIL, round(picture.height * THUMBNAIL / picture.width)),
                Image.Resampling.LANCZOS,
            ),
            io.BytesIO(),
        )
    small.save(buffer, format="PNG")
    return buffer.getvalue()


def _result(path: Path, command: str) -> dict[str, Any] | None:
    return results.read(path, f"{command} RECIPE") if path.exists() else None


def _image(png: bytes | None) -> str | None:
    """A PNG as a `data:` address, so that the page needs no other file."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}" if png else None


def _template() -> jinja2.Template:
    environment = pages.environment(Path(__file__).parent)
    environment.filters["percent"] = lambda value: f"{100 * value:.1f} %"
    return environment.get_template("report.html.jinja")
