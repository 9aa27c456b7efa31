"""Each kind of source gives the same rows for the same pictures; every picture that is not among
them is counted, with its reason.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from picture_files import (
    WRITERS,
    Captioned,
    coco,
    csv_with_header,
    csv_without_header,
    encoded,
    examples,
    folder_of_json,
    folder_of_texts,
    noise,
    recipe,
    shards,
    write_files,
)

from configs.errors import DataError, RecipeError
from configs.schema.load import load_recipe
from finetune.pictures import plan, sources
from finetune.pictures.plan import Plan

ROOT = Path(__file__).resolve().parents[3]


def planned(folder: Path, *of: dict[str, Any], **more: Any) -> Plan:
    made = recipe(folder / "run", list(of), **more)
    assert made.pictures
    return plan.make(made, made.pictures)


def rows(found: Plan) -> list[tuple[Any, ...]]:
    return sorted(
        (one.sha256, one.size, tuple(one.crops), one.texts, one.en) for one in found.pictures
    )


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_every_kind_gives_the_same_rows(write: Any, tmp_path: Path) -> None:
    expected = rows(planned(tmp_path, folder_of_json(tmp_path / "first", examples())))
    assert len(expected) == 6 and {len(texts) for *_, texts, _ in expected} == {1, 2, 3}
    found = planned(tmp_path, write(tmp_path / "second", examples()))
    if write is folder_of_texts:
        expected = [(*row, []) for *row, _ in expected]
    assert rows(found) == expected and not any(found.dropped)
    assert str(tmp_path) not in found.labels[0]


def test_toyworld_gives_the_same_rows_as_its_pictures_in_a_folder(tmp_path: Path) -> None:
    toyworld = {"kind": "toyworld", "scenes": 20, "style": "shaded", "seed": 3}
    own = recipe(tmp_path, [toyworld]).pictures
    assert own
    pictures = [
        Captioned(f"{number}.bmp", one.load(), one.texts, one.en)
        for number, one in enumerate(sources.read(own.sources[0]))
    ]
    folder = folder_of_json(tmp_path / "folder", pictures)
    assert rows(planned(tmp_path, toyworld)) == rows(planned(tmp_path, folder))
    plain = toyworld | {"style": "plain"}
    assert not {row[0] for row in rows(planned(tmp_path, plain))} & {
        row[0] for row in rows(planned(tmp_path, toyworld))
    }


def test_every_drop_is_counted_by_source_and_reason(tmp_path: Path) -> None:
    good = examples(3)
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded(noise((40, 40), 99)))

    def bad(name: str, data: bytes) -> Captioned:
        return Captioned(name, data, ["絵"], [])

    pictures = [
        *good,
        bad("again.png", good[0].data)._replace(texts=["もう一つの文"]),
        bad("one_pixel.png", encoded(noise((1, 1), 0))),
        bad("wide.png", encoded(noise((200, 20), 0))),
        bad("html.jpg", b"<html>"),
        bad("no_caption.png", encoded(noise((40, 40), 5)))._replace(texts=["  "]),
    ]
    folder = folder_of_json(tmp_path / "folder", pictures)
    with open(tmp_path / "folder" / "metadata.jsonl", "a", encoding="utf-8") as file:
        for name in ("gone.png", "link.png"):
            file.write(json.dumps({"file_name": name, "ja": "絵"}) + "\n")
    (tmp_path / "folder" / "link.png").symlink_to(secret)
    (tmp_path / "folder" / "unlisted.png").write_bytes(encoded(noise((40, 40), 6)))
    found = planned(tmp_path, folder, coco(tmp_path / "coco", examples(4)))
    assert found.dropped == [
        {
            "duplicate": 1,
            "too_small": 1,
            "too_wide": 1,
            "unreadable": 1,
            "no_caption": 2,
            "missing": 1,
            "outside_the_folder": 1,
        },
        {"duplicate": 3},
    ]
    assert [one.source for one in found.pictures] == [0, 0, 0, 1]
    assert found.pictures[0].texts == [*good[0].texts, "もう一つの文"]


def test_what_could_not_be_downloaded_has_the_shards_own_reason(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = shards(tmp_path / "shards", examples())
    rows = [("9", "http://x/9", "猫", "failed_to_download")]
    names = ["key", "url", "caption", "status"]
    table = pa.table([list(column) for column in zip(*rows, strict=True)], names=names)
    pq.write_table(table, tmp_path / "shards" / "00000.parquet")
    assert planned(tmp_path, source).dropped == [{"failed_to_download": 1}]


def test_a_range_of_shards_is_written_as_webdataset_does(tmp_path: Path) -> None:
    source = shards(tmp_path / "shards", examples())
    one_range = source | {"path": str(tmp_path / "shards" / "{00000..00001}.tar")}
    assert rows(planned(tmp_path, one_range)) == rows(planned(tmp_path, source))
    with pytest.raises(DataError, match=r"00002\.tar: matches no file"):
        planned(tmp_path, source | {"path": str(tmp_path / "shards" / "{00000..00002}.tar")})


def test_long_captions_are_counted_and_kept(tmp_path: Path) -> None:
    long = Captioned(
        "a.png", encoded(noise((32, 32), 0)), ["赤い丸と青い四角。" * 20], ["a cat " * 80]
    )
    found = planned(tmp_path, folder_of_json(tmp_path / "folder", [long, *examples(2)]))
    assert found.too_long == 2 and len(found.pictures) == 3


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a/../../b.png"])
@pytest.mark.parametrize("write", [folder_of_json, csv_without_header, csv_with_header, coco])
def test_a_picture_named_outside_its_folder_is_refused(
    write: Any, name: str, tmp_path: Path
) -> None:
    source = write(tmp_path / "x", examples(2))
    for path in (tmp_path / "x").rglob("*.*"):
        if path.suffix in (".jsonl", ".csv", ".json"):
            text = path.read_text(encoding="utf-8")
            escaped = json.dumps("絵1.png")[1:-1]
            text = text.replace("絵1.png", name).replace(escaped, name)
            path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="leads out of the folder") as caught:
        planned(tmp_path, source)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_mirrored_captions_must_not_say_left_or_right(tmp_path: Path) -> None:
    sided = [one._replace(texts=["丸の左に四角"]) for one in examples(1)]
    source = folder_of_json(tmp_path / "x", [*examples(3)[1:], *sided])
    assert len(planned(tmp_path, source).pictures) == 3
    with pytest.raises(RecipeError, match=r"丸の左に四角.*set pictures.flip to false"):
        planned(tmp_path, source, flip=True)


WRONG = [
    ({"caption": "text"}, RecipeError, "there is no column 'text' among 'file_name, ja, en'"),
    ({"path": "nowhere"}, DataError, "nowhere: there is no such folder"),
]


@pytest.mark.parametrize(("change", "kind", "line"), WRONG)
def test_a_wrong_source_is_one_line(
    change: dict[str, str], kind: type[Exception], line: str, tmp_path: Path
) -> None:
    source = folder_of_json(tmp_path / "x", examples(2)) | change
    with pytest.raises(kind, match=line):
        planned(tmp_path, source)


@pytest.mark.parametrize(
    "damage", [b"{", b'{"file_name": 3, "ja": "a", "en": "b"}', b"[1]", b"\xff"]
)
def test_damaged_metadata_is_one_line(damage: bytes, tmp_path: Path) -> None:
    source = folder_of_json(tmp_path / "x", examples(2))
    (tmp_path / "x" / "metadata.jsonl").write_bytes(damage)
    with pytest.raises(DataError, match=r"metadata\.jsonl"):
        planned(tmp_path, source)
    write_files(tmp_path / "y", [])
    with pytest.raises(DataError, match="no picture is left; none came"):
        planned(tmp_path, {"kind": "folder", "path": str(tmp_path / "y")})


BAD_SETTINGS = [
    ("sources.0.kind=folders", "pictures.sources.0.kind: there is no kind 'folders'; did you mean"),
    ("sources.0.scene=1", "pictures.sources.0.scene: there is no such key .*did you mean 'scenes'"),
    ("resolution=128", r"pictures.resolution \(128\) must lie between"),
    ("buckets.min_side=20", r"pictures.buckets.min_side \(20\) must be a multiple of"),
    ("crops=3", "pictures.crops is 3 and pictures.crop is center"),
    ("sources=[]", "pictures.sources: List should have at least 1 item"),
    (
        "sources.0={kind: csv, path: a, header: false, caption: b}",
        "without a header has no column .b.",
    ),
]


@pytest.mark.parametrize(("override", "line"), BAD_SETTINGS)
def test_a_wrong_setting_is_one_line(override: str, line: str) -> None:
    section = (
        "pictures={resolution: 32, buckets: {step: 8, min_side: 16, max_side: 64}, "
        "sources: [{kind: toyworld, scenes: 1}]}"
    )
    with pytest.raises(RecipeError, match=line):
        load_recipe(ROOT / "configs" / "toyworld.yaml", [section, f"pictures.{override}"])
