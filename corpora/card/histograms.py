"""What the kept pairs are like, counted while their shards are written.

In:  tables of pairs.
Out: the bars and quantiles that the data card shows: how long the texts are, how unlike in length,
     how sure the language identifier was.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SIDES = ("text", "en")
BINS = 20
# characters a bin
STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
LONGEST = STEPS[-1] * BINS  # longer texts count as this long
QUANTILES = (0.05, 0.5, 0.95, 1.0)
Bars = list[tuple[str, int, float]]


class Histograms:
    """Of all the pairs added, of both splits."""

    def __init__(self) -> None:
        self._lengths = {side: np.zeros(LONGEST + 1, dtype=np.int64) for side in SIDES}
        self._ratios = np.zeros(BINS, dtype=np.int64)
        self._probabilities = {side: np.zeros(BINS, dtype=np.int64) for side in SIDES}

    def add(self, pairs: pa.Table) -> None:
        """Counts the columns `text`, `en` and their language probabilities."""
        for side in SIDES:
            characters = np.minimum(pc.utf8_length(pairs.column(side)).to_numpy(), LONGEST)
            self._lengths[side] += np.bincount(characters, minlength=LONGEST + 1)
            found = pairs.column(f"{side}_language_probability").to_numpy()
            self._probabilities[side] += np.bincount(
                np.minimum((found * BINS).astype(int), BINS - 1), minlength=BINS
            )
        text, en = (
            pc.binary_length(pairs.column(side).cast(pa.binary())).to_numpy() for side in SIDES
        )
        ratio = np.maximum(text, en) / np.maximum(np.minimum(text, en), 1)
        self._ratios += np.bincount(
            np.minimum((2 * (ratio - 1)).astype(int), BINS - 1), minlength=BINS
        )

    @property
    def lengths(self) -> dict[str, Bars]:
        """Of each side, by characters."""
        return {side: _length_bars(counts) for side, counts in self._lengths.items()}

    @property
    def quantiles(self) -> dict[str, dict[float, int]]:
        """Of each side's lengths in characters, by share of the texts."""
        return {
            side: {share: _quantile(counts, share) for share in QUANTILES}
            for side, counts in self._lengths.items()
        }

    @property
    def probabilities(self) -> dict[str, Bars]:
        """Of each side's own language, the surest first."""
        labels = [f"{bin / BINS:.2f} to {(bin + 1) / BINS:.2f}" for bin in range(BINS)]
        return {side: _bars(counts, labels)[::-1] for side, counts in self._probabilities.items()}

    @property
    def ratios(self) -> Bars:
        """Of the longer side over the shorter, in UTF-8 bytes."""
        edges = [1 + bin / 2 for bin in range(BINS)]
        labels = [f"{edge:.1f} to {edge + 0.5:.1f}" for edge in edges[:-1]]
        return _bars(self._ratios, [*labels, f"{edges[-1]:.1f} and more"])


def _length_bars(counts: np.ndarray) -> Bars:
    """Twenty bins, of a width that leaves hardly a text to the last one."""
    usual = _quantile(counts, 0.995)
    step = next((step for step in STEPS if step * (BINS - 1) > usual), STEPS[-1])
    starts = np.arange(BINS) * step
    binned = np.add.reduceat(counts, starts)
    return _bars(
        binned,
        [
            *(
                str(start) if step == 1 else f"{start} to {start + step - 1}"
                for start in starts[:-1]
            ),
            f"{starts[-1]} and more",
        ],
    )


def _bars(counts: np.ndarray, labels: list[str]) -> Bars:
    """Label, rows, and the bar's length as a share of the longest, of the bins up to the last that
    holds a row.
    """
    filled = np.flatnonzero(counts)
    longest = max(1, int(counts.max()))
    return [
        (label, count, count / longest)
        for label, count in zip(
            labels, counts.tolist()[: filled[-1] + 1 if len(filled) else 0], strict=False
        )
    ]


def _quantile(counts: np.ndarray, share: float) -> int:
    """The smallest length that at least this share of the texts does not exceed."""
    return int(np.searchsorted(np.cumsum(counts), share * counts.sum()))
