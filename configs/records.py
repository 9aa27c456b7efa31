"""What every JSON file of the project's own is: a typed record, checked when it is read.

In/out: one JSON object a file, written whole. A file that is damaged, or of another version, is one `DataError` line.
"""

import json
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from configs.errors import DataError, one_line
from configs.files import whole


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
            raise DataError(f"{path}: damaged, or not of this version ({problem}); {way_out}") from None

    def write(self, path: Path) -> None:
        with whole(path) as temporary:
            temporary.write_text(json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
