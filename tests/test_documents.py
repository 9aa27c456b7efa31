"""The documents: both READMEs give the same commands and figures, and what a document names (files,
commands, settings of the recipe) exists.
"""

import re
from collections import Counter
from typing import Any, get_args

import pytest
from test_policies import ENTRIES, ROOT, SOURCES, TOP, commands, module_name

from configs.schema.recipe import Recipe
from configs.schema.section import Section

READMES = ("README.md", "README.ja.md")
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
)
FENCE = re.compile(r"^```\w*\n(.*?)^```$", re.M | re.S)
MOST_LINES = 90


def text(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def code_blocks(document: str) -> list[str]:
    """The lines of all fenced blocks without their comments, which are in the reader's language."""
    lines = "".join(FENCE.findall(text(document))).splitlines()
    return [re.sub(r"\s+# .*$", "", line) for line in lines]


def code_spans(document: str) -> Counter[str]:
    """What stands in backticks: a command may run over the end of a line."""
    spans = re.findall(r"`([^`]+)`", FENCE.sub("", text(document)))
    return Counter(" ".join(span.split()) for span in spans)


def figures(document: str) -> Counter[str]:
    """Every number: 0.965, 12:56, 2026-11, 5."""
    return Counter(re.findall(r"\d+(?:[.:,-]\d+)*", text(document)))


def links(document: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text(document)))


def anchors(document: str) -> set[str]:
    """The headings as GitHub links to them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text(document)), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_both_readmes_give_the_same_commands_and_figures() -> None:
    english, japanese = READMES
    assert code_blocks(english) == code_blocks(japanese)
    assert code_spans(english) == code_spans(japanese)
    assert figures(english) == figures(japanese)
    assert [link for link in links(english) if link not in READMES] == [
        link for link in links(japanese) if link not in READMES
    ]


def test_a_readme_is_short_and_names_the_other_language_at_the_top() -> None:
    for readme, other in (READMES, READMES[::-1]):
        lines = text(readme).splitlines()
        assert len(lines) <= MOST_LINES and not [line for line in lines if len(line) > 110]
        assert f"]({other})" in "\n".join(lines[:5])


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_a_document_links_to_exists(document: str) -> None:
    for link in links(document):
        name, _, anchor = link.partition("#")
        if not name.startswith(("http://", "https://")):
            target = (ROOT / document).parent / name if name else ROOT / document
            assert target.exists(), f"{document}: {link}"
            if anchor:
                assert anchor in anchors(target.relative_to(ROOT).as_posix()), f"{document}: {link}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_and_commands_that_a_document_names_exist(document: str) -> None:
    named = re.findall(
        rf"(?<![\w/])((?:{'|'.join([*TOP, 'docs', 'tests'])})/[\w/.]+\.(?:py|md|yaml|sh|sbatch))\b",
        text(document),
    )
    assert not [path for path in named if not (ROOT / path).is_file()]
    assert not commands(text(document)) - set(ENTRIES)


def sections(annotation: Any) -> list[type[Section]]:
    """The sections an annotation allows, `None` and `Annotated` aside."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [one for argument in get_args(annotation) for one in sections(argument)]


def is_setting(name: str) -> bool:
    """Whether the recipe has a setting of this dotted name; a dictionary takes any."""
    found: list[type[Section]] = [Recipe]
    for part in name.split("."):
        fields = [one.model_fields[part] for one in found if part in one.model_fields]
        if not fields:
            return False
        if "dict[" in str(fields[0].annotation):
            return True
        found = [one for field in fields for one in sections(field.annotation)]
    return True


@pytest.mark.parametrize("document", DOCUMENTS)
def test_settings_and_modules_that_a_document_names_exist(document: str) -> None:
    names = set(
        re.findall(
            r"(?<![\w./-])((?:corpora|captions|vocab_init|distill|export|eval)(?:\.[a-z_]+)+)\b",
            re.sub(r"\w+\.(?:md|py)\b", "", text(document)),
        )
    )
    modules = {module_name(source).removesuffix(".__init__") for source in SOURCES}
    assert not [name for name in sorted(names) if name not in modules and not is_setting(name)]
