"""Makes emojiworld's vocabulary: the names and the pictures of about a thousand emoji.

    python -m corpora.miniature.make_emoji --font NotoColorEmoji.ttf --cldr common

In:  the font Noto Color Emoji 2.042 (Debian: fonts-noto-color-emoji), and the folder `common` of
     Unicode's CLDR 41 (Debian: unicode-cldr-core) with the names of every emoji; the choices in
     `emoji/` beside this file: what is left out, other names and synonyms, counters.
Out: `concepts.tsv` and `pictures.png` in corpora/emojiworld/data. The world itself needs neither
     the font nor CLDR. Of two emoji whose drawings are nearer than `MIN_DISTANCE` one is left out.
"""

import argparse
import hashlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from configs.files import whole
from corpora.emojiworld.concepts import COLUMNS, DATA
from corpora.emojiworld.templates import COLUMNS as TILES_IN_A_ROW
from corpora.emojiworld.templates import SIZES
from corpora.miniature.english_forms import plural, with_article

CHOICES = Path(__file__).resolve().parent / "emoji"
STRIKE, CANVAS = 109, (136, 128)  # pixels: the only size the font has, and one drawing of it
SIDE = SIZES["big"]
# RMS of the difference on black and on white, 0 to 1, at the nearest shift of a pixel.
MIN_DISTANCE = 0.14
LONGEST = {"en": 30, "ja": 14}  # characters
UNPAIRED, UNPAIRED_EVERY = 60, 15
# Japanese things, kept from the teacher.
JAPANESE_THINGS = "🍙🍘🍡🍢🍣🍱🍜🍶🍵🍥🍧🍠🍤🍛🎌🎋🎍🎎🎏🎐🎑🎴🏮🏯⛩🗾🗻🗼👘👹👺💮🔰♨🚄🚅🥷🎊💴🏣"
# Kinds of emoji (CLDR's second label) that are no things: skin colors, clock faces, letters...
NO_THINGS = {"skin-tone", "time", "alphanum", "geometric", "flag"}
THINGS_ALL_THE_SAME = "⌚⏰⏱⏲⏳🕰🎌🏁🚩"

Names = dict[str, str]  # of an emoji


def make(font: Path, cldr: Path, out: Path) -> None:
    """Writes both files, each whole or not at all."""
    names = {language: _cldr_names(cldr, language) for language in ("en", "ja", "ko")}
    labels = _labels(cldr)
    left_out = set("".join(line.rpartition(":")[2] for line in _lines("left_out.txt")))
    emoji = [
        one
        for one in map(chr, sorted(TTFont(font).getBestCmap()))
        if one not in left_out
        and all(one in names[language] for language in names)
        and (labels.get(one) not in NO_THINGS or one in THINGS_ALL_THE_SAME)
    ]
    drawings = {one: _draw(one, font) for one in tqdm(emoji, desc="drawings", unit="emoji")}
    english, japanese = _chosen_names(emoji, names)
    short = [
        one
        for one in emoji
        if len(english[one][0]) <= LONGEST["en"] and len(japanese[one][0]) <= LONGEST["ja"]
    ]
    print(f"{len(emoji)} things, {len(short)} with names that are short enough")
    short.sort(key=lambda one: (one not in JAPANESE_THINGS, len(japanese[one][0]), one))
    told_apart = _far_apart({one: drawings[one] for one in short})
    print(f"{len(told_apart)} of them have drawings that can be told apart")
    _check_names(told_apart, english)
    _check_names(told_apart, japanese)
    counters = _counters(labels)
    order = sorted(told_apart, key=lambda one: hashlib.sha256(one.encode()).digest())
    kept = [one for one in order if one not in JAPANESE_THINGS]
    kept += [one for one in order if one in JAPANESE_THINGS]
    unpaired = _unpaired(kept, japanese)
    lines = ["\t".join(COLUMNS)]
    for one in kept:
        group = "pictures" if one in JAPANESE_THINGS else "shown"
        fields = [
            one,
            "unpaired" if one in unpaired else group,
            "つ" if japanese[one][0].endswith("顔") else counters.get(one, "つ"),
            plural(english[one][0]),
            ";".join(map(with_article, english[one])),
            ";".join(japanese[one]),
            names["ko"][one],
        ]
        lines.append("\t".join(fields))
    with whole(out / "concepts.tsv") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with whole(out / "pictures.png") as temporary:
        temporary.write_bytes(_sheet([drawings[one] for one in kept]))
    print(f"{out}: {len(kept)} concepts, {len(unpaired)} of them unpaired")


