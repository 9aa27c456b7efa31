"""A folder that Hugging Face runs as a Space: this demo of a repository on the Hub.

In:  hub names of the export, its teacher and its refiner; the source of this project.
Out: `README.md` with the Space's settings, `app.py`, `requirements.txt` (what is installed here, by
     version), and the modules that the demo imports. Training's libraries are not among them.
"""

import ast
import re
from collections.abc import Iterator
from importlib.metadata import packages_distributions, version
from pathlib import Path

from configs.errors import RecipeError
from configs.files import whole_folder
from configs.references import looks_like_hub_name
from configs.schema import yaml12

ROOT = Path(__file__).resolve().parent.parent
START = "demo/__main__.py"
# diffusers and transformers load weights through it, and import it themselves
INDIRECTLY = ("accelerate",)
APP = '''"""The demo of sdxl-mother-tongue. Made by: python -m demo {export} --space FOLDER"""

from demo.__main__ import main

raise SystemExit(main({arguments!r}))
'''
README = """---
{settings}---

Japanese prompts beside English ones: [{export}](https://huggingface.co/{export}) and the English
text encoders it was taught by, same seed, same UNet. On a GPU in half precision; on a CPU a picture
of SDXL's takes minutes.
"""


def write(
    folder: Path,
    export: str,
    teacher: str | None,
    refiner: str | None,
    report: str | None,
    gradio_version: str,
) -> None:
    """Raises RecipeError for what a Space cannot reach, DataError for a folder that is there."""
    models = [name for name in (export, teacher, refiner) if name]
    for name in models:
        if not looks_like_hub_name(name):
            raise RecipeError(
                f"--space: {name} is no hub name, and a Space can load nothing else; upload it "
                "with python -m distill.export RECIPE --push ORG/NAME, and give ORG/NAME-base"
            )
    if report and not report.startswith("https://"):
        raise RecipeError(f"--space: the report {report} is no address; give https://…")
    options = {"--teacher": teacher, "--refiner": refiner, "--report": report}
    given = [word for name, value in options.items() if value for word in (name, value)]
    sources = list(modules(START))
    with whole_folder(folder) as temporary:
        for source in sources:
            path = temporary / source
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes((ROOT / source).read_bytes())
        settings = {
            "title": export.partition("/")[2],
            "emoji": "🗻",
            "sdk": "gradio",
            "sdk_version": gradio_version,
            "app_file": "app.py",
            "license": "apache-2.0",
            "models": models,
        }
        _put(temporary / "README.md", README.format(settings=yaml12.write(settings), export=export))
        _put(temporary / "app.py", APP.format(export=export, arguments=[export, *given]))
        _put(temporary / "requirements.txt", "\n".join(requirements(sources)) + "\n")
    print(f"{folder}: upload it with: hf upload --repo-type space ORG/NAME {folder}")


def modules(start: str) -> Iterator[str]:
    """The files of this project that one of them imports, itself among them."""
    waiting, found = [start], set()
    while waiting:
        source = waiting.pop()
        if source in found:
            continue
        found.add(source)
        waiting += [
            f"{parent.as_posix()}/__init__.py" for parent in list(Path(source).parents)[:-1]
        ]
        waiting += [path for name in _imports(source) if (path := _file_of(name))]
    yield from sorted(found)


def requirements(sources: list[str]) -> list[str]:
    """What these files import of others, as it is installed here; not what the Space's
    `sdk_version` brings.
    """
    tops = {name.partition(".")[0] for source in sources for name in _imports(source)}
    known = packages_distributions()
    names = {known[top][0] for top in tops if top in known and not _file_of(top)}
    names = {re.sub(r"[-_.]+", "-", name).lower() for name in (*names, *INDIRECTLY)}
    return [f"{name}=={version(name)}" for name in sorted(names - {"gradio", "starlette"})]


def _imports(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse((ROOT / source).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _file_of(name: str) -> str | None:
    """The file of a module of this project, or of the module that a name is imported from."""
    for one in (name, name.rpartition(".")[0]):
        path = Path(*one.split(".")) if one else None
        if path and (ROOT / path).with_suffix(".py").is_file():
            return path.with_suffix(".py").as_posix()
        if path and (ROOT / path / "__init__.py").is_file():
            return (path / "__init__.py").as_posix()
    return None


def _put(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
