"""What a run of finetune.pictures gave, as text tables for the terminal."""

from finetune.pictures.store import SourceCounts, StoreDetails


def tables(details: StoreDetails) -> str:
    """Sources with what they gave and lost, then the buckets with their rows."""
    return "\n".join([*_sources(details), "", *_buckets(details)])


def _sources(details: StoreDetails) -> list[str]:
    lines: list[tuple[str, ...]] = [("source", "", "pictures", "captions", "English")]
    for one in details.sources:
        lines.append(_line(one.label, one))
        lines += [(f"  {reason}", "dropped", f"{n:,}", "", "") for reason, n in one.dropped.items()]
    total = SourceCounts(
        label="",
        licence=None,
        pictures=sum(one.pictures for one in details.sources),
        captions=sum(one.captions for one in details.sources),
        en_captions=sum(one.en_captions for one in details.sources),
        dropped={},
    )
    lines.append(_line("all", total))
    lines.append(("captions over 77 tokens", "cut", "", f"{details.captions_cut_at_77:,}", ""))
    return _aligned(lines)


def _line(label: str, one: SourceCounts) -> tuple[str, ...]:
    return label, "kept", f"{one.pictures:,}", f"{one.captions:,}", f"{one.en_captions:,}"


def _buckets(details: StoreDetails) -> list[str]:
    lines: list[tuple[str, ...]] = [("bucket", "train", "held out")]
    names = sorted(
        details.rows["train"].keys() | details.rows["held_out"].keys(),
        key=lambda name: [int(side) for side in name.split("x")],
    )
    for name in names:
        counts = (details.rows[split].get(name, 0) for split in ("train", "held_out"))
        lines.append((name, *(f"{count:,}" for count in counts)))
    lines.append(("pictures", *(f"{details.pictures[s]:,}" for s in ("train", "held_out"))))
    return _aligned(lines)


def _aligned(lines: list[tuple[str, ...]]) -> list[str]:
    """The first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