def _cldr_names(cldr: Path, language: str) -> Names:
    tree = ElementTree.parse(cldr / "annotations" / f"{language}.xml")
    return {
        str(one.get("cp")): re.sub(r"\s+", " ", str(one.text)).strip().replace("\u2019", "'")
        for one in tree.iter("annotation")
        if one.get("type") == "tts"
    }


def _labels(cldr: Path) -> Names:
    """The second label of every emoji; those newer than the labels have none."""
    found: Names = {}
    for line in (cldr / "properties" / "labels.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("#") or ";" not in line:
            continue
        characters, _, *label = (field.strip() for field in line.split(";"))
        for one in _expanded(re.sub(r"\{[^}]*\}", "", characters).strip("[]")):
            if label:
                found.setdefault(one, label[0])
    return found


def _expanded(characters: str) -> Iterator[str]:
    """`ad-f` to a, d, e, f."""
    for found in re.finditer(r"(.)-(.)|(.)", re.sub(r"[\ufe0f ]", "", characters)):
        if found[3]:
            yield found[3]
        else:
            yield from map(chr, range(ord(found[1]), ord(found[2]) + 1))


def _lines(name: str) -> list[str]:
    lines = (CHOICES / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _chosen_names(
    emoji: list[str], names: dict[str, Names]
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """English and Japanese: the usual name first, then synonyms."""
    english = {one: [names["en"][one]] for one in emoji}
    japanese = {one: [names["ja"][one].replace(" ", "")] for one in emoji}
    for one in emoji:  # "fox" is キツネの顔: the Japanese tells more than the English
        if "face" not in english[one][0]:
            japanese[one][0] = japanese[one][0].removesuffix("の顔")
    for line in _lines("names.tsv"):
        one, *fields = line.split("\t")
        if one in english:
            for chosen, name, synonyms in zip(
                (english, japanese), fields[:2], fields[2:], strict=True
            ):
                chosen[one] = [
                    name or chosen[one][0],
                    *(more for more in synonyms.split(";") if more),
                ]
    return english, japanese


def _check_names(emoji: list[str], names: dict[str, list[str]]) -> None:
    seen: dict[str, str] = {}
    for one in emoji:
        for name in names[one]:
            assert name.lower() not in seen, f"{name}: both {one} and {seen[name.lower()]}"
            assert not re.search(r"[;\t（）()]", name), name
            seen[name.lower()] = one


def _counters(labels: Names) -> Names:
    found: Names = {}
    for line in _lines("counters.txt"):
        counter, _, members = line.partition(":")
        words = members.split()
        kinds = {word for word in words if word.isascii()}
        found |= {one: counter for one, kind in labels.items() if kind in kinds}
        found |= dict.fromkeys("".join(word for word in words if not word.isascii()), counter)
    return found


def _draw(emoji: str, path: Path) -> np.ndarray:
    """(28, 28, 4) uint8, red, green, blue and opacity: the drawing cut to its own square."""
    font = ImageFont.truetype(str(path), STRIKE)
    canvas = Image.new("RGBA", CANVAS)
    ImageDraw.Draw(canvas).text((0, 0), emoji, font=font, embedded_color=True)
    cut = canvas.crop(canvas.getbbox())
    square = Image.new("RGBA", (max(cut.size), max(cut.size)))
    square.paste(cut, ((square.width - cut.width) // 2, (square.height - cut.height) // 2))
    # Pillow multiplies by the opacity before it takes means.
    return np.asarray(square.resize((SIDE, SIDE), Image.Resampling.BOX))


def _far_apart(drawings: dict[str, np.ndarray]) -> list[str]:
    """Those that are at least MIN_DISTANCE from all before them."""
    on_both = np.stack([_on_black_and_white(one) for one in drawings.values()])
    flat_ND = on_both.reshape(len(on_both), -1)
    nearest_NN = np.full((len(on_both), len(on_both)), np.inf, np.float32)
    shifts = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    for dy, dx in tqdm(shifts, desc="distances", unit="shift"):
        shifted_ND = _shifted(on_both, dy, dx).reshape(flat_ND.shape)
        squares = np.square(flat_ND).sum(1)[:, None] + np.square(shifted_ND).sum(1)
        nearest_NN = np.minimum(nearest_NN, squares - 2 * flat_ND @ shifted_ND.T)
    distances_NN = np.sqrt((nearest_NN / flat_ND.shape[1]).clip(0))
    kept: list[int] = []
    for number in range(len(on_both)):
        if not kept or distances_NN[kept, number].min() >= MIN_DISTANCE:
            kept.append(number)
    emoji = list(drawings)
    return [emoji[number] for number in kept]


def _on_black_and_white(drawing: np.ndarray) -> np.ndarray:
    """(2, 28, 28, 3) float32."""
    pixels = drawing.astype(np.float32) / 255
    color, opacity = pixels[..., :3], pixels[..., 3:]
    return np.stack([color * opacity + (1 - opacity) * shade for shade in (0, 1)])


def _shifted(on_both: np.ndarray, dy: int, dx: int) -> np.ndarray:
    """(N, 2, 28, 28, 3), what comes in at an edge being the background."""
    moved = np.empty_like(on_both)
    moved[:, 0], moved[:, 1] = 0, 1
    to_y, to_x = slice(max(dy, 0), SIDE + min(dy, 0)), slice(max(dx, 0), SIDE + min(dx, 0))
    of_y, of_x = slice(max(-dy, 0), SIDE + min(-dy, 0)), slice(max(-dx, 0), SIDE + min(-dx, 0))
    moved[:, :, to_y, to_x] = on_both[:, :, of_y, of_x]
    return moved


def _unpaired(kept: list[str], japanese: dict[str, list[str]]) -> set[str]:
    """Spread over all frequencies; their names are part of no other name."""
    found: set[str] = set()
    others = {one: "\n".join(japanese[one]) for one in kept if one not in JAPANESE_THINGS}
    wait = UNPAIRED_EVERY // 2
    for one in others:
        wait -= 1
        alone = not any(
            name in text for other, text in others.items() if other != one for name in japanese[one]
        )
        if wait <= 0 and alone and len(found) < UNPAIRED:
            found.add(one)
            wait = UNPAIRED_EVERY
    return found


def _sheet(drawings: list[np.ndarray]) -> bytes:
    """A PNG file with all drawings, TILES_IN_A_ROW beside each other."""
    rows = -(-len(drawings) // TILES_IN_A_ROW)
    sheet = np.zeros((rows * SIDE, TILES_IN_A_ROW * SIDE, 4), np.uint8)
    for number, drawing in enumerate(drawings):
        y, x = number // TILES_IN_A_ROW * SIDE, number % TILES_IN_A_ROW * SIDE
        sheet[y : y + SIDE, x : x + SIDE] = np.where(drawing[..., 3:] > 0, drawing, 0)
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "PNG", optimize=True)
    return file.getvalue()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m corpora.miniature.make_emoji",
        description="Makes emojiworld's vocabulary.",
        allow_abbrev=False,
    )
    parser.add_argument("--font", type=Path, required=True, help="NotoColorEmoji.ttf")
    parser.add_argument("--cldr", type=Path, required=True, help="the folder `common` of CLDR")
    parser.add_argument(
        "--out", type=Path, default=DATA, help="the folder to write (default %(default)s)"
    )
    arguments = parser.parse_args(argv)
    make(arguments.font, arguments.cldr, arguments.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
