"""The initial student: texts of pieces, exact neighbours, and the whole stage on a hand-made
teacher with the shipped toyworld models.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from configs.errors import DataError
from configs.references import TOYWORLD_MODELS
from corpora.filters import sentence_encoder
from distill.encoders.family import SDXL
from distill.tokenizer import portable
from distill.tokenizer.portable import Vocabulary
from vocab_init import __main__ as entry
from vocab_init import gold, nearest, piece_text, transplant
from vocab_init.methods import Start

ROOT = Path(__file__).resolve().parents[2]
WIDTHS = {"text_encoder": 6, "text_encoder_2": 10}
WORDS = ["red</w>", "blue</w>", "circle</w>", "square</w>", "background</w>", "red", "squ"]


def write_teacher(
    folder: Path, prefix: str = "text_model.", dtype: torch.dtype = torch.float32
) -> Path:
    """The tokenizers and token embeddings of an SDXL folder: bytes, some words, fragments of
    words.
    """
    alphabet = list(piece_text.byte_level_alphabet())
    tokens = [
        *alphabet,
        *(letter + "</w>" for letter in alphabet),
        *WORDS,
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    for name in ("tokenizer", "tokenizer_2"):
        (folder / name).mkdir(parents=True)
        (folder / name / "vocab.json").write_text(
            json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf-8"
        )
        (folder / name / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
        special = {
            "bos_token": "<|startoftext|>",
            "eos_token": "<|endoftext|>",
            "unk_token": "<|endoftext|>",
        }
        config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special}
        (folder / name / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    for i, (name, width) in enumerate(WIDTHS.items()):
        table_VD = torch.randn(len(tokens), width, generator=torch.Generator().manual_seed(i)).to(
            dtype
        )
        (folder / name).mkdir()
        save_file(
            {
                f"{prefix}embeddings.token_embedding.weight": table_VD,
                "other.weight": torch.zeros(1),
            },
            folder / name / "model.safetensors",
        )
    return folder


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    return write_teacher(tmp_path / "base")


def stage(base: Path, run: Path, *overrides: str) -> int:
    return entry.main(
        [str(ROOT / "configs" / "toyworld.yaml"), f"run={run}", f"distill.base={base}", *overrides]
    )


def token_ids(base: Path) -> dict[str, int]:
    return json.loads((base / "tokenizer" / "vocab.json").read_text(encoding="utf-8"))


# --- piece_text ---


def test_the_byte_level_alphabet_is_the_libraries() -> None:
    from tokenizers import decoders, pre_tokenizers

    alphabet = piece_text.byte_level_alphabet()
    assert set(alphabet) == set(pre_tokenizers.ByteLevel.alphabet()) and sorted(
        alphabet.values()
    ) == list(range(256))
    for text in ("赤い丸 é\x00\x7f", "🙂"):
        token = "".join(
            next(key for key, value in alphabet.items() if value == byte) for byte in text.encode()
        )
        assert (
            piece_text.clip_bytes(token) == text.encode()
            and decoders.ByteLevel().decode([token]) == text
        )


def test_what_pieces_stand_for() -> None:
    assert [
        piece_text.sentencepiece_text(piece) for piece in ("▁赤い", "赤い", "▁a▁b▁", "▁", "▁▁")
    ] == ["赤い", "赤い", "a b", "", ""]
    assert [piece_text.byte_of(piece) for piece in ("<0x00>", "<0x41>", "<0xFF>")] == [0, 65, 255]
    assert piece_text.clip_bytes("red</w>") == piece_text.clip_bytes("red") == b"red"
    assert piece_text.clip_bytes("赤") is None  # no token is written so: its bytes are
    assert (
        piece_text.readable("é".encode()[:1]) == "\\xc3"
        and piece_text.readable("é".encode()) == "é"
    )
    assert piece_text.is_text("é".encode()) and not piece_text.is_text("é".encode()[:1])


# --- nearest ---


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    queries=st.integers(0, 9),
    candidates=st.integers(1, 12),
    count=st.integers(1, 4),
)
def test_neighbours_are_exact_and_ties_go_to_the_lowest_index(
    seed: int, queries: int, candidates: int, count: int
) -> None:
    rng = np.random.default_rng(seed)

    def unit(rows: int) -> np.ndarray:
        points = rng.integers(-2, 3, (rows, 5)).astype(np.float32) + np.array(
            [0.5, 0, 0, 0, 0], np.float32
        )  # a coarse grid: many are equal
        return points / np.linalg.norm(points, axis=1, keepdims=True)

    query_QD, candidate_VD = unit(queries), unit(candidates)
    similarity_QV = (query_QD.astype(np.float64) @ candidate_VD.T.astype(np.float64)).astype(
        np.float32
    )
    order_QN = np.argsort(-similarity_QV, axis=1, kind="stable")[:, :count]
    for block in (1, 3, 1000):
        ids, similarity = nearest.nearest(
            torch.tensor(query_QD),
            torch.tensor(candidate_VD),
            count,
            block_bytes=8 * candidates * block,
        )
        assert ids.tolist() == order_QN.tolist() and ids.dtype == torch.int64
        np.testing.assert_allclose(
            similarity.numpy(), np.take_along_axis(similarity_QV, order_QN, axis=1), atol=1e-7
        )


def test_equal_candidates_tie_at_any_place() -> None:
    """BLAS sums the last columns of a matrix in another order than the first: in float32 the copies
    would differ by a rounding.
    """
    point_1D = torch.nn.functional.normalize(
        torch.randn(1, 1023, generator=torch.Generator().manual_seed(0)), dim=1
    )
    others_VD = torch.nn.functional.normalize(
        torch.randn(97, 1023, generator=torch.Generator().manual_seed(1)), dim=1
    )
    candidates_VD = torch.cat([others_VD[:13], point_1D, others_VD, point_1D, point_1D])
    ids, similarity = nearest.nearest(point_1D.repeat(7, 1), candidates_VD, 3)
    assert ids.tolist() == [[13, 111, 112]] * 7 and torch.equal(
        similarity, similarity[:1, :1].expand(7, 3)
    )


# --- transplant ---


def test_whole_words_stand_for_their_text_and_half_characters_for_none(teacher: Path) -> None:
    words = transplant.read_teacher(str(teacher), SDXL).words()
    ids = token_ids(teacher)
    texts = {text: token_id for token_id, text in words}
    assert (
        texts["red"] == ids["red</w>"] and texts["squ"] == ids["squ"] and texts["a"] == ids["a</w>"]
    )
    assert words == sorted(words) and not any(
        "\\x" in text or not text.strip() for _, text in words
    )
    assert not {ids["<|startoftext|>"], ids["<|endoftext|>"]} & {token_id for token_id, _ in words}
    assert (
        len(texts) == len(words) == (ord("~") - ord(" ")) + 6
    )  # ASCII that shows, and the words but one of the two reds


def test_a_fragment_reads_as_its_text_beside_the_whole_word(teacher: Path) -> None:
    """`red` of a mixture is no candidate, because `red</w>` is: it has a text all the same."""
    english = transplant.read_teacher(str(teacher), SDXL)
    ids = token_ids(teacher)
    assert ids["red"] not in dict(english.words())
    assert english.texts()[ids["red"]] == english.texts()[ids["red</w>"]] == "red"
    red_square = Start([ids["red"], ids["square</w>"]], [0.5, 0.5], [1.0, 1.0], "counted")
    assert gold.english(red_square, english.texts()) == "redsquare"


def test_every_kind_of_row(teacher: Path) -> None:
    english = transplant.read_teacher(str(teacher), SDXL)
    kinds = {
        "<unk>": "unknown",
        "▁赤い": "normal",
        "▁": "normal",
        "<0x41>": "byte",
        "<0xE8>": "byte",
        "f": "filler",
        "s": "bos",
        "e": "eos",
    }
    scores = (0.0,) * len(kinds)
    vocabulary = Vocabulary(tuple(kinds), tuple(kinds.values()), scores)  # type: ignore[arg-type]
    ids = token_ids(teacher)
    rows = transplant.rows(
        vocabulary,
        english,
        {"赤い": Start([ids["red</w>"], ids["red"]], [1.0, 0.0], [0.9, 0.8], "nearest")},
    )
    tables = transplant.transplant(rows, english)
    for name, table_VD in tables.items():
        source_VD = english.tables[name]
        mean_D = source_VD[:-2].mean(dim=0)  # BOS and EOS, the last two, are outliers
        sources = [
            mean_D,
            source_VD[ids["red</w>"]],
            mean_D,
            source_VD[ids["a"]],
            source_VD[ids["è"]],
            mean_D,
            source_VD[-2],
            source_VD[-1],
        ]
        torch.testing.assert_close(table_VD, torch.stack(sources))
    assert (
        rows[1].neighbors == ["red</w>", "red"]
        and rows[1].text == "赤い"
        and rows[1].similarity == [0.9, 0.8]
    )
    assert (rows[3].text, rows[4].text, rows[4].neighbors) == ("A", "\\xe8", ["\\xe8"])


@pytest.mark.parametrize(("prefix", "dtype"), [("", torch.float32), ("text_model.", torch.float16)])
def test_embeddings_are_read_with_and_without_prefix_whole_and_in_shards(
    prefix: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    whole = transplant.read_teacher(str(write_teacher(tmp_path / "base", prefix, dtype)), SDXL)
    for name in WIDTHS:
        path = tmp_path / "base" / name / "model.safetensors"
        key = f"{prefix}embeddings.token_embedding.weight"
        path.rename(path.with_name("model-00002-of-00002.safetensors"))
        index = {
            "weight_map": {
                "other.weight": "model-00001-of-00002.safetensors",
                key: "model-00002-of-00002.safetensors",
            }
        }
        path.with_name("model.safetensors.index.json").write_text(
            json.dumps(index), encoding="utf-8"
        )
    shards = transplant.read_teacher(str(tmp_path / "base"), SDXL)
    assert shards.sha256() == whole.sha256() and all(
        table.dtype == torch.float32 for table in shards.tables.values()
    )
    assert [table.shape[1] for table in shards.tables.values()] == list(WIDTHS.values())


# --- the stage ---


def test_the_stage_end_to_end(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert stage(teacher, run, "vocab_init.pad_vocab_to_multiple_of=8") == 0
    printed = capsys.readouterr().out
    assert "256 byte" in printed and "->" in printed
    folder = run / "initial_student"
    tables = load_file(folder / "token_embeddings.safetensors")
    rows = [
        json.loads(line)
        for line in (folder / "neighbors.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    ]
    assert {name: tuple(table.shape) for name, table in tables.items()} == {
        "clip_l": (len(rows), 6),
        "clip_bigg": (len(rows), 10),
    }
    assert len(rows) % 8 == 0 and [row["id"] for row in rows] == list(range(len(rows)))
    by_piece = {row["piece"]: row for row in rows}
    found = {
        piece: by_piece[piece]["neighbors"][0]
        for piece in ("赤い", "赤", "青くて", "丸", "四角", "背景")
    }
    assert found == {
        "赤い": "red</w>",
        "赤": "red</w>",
        "青くて": "blue</w>",
        "丸": "circle</w>",
        "四角": "square</w>",
        "背景": "background</w>",
    }
    assert (
        by_piece["赤い"]["similarity"] == sorted(by_piece["赤い"]["similarity"], reverse=True)
        and len(by_piece["赤い"]["neighbor_ids"]) == 3
    )
    ids = token_ids(teacher)
    for name, subfolder in (("clip_l", "text_encoder"), ("clip_bigg", "text_encoder_2")):
        source_VD = load_file(teacher / subfolder / "model.safetensors")[
            "text_model.embeddings.token_embedding.weight"
        ]
        assert torch.equal(tables[name][by_piece["赤い"]["id"]], source_VD[ids["red</w>"]])
        assert torch.equal(tables[name][-2:], source_VD[-2:]) and tables[name].isfinite().all()
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {*manifest["files"], "manifest.json"} and sum(
        manifest["details"]["rows_by_kind"].values()
    ) == len(rows)
    assert all(
        hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
        for name, digest in manifest["files"].items()
    )
    assert sorted(path.name for path in run.iterdir()) == [
        "initial_student",
        "piece_vectors",
        "stages.jsonl",
    ]


def test_a_finished_stage_does_nothing_and_another_recipes_is_refused(
    teacher: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    (run / ".initial_student.partial").mkdir(parents=True)
    (run / ".initial_student.partial" / "left over").write_text("killed half way", encoding="utf-8")
    assert stage(teacher, run) == 0
    files = {
        path: path.read_bytes() for path in (run / "initial_student").rglob("*") if path.is_file()
    }
    with monkeypatch.context() as patch:
        patch.setattr(sentence_encoder, "load", lambda *arguments: pytest.fail("done twice"))
        assert stage(teacher, run, "vocab_init.batch_size=7") == 0  # changes nothing of the result
        assert "already there" in capsys.readouterr().out
        for setting, value in (("prompt", "'query: '"), ("pad_vocab_to_multiple_of", "8")):
            assert stage(teacher, run, f"vocab_init.{setting}={value}") == 3
            assert f"made with {setting}" in capsys.readouterr().err
        assert stage(write_teacher(tmp_path / "other", dtype=torch.float16), run) == 3
        assert "made with base" in capsys.readouterr().err
        assert {path: path.read_bytes() for path in files} == files
    for name in ("neighbors.jsonl", "tokenizer/tokenizer.json", "manifest.json"):
        (run / "initial_student" / name).write_text("", encoding="utf-8")
        assert stage(teacher, run) == 0
        line = next(
            line for line in capsys.readouterr().err.splitlines() if f"{name}: damaged" in line
        )
        assert line.endswith("it is made again")
        assert {path: path.read_bytes() for path in files} == files


def test_any_form_of_a_tokenizer_is_taken_and_known_by_the_file_read(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tokenizer"
    portable.build(
        TOYWORLD_MODELS / "spiece.model", folder
    )  # a tokenizer.json, and later a SentencePiece model beside it
    settings = []
    for run in ("json", "folder"):
        assert stage(teacher, tmp_path / run, f"vocab_init.tokenizer={folder}") == 0
        settings.append(
            json.loads(
                (tmp_path / run / "initial_student" / "manifest.json").read_text(encoding="utf-8")
            )["made_from"]
        )
        shutil.copy(TOYWORLD_MODELS / "spiece.model", folder)
        checkpoint = tmp_path / run / "distill" / "checkpoints" / "step_000001"
        checkpoint.mkdir(parents=True)
        (checkpoint / "manifest.json").touch()
        for code, line in (
            ((3, "put the old one back"), (0, "it is made again")) if run == "json" else ((0, ""),)
        ):
            capsys.readouterr()
            assert stage(teacher, tmp_path / run, f"vocab_init.tokenizer={folder}") == code
            error = capsys.readouterr().err
            assert line in error and (
                "vocab_init.tokenizer has changed since it was made" in error
            ) is (run == "json")
            (checkpoint / "manifest.json").unlink(missing_ok=True)
    files = [folder / "tokenizer.json", folder / "spiece.model"]
    assert [made["vocab_init.tokenizer"] for made in settings] == [
        hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    ]


def _corrupt_weights(base: Path) -> None:
    path = base / "text_encoder_2" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def _nan_weights(base: Path) -> None:
    key = "text_model.embeddings.token_embedding.weight"
    save_file({key: torch.full((600, 6), torch.nan)}, base / "text_encoder" / "model.safetensors")


def _short_weights(base: Path) -> None:
    save_file(
        {"text_model.embeddings.token_embedding.weight": torch.zeros(9, 6)},
        base / "text_encoder" / "model.safetensors",
    )


def _another_vocabulary(base: Path) -> None:
    path = base / "tokenizer_2" / "vocab.json"
    path.write_text(path.read_text(encoding="utf-8").replace("circle", "circus"), encoding="utf-8")


def _a_token_missing(base: Path) -> None:
    for name in ("tokenizer", "tokenizer_2"):
        path = base / name / "vocab.json"
        ids = {token: i for token, i in token_ids(base).items() if token != "circle</w>"}
        path.write_text(json.dumps(ids), encoding="utf-8")


def _no_bos(base: Path) -> None:
    """The library gives a BOS that is not there the next id, which EOS has already."""
    ids = {token: i for token, i in token_ids(base).items() if token != "<|startoftext|>"}
    for name in ("tokenizer", "tokenizer_2"):
        (base / name / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")


def _no_weights(base: Path) -> None:
    (base / "text_encoder" / "model.safetensors").unlink()


def _another_model(base: Path) -> None:
    save_file({"x": torch.zeros(1)}, base / "text_encoder" / "model.safetensors")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a shard cut off": (
        _corrupt_weights,
        "text_encoder_2/model.safetensors: the token embeddings cannot be read",
    ),
    "no weights": (_no_weights, "text_encoder/model.safetensors: missing; fetch"),
    "another model": (_another_model, "it holds no text_model.embeddings"),
    "NaN": (_nan_weights, "hold NaN or infinity"),
    "fewer rows than ids": (
        _short_weights,
        "clip_l has 9 token embeddings but the tokenizer's ids reach 520",
    ),
    "two vocabularies": (_another_vocabulary, "its two tokenizers differ"),
    "a token missing": (_a_token_missing, "id 514 of its tokenizer names 0 tokens, not one"),
    "no BOS": (_no_bos, "id 519 of its tokenizer names 0 tokens, not one; fetch the folder again"),
    "no tokenizer": (
        lambda base: (base / "tokenizer" / "vocab.json").write_text("{", encoding="utf-8"),
        "its tokenizer cannot be loaded",
    ),
}


@pytest.mark.parametrize(("damage", "cause"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_teacher_is_one_line(
    damage: Callable[[Path], object],
    cause: str,
    teacher: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(teacher)
    assert stage(teacher, tmp_path / "run") == 3
    error = capsys.readouterr().err
    assert cause in error and error.startswith("vocab_init: ") and error.count("\n") == 1
    assert not (tmp_path / "run" / "initial_student").exists()


@pytest.mark.parametrize(
    ("override", "cause"),
    [
        ("distill.base=/no/such/folder", "/no/such/folder: there is no such folder"),
        (
            "distill.base=organisation/model",  # the tests run offline
            "organisation/model: there is no such folder, and it cannot be fetched from the hub",
        ),
        ("vocab_init.tokenizer=/no/spiece.model", "/no/spiece.model: there is no such file"),
        (
            "vocab_init.sentence_encoder=/no/encoder",
            "/no/encoder: there is no such sentence encoder",
        ),
        ("vocab_init.sentence_encoder=toyworld:base", "the sentence encoder cannot be loaded"),
    ],
)
def test_missing_inputs_are_one_line(
    override: str, cause: str, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stage(teacher, tmp_path / "run", override) == 3
    error = capsys.readouterr().err
    assert (
        cause in error.strip().splitlines()[-1]
        and not (tmp_path / "run" / "initial_student").exists()
    )


def test_an_encoder_that_gives_no_number_is_refused() -> None:
    class Broken:
        def encode(self, texts: list[str], **_: object) -> torch.Tensor:
            return torch.tensor([[1.0, 0.0], [torch.nan, 0.0]])

    with pytest.raises(DataError, match="gives no number for 'b'"):
        sentence_encoder.embed(Broken(), ["a", "b"], "", 8)


def test_the_prompt_goes_before_every_text() -> None:
    encoder = sentence_encoder.load(str(TOYWORLD_MODELS / "sentence_encoder"), "")
    direct = sentence_encoder.embed(encoder, ["red circle", "red square"], "", 8)
    prompted = sentence_encoder.embed(encoder, ["circle", "square"], "red ", 1)
    torch.testing.assert_close(prompted, direct)
    torch.testing.assert_close(direct.norm(dim=1), torch.ones(2))


def test_the_student_built_on_it_reads_bos_exactly_as_the_teacher(
    tiny_sdxl: Path, tmp_path: Path
) -> None:
    """The BOS state depends on BOS alone: copying its embedding makes it exact before any
    training.
    """
    from distill.encoders.student import initial_text_encoders
    from distill.encoders.teacher import load_text_encoders

    assert stage(tiny_sdxl / "base", tmp_path) == 0
    student = initial_text_encoders(tiny_sdxl / "base", SDXL, tmp_path / "initial_student").encode(
        ["赤い丸", "👍 青い四角"]
    )
    english = load_text_encoders(tiny_sdxl / "base", SDXL).encode(["a red circle"])
    for ours, theirs in (
        (student.states["clip_l"], english.states["clip_l"]),
        (student.states["clip_bigg"], english.states["clip_bigg"]),
    ):
        torch.testing.assert_close(ours[:, 0], theirs[:, 0].expand(2, -1))
        assert ours.isfinite().all() and not torch.allclose(ours[0, 1:], ours[1, 1:])
