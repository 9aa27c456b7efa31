"""The door to fastText, with a real model trained on a few hundred sentences."""

import hashlib
from pathlib import Path

import pytest
from language_models import train_model

from configs.errors import DataError
from configs.schema.corpora import LanguageId
from corpora.filters import language_id


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_model(tmp_path_factory.mktemp("model") / "lid.bin")


def test_probabilities_tell_the_languages_apart(model_path: Path) -> None:
    model = language_id.load(str(model_path))
    texts = ["黒い背景に大きい赤い丸", "a big red circle on a black background", "абв где\nжзи", ""]
    japanese, english = (
        language_id.probabilities(model, texts, language) for language in ("ja", "en")
    )
    assert japanese[0] > 0.9 > 0.1 > max(japanese[1:3]) and english[1] > 0.9 > 0.1 > max(
        english[0], english[2]
    )
    assert all(0.0 <= one <= 1.0 for one in japanese + english)
    assert language_id.probabilities(model, [], "ja") == []
    assert language_id.load(str(model_path)) is model


def test_the_model_file_is_on_record_and_its_digest_checked(model_path: Path) -> None:
    digest = hashlib.sha256(model_path.read_bytes()).hexdigest()
    found = language_id.model_file(LanguageId(model=str(model_path), sha256=digest.upper()))
    assert (found.sha256, found.bytes, found.path) == (
        digest,
        model_path.stat().st_size,
        str(model_path),
    )
    with pytest.raises(DataError, match=f"its SHA-256 is {digest}, the recipe asks for 00"):
        language_id.model_file(LanguageId(model=str(model_path), sha256="00"))
    with pytest.raises(
        DataError, match=r"toyworld/models/no_such\.ftz: there is no language-id model"
    ):
        language_id.model_file(LanguageId(model="toyworld:no_such.ftz"))


def test_a_damaged_model_is_refused(model_path: Path, tmp_path: Path) -> None:
    for name, content in (
        ("garbage.bin", b"garbage" * 99),
        ("empty.bin", b""),
        ("head.bin", model_path.read_bytes()[:16]),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"{name}: .*language-id model") as caught:
            language_id.load(str(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_a_model_of_other_languages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="knows no label ja"):
        language_id.load(str(train_model(tmp_path / "other.bin", ("en", "ru"))), "ja")
