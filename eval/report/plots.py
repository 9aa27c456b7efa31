"""The report's plots: matplotlib figures as PNG bytes, with no Japanese in them (its default font
has no such glyphs).

In:  the results of the two evaluations, and the rows of `<run>/distill/metrics.jsonl`.
Out: PNG bytes in memory.
"""

import io
import textwrap
from typing import TYPE_CHECKING, Any

from eval.rows import (
    STUDENT_ENGLISH,
    STUDENT_MIXED,
    STUDENT_SEGMENTED,
    TEACHER,
    colour,
    label,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REGIONS = ("content", "eos", "pads", "pooled")
# The rows about other prompts than the student's own would crowd the plots of states and timesteps;
# the tables have them.
ASIDE = (TEACHER, STUDENT_ENGLISH, STUDENT_MIXED, STUDENT_SEGMENTED)


def errors_by_region(result: dict[str, Any], language: str) -> bytes:
    """nMSE of the main rows by encoder and region, logarithmic.

    The teacher is left out: its error is 0, which has no logarithm.
    """
    rows = {name: row["states"] for name, row in result["rows"].items() if name not in ASIDE}
    places = [
        (encoder, region)
        for encoder, regions in next(iter(rows.values())).items()
        for region in REGIONS
        if region in regions
    ]
    figure, axes = _figure(9.2, 3.6)
    width = 0.8 / len(rows)
    for i, (name, states) in enumerate(rows.items()):
        heights = [
            states.get(encoder, {}).get(region, {}).get("nmse", 0.0) for encoder, region in places
        ]
        left = [x - 0.4 + (i + 0.5) * width for x in range(len(places))]
        axes.bar(left, heights, width * 0.92, color=colour(name), label=label(name, language))
    axes.set_yscale("log")
    axes.axhline(1.0, color="#444444", linewidth=1, linestyle="--")
    axes.annotate(
        "predicts\nthe mean",
        (1.0, 1.0),
        (4, 0),
        ("axes fraction", "data"),
        "offset points",
        va="center",
        fontsize=8,
        color="#444444",
    )
    axes.set_xticks(
        range(len(places)),
        [region if encoder == region else f"{encoder}\n{region}" for encoder, region in places],
    )
    axes.set_ylabel("nMSE (lower is better)")
    axes.legend(
        frameon=False,
        fontsize=8,
        ncols=min(4, len(rows)),
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
    )
    return _png(figure)


def noise_gaps(result: dict[str, Any], language: str) -> bytes:
    """One horizontal bar a row with its interval, logarithmic; a gap of 0 is written, not drawn."""
    gaps = {name: row["noise_gap"] for name, row in result["rows"].items()}
    positive = [gap["value"] for gap in gaps.values() if gap["value"] > 0]
    smallest = min(positive, default=0.1) / 4
    figure, axes = _figure(9.2, 0.5 + 0.42 * len(gaps))
    for y, (name, gap) in enumerate(reversed(gaps.items())):
        value, high = gap["value"], max(gap["high"], smallest)
        axes.barh(
            y,
            max(value, smallest),
            color=colour(name) if value > 0 else "none",
            height=0.62,
        )
        if value > 0:
            axes.plot(
                [max(gap["low"], smallest), high],
                [y, y],
                color="#222222",
                linewidth=1.4,
                solid_capstyle="butt",
            )
        text = f"{value:.4f}   ({gap['low']:.4f} to {gap['high']:.4f})" if value > 0 else "0"
        box = {
            "facecolor": "white",
            "edgecolor": "none",
            "pad": 1.0,
        }  # the line at 1 must not cross it
        axes.annotate(
            text,
            (max(value, high, smallest), y),
            (6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            bbox=box,
        )
    axes.set_xscale("log")
    axes.set_xlim(smallest, max([1.0, *positive]) * 40)
    axes.axvline(1.0, color="#444444", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(gaps)), [label(name, language) for name in reversed(gaps)])
    axes.set_xlabel(
        "noise-prediction gap, 95 % interval (lower is better; 1 = as far off as an empty prompt)"
    )
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.7)
    axes.grid(axis="y", visible=False)
    return _png(figure)


def gaps_by_timestep(result: dict[str, Any], language: str) -> bytes:
    """The main rows' gap over the noise levels of the base UNet, logarithmic, each with the band of
    its interval; from noise to picture.
    """
    figure, axes = _figure(9.2, 3.2)
    for name, row in result["rows"].items():
        found = {int(t): value for t, value in row["noise_gap"]["by_timestep"].items() if value}
        if name not in ASIDE and found:
            bands = [row["noise_gap"]["intervals_by_timestep"][str(t)] for t in found]
            shade = colour(name)
            axes.fill_between(
                list(found),
                [max(low, 1e-6) for low, _ in bands],
                [high for _, high in bands],
                color=shade,
                alpha=0.15,
                linewidth=0,
            )
            axes.plot(
                list(found),
                list(found.values()),
                color=shade,
                marker="o",
                markersize=4,
                label=label(name, language),
            )
    axes.set_yscale("log")
    axes.invert_xaxis()
    axes.set_xlabel("timestep (left: pure noise, right: the finished picture)")
    axes.set_ylabel("noise-prediction gap")
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return _png(figure)


