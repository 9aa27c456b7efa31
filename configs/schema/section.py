"""What every section of a recipe is: typed, strict, frozen; and the number types the sections
share.

A text that starts as a path below a home folder (`~/corpora/a.tsv`) is read with that folder
written out, in any section.
"""

import os
import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from configs.languages import LANGUAGES, Language

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0)]
HOME = re.compile(r"~[\w.-]*/")


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
    _language: str = PrivateAttr("ja")  # set by the recipe; no key of its own, so in no dump

    @property
    def text_language(self) -> Language:
        """The student's language: the `language` of the recipe this section is part of."""
        return LANGUAGES[self._language]

    def use_language(self, code: str) -> None:
        """Sets `text_language` here and in every section below.

        A section that is a field's default must be made by `default_factory`: a shared one would
        carry the language of one recipe into the next.
        """
        self._language = code
        for name, value in self:
            for one in value if isinstance(value, list) else [value]:
                if isinstance(one, Section):
                    assert one is not type(self).model_fields[name].default, name
                    one.use_language(code)

    @model_validator(mode="before")
    @classmethod
    def _home_folders_are_written_out(cls, values: Any) -> Any:
        return (
            {key: _at_home(value) for key, value in values.items()}
            if isinstance(values, dict)
            else values
        )


def _at_home(value: Any) -> Any:
    """Of a text, or of the texts of a list or mapping.

    Raises ValueError where the home folder is not known.
    """
    if isinstance(value, dict):
        return {key: _at_home(one) if isinstance(one, str) else one for key, one in value.items()}
    if isinstance(value, list):
        return [_at_home(one) if isinstance(one, str) else one for one in value]
    if not isinstance(value, str) or not HOME.match(value):
        return value
    expanded = os.path.expanduser(value)
    if expanded == value:
        raise ValueError(
            f"{value!r}: the home folder is not known on this machine, so write whole paths"
        )
    return expanded
