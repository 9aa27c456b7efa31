"""What every JSON file of the project's own is: a typed record, checked when it is read.

In/out: one JSON object a file, written whole. A file that is damaged, or of another version, is one
`DataError` line.
"""

import json
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from configs.errors import DataError, one_line
from configs.files import read_json, value_sha256, whole


class Record(BaseModel):
    """Base of the records. Unknown keys are refused: they are a newer version's, or damage."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @classmethod
    def read(cls, path: Path, way_out: str) -> Self:
        """Raises DataError; `way_out` says what the user can do about it."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); {way_out}") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            problem = one_line(f"{where}: {first['msg']}" if where else first["msg"], 200)
            raise DataError(
                f"{path}: damaged, or not of this version ({problem}); {way_out}"
            ) from None

    def write(self, path: Path) -> None:
        with whole(path) as temporary:
            temporary.write_text(
                json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n",
                encoding="utf-8",
            )


class SealedRecord(Record):
    """A record that holds the SHA-256 of its other fields, so that damage to any value is
    noticed.
    """

    sha256: str

    @classmethod
    def seal(cls, **fields: Any) -> Self:
        """`fields`: every other field, as JSON values."""
        return cls(**fields, sha256=value_sha256(fields))

    @model_validator(mode="after")
    def _is_undamaged(self) -> Self:
        if self.sha256 != value_sha256(self.model_dump(mode="json", exclude={"sha256"})):
            raise ValueError("a value differs from what was written: the SHA-256 is another")
        return self


def with_sha256(value: dict[str, Any]) -> dict[str, Any]:
    """A JSON object of free form with its own SHA-256, as `read_with_sha256` wants it."""
    value = json.loads(json.dumps(value, allow_nan=False))  # as it will be read
    value.pop("sha256", None)  # of what was read and then changed
    return {**value, "sha256": value_sha256(value)}


def read_with_sha256(path: Path, way_out: str) -> dict[str, Any]:
    """Raises DataError for an object that is damaged, or was written without its SHA-256."""
    try:
        value = read_json(path)
    except DataError as error:
        raise DataError(f"{str(error).rpartition(';')[0]}; {way_out}") from None
    if value.pop("sha256", None) != value_sha256(value):
        raise DataError(
            f"{path}: damaged, or another version's (its SHA-256 is another); {way_out}"
        )
    return value