def training_loss(history: list[dict[str, Any]]) -> bytes | None:
    """Every `loss/...` of the training log over the steps, and dashed the same terms of held-out
    pairs (`val/...`), the totals in bold; None without two logged steps.
    """
    curves = {
        key: points
        for prefix in ("loss/", "val/")
        for key, points in _curves(history, prefix).items()
    }
    if not curves:
        return None
    figure, axes = _figure(9.2, 3.4)
    colours: dict[str, Any] = {"total": "#222222"}
    for key, points in curves.items():
        prefix, _, term = key.partition("/")
        held_out, total = prefix == "val", term == "total"
        (line,) = axes.plot(
            *zip(*points, strict=True),
            label=f"{term}, held-out" if held_out else term,
            color=colours.get(term),
            linewidth=2.0 if total else 1.0,
            linestyle="--" if held_out else "-",
            marker="o" if held_out else None,
            markersize=3,
            zorder=3 if total else 2,
        )
        colours[term] = line.get_color()
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return _png(figure)


def training_measures(history: list[dict[str, Any]]) -> bytes | None:
    """The gradient norm, the update ratios and the speed over the steps, side by side; None without
    two logged steps of any.
    """
    panels = {
        "gradient norm": _curves(history, "optimizer/gradient_norm"),
        "update / weight norm": _curves(history, "optimizer/update_ratio_"),
        "tokens/s, no padding": _curves(history, "speed/tokens_per_second"),
        "model FLOP utilisation": _curves(history, "speed/mfu"),
    }
    panels = {name: curves for name, curves in panels.items() if curves}
    if not panels:
        return None
    figure, all_axes = _figures(9.2, 2.4, len(panels))
    for axes, (name, curves) in zip(all_axes, panels.items(), strict=True):
        for key, points in curves.items():
            label = key.partition("update_ratio_")[2]
            axes.plot(*zip(*points, strict=True), linewidth=1.0, label=label or None)
        if len(curves) > 1:
            axes.legend(frameon=False, fontsize=8)
        if name in ("gradient norm", "update / weight norm"):
            axes.set_yscale("log")
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("step")
    return _png(figure)


def runs_side_by_side(names: list[str], panels: dict[str, list[list[float]]]) -> bytes:
    """A line a run, top down, in panels side by side: a dot a seed, a stroke through their mean.

    `panels`: by title, of every name its seeds' values.
    """
    wrapped = [textwrap.fill(name, 40) for name in names]
    figure, all_axes = _figures(9.2, 0.8 + 0.45 * len(names), len(panels))
    for axes, (title, values) in zip(all_axes, panels.items(), strict=True):
        for y, seeds in enumerate(values):
            axes.plot(seeds, [y] * len(seeds), "o", color="#0072B2", alpha=0.6, markersize=4)
            if seeds:
                axes.plot(sum(seeds) / len(seeds), y, "|", color="#222222", markersize=12)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_yticks(range(len(names)), wrapped if axes is all_axes[0] else [""] * len(names))
        axes.tick_params(axis="y", labelsize=7)
        axes.set_title(title, fontsize=9)
        axes.grid(axis="x", color="#e4e4e4", linewidth=0.7)
    return _png(figure)


def _curves(history: list[dict[str, Any]], prefix: str) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every key that begins with `prefix`, the totals first; without keys that
    have fewer than two values above 0.
    """
    keys = {key for row in history for key in row if key.startswith(prefix)}
    curves = {
        key: [
            (row["step"], row[key])
            for row in history
            if isinstance(row.get(key), (int, float)) and row[key] > 0
        ]
        for key in sorted(keys, key=lambda key: (not key.endswith("/total"), key))
    }
    return {key: points for key, points in curves.items() if len(points) > 1}


def _figure(width: float, height: float) -> "tuple[Figure, Axes]":
    figure, (axes,) = _figures(width, height, 1)
    return figure, axes


def _figures(width: float, height: float, columns: int) -> "tuple[Figure, list[Axes]]":
    """An empty figure, in inches, of panels side by side.

    Not through pyplot: nothing global is touched and no window system is asked for.
    """
    from matplotlib.figure import Figure  # half a second that no --help should take

    figure = Figure(figsize=(width, height), layout="constrained")
    all_axes = list(figure.subplots(1, columns, squeeze=False)[0])
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        axes.grid(axis="y", color="#e4e4e4", linewidth=0.7)
    return figure, all_axes


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160)
    return buffer.getvalue()
