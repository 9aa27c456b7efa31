"""The rates of corpora.audit: estimates for all rows from the judged ones.

In:  a filled sheet, and how many rows each reason dropped.
Out: the share of good pairs among the rows of each reason, and of bad pairs among the kept rows,
     with 95 % intervals; the share of all good pairs that is lost.
"""

from collections import Counter
from dataclasses import dataclass

from scipy.stats import binomtest

from corpora.audit.audit_sheet import KEPT, Line
from corpora.yields import Yield

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Rate:
    """`judged` of `rows` rows were judged, and `found` of them are wrong: good ones dropped, or bad
    ones kept.
    """

    name: str
    rows: int
    judged: int
    found: int

    @property
    def share(self) -> float:
        return self.found / self.judged if self.judged else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval; exact if all rows were judged."""
        if not self.judged:
            return 0.0, 1.0
        if self.judged == self.rows:
            return self.share, self.share
        result = binomtest(self.found, self.judged).proportion_ci(CONFIDENCE, method="wilson")
        return float(result.low), float(result.high)


def rates(lines: list[Line], yields: list[Yield]) -> list[Rate]:
    """One per reason, most rows first; the kept rows last."""
    rows = sum((one.dropped for one in yields), Counter[tuple[str, str]]())
    rows[KEPT, KEPT] = sum(one.kept for one in yields)
    judged = Counter((line.stage, line.reason) for line in lines if line.judgement)
    wrong = {True: "bad", False: "good"}
    found = Counter(
        (line.stage, line.reason) for line in lines if line.judgement == wrong[line.stage == KEPT]
    )
    ordered = sorted(rows, key=lambda group: (group == (KEPT, KEPT), -rows[group]))
    return [
        Rate(
            KEPT if group == (KEPT, KEPT) else f"{group[0]}: {group[1]}",
            rows[group],
            judged[group],
            found[group],
        )
        for group in ordered
        if rows[group]
    ]


def table(found: list[Rate]) -> str:
    """The rates as text, and how many good pairs are lost in all."""
    lines = [
        f"{'dropped rows that are good pairs':<44} {'rows':>12} {'judged':>7} {'good':>6} "
        f"{'rate':>8}  95 % interval"
    ]
    *dropped, kept = found
    lines += [_line(one) for one in dropped]
    lines += [
        "",
        f"{'kept rows that are bad pairs':<44} {'rows':>12} {'judged':>7} {'bad':>6} {'rate':>8}  "
        "95 % interval",
        _line(kept),
    ]
    judged_rates = [one for one in dropped if one.judged]
    low, middle, high = (
        sum(one.rows * share(one) for one in judged_rates)
        for share in (lambda x: x.interval[0], lambda x: x.share, lambda x: x.interval[1])
    )
    good = kept.rows * (1 - kept.share if kept.judged else 1)
    total = good + middle
    if judged_rates and total:
        unjudged = sum(one.rows for one in dropped if not one.judged)
        lines += [
            "",
            f"good pairs lost: {middle:,.0f} ({low:,.0f} to {high:,.0f}), {middle / total:.2%} of "
            "all good ones"
            f" ({low / (good + low):.2%} to {high / (good + high):.2%}); {unjudged:,} dropped rows "
            "are of reasons not judged",
        ]
    return "\n".join(lines)


def _line(one: Rate) -> str:
    low, high = one.interval
    shown = f"{one.share:>8.2%}  {low:.2%} to {high:.2%}" if one.judged else f"{'-':>8}  not judged"
    return f"{one.name:<44} {one.rows:>12,} {one.judged:>7} {one.found:>6} {shown}"
