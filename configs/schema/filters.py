"""Which pairs are dropped by their own text: the section `corpora.filters`, and that of tags."""

from typing import Any, ClassVar

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from configs.schema.section import Positive, Section


class Filters(Section):
    # subtitle codes, speakers' names, sounds: corpora/filters/residue.py
    removes_residue: ClassVar[bool] = True
    min_characters: Positive = 2
    max_characters: Positive = 1000
    max_length_ratio: float = Field(
        6.0, gt=1.0, description="longer side over shorter, in UTF-8 bytes"
    )
    unsafe: bool = Field(
        False,
        description="drop pairs with sexual words, or with words for minors beside suggestive "
        "ones: corpora/filters/unsafe.yaml",
    )

    @model_serializer(mode="wrap")
    def _recorded(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Older pairs do not record `unsafe`, and stay valid while it is what it is by default."""
        found: dict[str, Any] = handler(self)
        if self.unsafe == type(self).model_fields["unsafe"].default:
            found.pop("unsafe", None)
        return found


class TagFilters(Filters):
    """What suits single words: 銃 is one character, and 裏 as long as `reverse side` (of 12)."""

    removes_residue: ClassVar[bool] = False  # (devil may cry) is no sound
    min_characters: Positive = 1
    max_length_ratio: float = Field(
        8.0, gt=1.0, description="longer side over shorter, in UTF-8 bytes"
    )
    unsafe: bool = True
