"""What the project promises about its own code: layers, doors, sizes, commands, the map of its
files, lint and types. CI checks them here.
"""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
    "setuptools"
]["packages"]
TOP = sorted({package.partition(".")[0] for package in PACKAGES})
SOURCES = sorted(
    path.relative_to(ROOT).as_posix() for top in TOP for path in (ROOT / top).rglob("*.py")
)
SOURCES_OF = {top: [source for source in SOURCES if source.startswith(f"{top}/")] for top in TOP}
TESTS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py"))
EXAMPLES = ("configs/*.yaml", "configs/*.sbatch", "configs/*.sh", "configs/*.hostfile")
README = (ROOT / "README.md").read_text(encoding="utf-8")
LAYOUT = (ROOT / "docs" / "layout.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")

# A row may import what stands here and nothing else of the project; running order is not import
# order.
LAYERS = {
    "configs": ["configs"],
    "corpora": ["configs", "corpora"],
    "distill": ["configs", "corpora.pair", "corpora.alignment", "distill"],
    "vocab_init": ["configs", "corpora", "distill", "vocab_init"],
    "eval": ["configs", "corpora", "distill", "eval"],
    "demo": ["configs", "corpora", "distill", "eval", "demo"],
    "finetune": ["configs", "corpora", "distill", "finetune"],
    "benchmarks": ["configs", "corpora.pair", "distill", "benchmarks"],
}
# A library that is heavy, old or may be replaced enters through one file; the scripts that made the
# miniature models may call it too.
DOORS = {
    "fasttext": ["corpora/filters/language_id.py", "corpora/miniature/*.py"],
    "sentence_transformers": [
        "corpora/filters/sentence_encoder.py",
        "corpora/miniature/*.py",
        "benchmarks/pooled_only.py",
    ],
    "deepspeed": ["distill/parallel/engine.py"],
    "bitsandbytes": ["distill/parallel/optimizers.py"],
    "open_clip": ["distill/encoders/open_clip_weights.py", "benchmarks/encoders.py"],
    "datatrove": ["corpora/executor/*.py"],
    "datasets": ["corpora/sources/hub.py", "benchmarks/loader.py"],
    "fsspec": ["corpora/sources/files.py"],
    "ctranslate2": ["corpora/captions/translator.py"],
    "ray": ["corpora/executor/on_ray.py"],
    "imwatermark": ["eval/paint/watermark.py"],
    "gradio": ["demo/page.py"],
}
# What loads other people's models and data sets, beside `from_pretrained`.
# `load_dataset_builder` knows no such argument: `datasets` runs no scripts since its version 4.
LOADERS = ("SentenceTransformer", "load_dataset")
UNPICKLERS = ["pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "pandas"]
HEAVY = [
    "torch",
    "transformers",
    "diffusers",
    "sentence_transformers",
    "deepspeed",
    "open_clip",
    "datatrove",
    "datasets",
    "matplotlib",
]


@cache
def tree(source: str) -> ast.Module:
    return ast.parse((ROOT / source).read_text(encoding="utf-8"))


def imports(source: str) -> Iterator[str]:
    """Every imported name in full: `from corpora import pair` gives `corpora.pair`."""
    for node in ast.walk(tree(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}:{node.lineno}: write imports in full, not relative"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def below(name: str, parents: list[str]) -> bool:
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


def module_name(source: str) -> str:
    return source.removesuffix(".py").removesuffix("/__main__").replace("/", ".")


def main_guard(source: str) -> str | None:
    """What stands below `if __name__ == "__main__":`."""
    guards = [
        node
        for node in ast.walk(tree(source))
        if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
    ]
    return "\n".join(ast.unparse(line) for line in guards[0].body) if guards else None


ENTRY_SOURCES = [
    source for source in SOURCES if source.endswith("__main__.py") or main_guard(source) is not None
]
ENTRIES = [module_name(source) for source in ENTRY_SOURCES]


def test_imports_go_one_way() -> None:
    wrong = [
        f"{source} imports {name}"
        for source in SOURCES
        for name in imports(source)
        if name.partition(".")[0] in TOP and not below(name, LAYERS[source.partition("/")[0]])
    ]
    assert not wrong and set(LAYERS) == set(TOP)


def test_a_heavy_library_enters_through_one_door() -> None:
    wrong = [
        f"{source} imports {name}"
        for source in SOURCES
        for name in imports(source)
        if name.partition(".")[0] in DOORS
        and not any(fnmatch(source, door) for door in DOORS[name.partition(".")[0]])
    ]
    assert not wrong


def test_no_source_imports_the_tests() -> None:
    testing = ["tests", "conftest", "pytest", "hypothesis"]
    assert not [
        f"{source} imports {name}"
        for source in SOURCES
        for name in imports(source)
        if below(name, testing)
    ]


def functions(source: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert node.end_lineno
    return node.end_lineno - node.lineno + 1


def test_files_and_functions_stay_small() -> None:
    lines = {
        source: len((ROOT / source).read_text(encoding="utf-8").splitlines()) for source in SOURCES
    }
    assert not [f"{source}: {count} lines" for source, count in lines.items() if count > 400]
    assert not [
        f"{source}: {node.name} has {length(node)} lines"
        for source in SOURCES
        for node in functions(source)
        if length(node) > 75
    ]


def test_no_line_has_more_than_100_columns() -> None:
    """Also those the linter passes over: long words, and lines that end in a `noqa` or `type:`."""
    assert not [
        f"{source}:{number}"
        for source in [*SOURCES, *TESTS]
        for number, line in enumerate((ROOT / source).read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > 100
    ]


def test_own_modules_are_imported_at_the_top() -> None:
    """But by a thin `__main__.py`, whose --help must answer at once, and where a library may be
    missing (Ray).
    """
    inside = {
        f"{source}:{node.lineno}"
        for source in SOURCES
        for function in functions(source)
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in TOP
    }
    assert len(inside) <= 30, sorted(inside)


def test_a_newcomer_sees_few_rooms() -> None:
    entries = {Path(source).relative_to("distill").parts[0] for source in SOURCES_OF["distill"]}
    assert len(entries) <= 19, sorted(entries)


def test_a_class_has_a_name_of_its_own() -> None:
    names = Counter(
        node.name
        for source in SOURCES
        for node in ast.walk(tree(source))
        if isinstance(node, ast.ClassDef)
    )
    assert not [name for name, count in names.items() if count > 1]


def test_imports_make_no_circle() -> None:
    """Neither between files nor between folders; a file that lies in a package's top folder stands
    for itself.
    """
    modules = {module_name(source).removesuffix(".__init__"): source for source in SOURCES}
    files = {
        source: {
            modules[name]
            for full in imports(source)
            if (name := full if full in modules else full.rpartition(".")[0]) in modules
        }
        for source in SOURCES
    }
    list(TopologicalSorter(files).static_order())  # raises CycleError, which names the circle

    def room(source: str) -> str:
        folder = Path(source).parent.as_posix()
        return folder if "/" in folder else source

    rooms: dict[str, set[str]] = {}
    for source, others in files.items():
        rooms.setdefault(room(source), set()).update(
            room(other) for other in others if room(other) != room(source)
        )
    list(TopologicalSorter(rooms).static_order())


def test_every_module_says_what_it_is_and_every_entry_how_to_run_it() -> None:
    documented = {
        source: ast.get_docstring(tree(source)) or "" for source in SOURCES if tree(source).body
    }
    assert not [source for source, text in documented.items() if not text]
    assert not [
        source
        for source in ENTRY_SOURCES
        if f"python -m {module_name(source)}" not in documented[source]
    ]
    assert not [
        source
        for source in SOURCES
        if Path(source).name in ("utils.py", "helpers.py", "common.py", "misc.py")
    ]


def test_no_path_of_one_machine() -> None:
    here = re.compile(r"""["'`( =]/(?:home|work|root|Users|mnt)/\w""")
    texts = [
        path
        for pattern in ("*.md", "*.toml", *EXAMPLES, ".ci/*", "Makefile")
        for path in ROOT.glob(pattern)
    ]
    texts += [ROOT / source for source in [*SOURCES, *TESTS]]
    assert not [
        f"{path.name}: {found[0]}"
        for path in texts
        if (found := here.search(path.read_text(encoding="utf-8")))
    ]


def test_every_package_is_installed() -> None:
    """A package that pyproject.toml does not name works in a checkout and is missing from an
    installation.
    """
    folders = {Path(source).parent.as_posix().replace("/", ".") for source in SOURCES}
    assert folders == set(PACKAGES)


def commands(text: str) -> set[str]:
    return set(re.findall(r"-m ((?:" + "|".join(TOP) + r")(?:\.\w+)*)", text))


def test_commands_that_are_written_down_exist() -> None:
    road = re.search(r"^ROAD := (.+)$", MAKEFILE, re.M)
    assert road, "the Makefile's ROAD is gone"
    written = {"Makefile": set(road[1].split()), "README.md": commands(README)}
    written |= {
        path.name: commands(path.read_text(encoding="utf-8"))
        for pattern in EXAMPLES
        for path in ROOT.glob(pattern)
    }
    written |= {source: commands(ast.get_docstring(tree(source)) or "") for source in SOURCES}
    assert not [
        f"{where}: python -m {name}"
        for where, names in written.items()
        for name in sorted(names - set(ENTRIES))
    ]


def test_recipes_and_targets_that_the_readme_names_exist() -> None:
    recipes = set(re.findall(r"configs/\w+\.yaml", README + MAKEFILE))
    assert recipes and not [name for name in recipes if not (ROOT / name).is_file()]
    targets = set(re.findall(r"^([\w-]+):", MAKEFILE, re.M))
    assert not set(re.findall(r"(?:`|^ *\$? ?)make ([\w-]+)", README, re.M)) - targets
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1] == "exec make test"


def test_a_wheel_holds_every_file_of_the_packages() -> None:
    """Not the code alone: recipes, templates, scripts, models."""
    tree = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    globs = tree["tool"]["setuptools"]["package-data"]
    packed = {
        path
        for package, patterns in globs.items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    files = subprocess.run(
        ["git", "ls-files", "-z", *TOP], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    others = {ROOT / name for name in files if name and not name.endswith(".py")}
    assert sorted(path for path in others - packed if path.exists()) == []


def test_every_room_is_on_the_map() -> None:
    """docs/layout.md: the import layers, then one line a folder (and a file beside rooms), its path
    in backticks first, then a phrase; the README names the packages at the top.
    """
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", LAYOUT, re.M)
    assert {top: re.findall(r"`([\w.]+)`", allowed) for top, allowed in rows} == LAYERS
    mapped = re.findall(r"^- `([\w./-]+)`(.*)$", LAYOUT, re.M)
    paths = [path for path, _ in mapped]
    assert not [path for path in paths if not (ROOT / path).exists()], "on the map, but gone"
    rooms = {package.replace(".", "/") for package in PACKAGES}
    assert not rooms - set(paths), "missing from the map"
    assert len(paths) == len(set(paths)), "named twice"
    assert not [path for path, phrase in mapped if len(re.findall(r"\w+", phrase)) < 2], (
        "named without a phrase"
    )
    assert not [top for top in TOP if f"| `{top}` |" not in README], (
        "missing from the README's table of folders"
    )


@pytest.mark.parametrize("source", ENTRY_SOURCES)
def test_help_answers_at_once(source: str, tmp_path: Path) -> None:
    # Asserted before it is run: an entry that reads no arguments would set to work here instead of
    # answering.
    assert main_guard(source) == "raise SystemExit(main())"
    calls = [
        ast.unparse(node.func) for node in ast.walk(tree(source)) if isinstance(node, ast.Call)
    ]
    assert any(
        call.endswith((".parse_args", ".parse_intermixed_args"))
        or call in ("command.run", "entry.run")
        for call in calls
    )
    entry = module_name(source)
    program = (
        "import runpy, sys\n"
        f"sys.argv = [{entry!r}, '--help']\n"
        "try:\n"
        f"    runpy.run_module({entry!r}, run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end:\n"
        f"    print('code:', end.code, 'loaded:', [name for name in {HEAVY!r} if name in "
        "sys.modules])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.startswith("usage: "), done.stderr
    made_once = source.startswith(
        ("corpora/miniature/", "benchmarks/")
    )  # what makes the miniature models and what measures need not be quick
    assert re.search(
        r"code: 0 loaded: .*\n$" if made_once else r"code: 0 loaded: \[\]\n$", done.stdout
    ), done.stdout + done.stderr


def calls(source: str) -> Iterator[tuple[str, ast.Call]]:
    """Every call, with the name or the attribute that is called."""
    for node in ast.walk(tree(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            yield node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id, node


def given(call: ast.Call, name: str) -> str | None:
    return next((ast.unparse(one.value) for one in call.keywords if one.arg == name), None)


def is_loading(call: ast.Call) -> bool:
    """Not `nn.Embedding.from_pretrained(tensor)`, nor a model of tensors or modules at hand."""
    at_hand = given(call, "state_dict") or given(call, "modules")
    return "Embedding" not in ast.unparse(call.func) and at_hand is None


def test_no_model_runs_code_and_none_is_unpickled() -> None:
    """Each call that loads what others made says so itself: a default of today may change."""
    wrong = []
    for source in SOURCES:
        for name, call in calls(source):
            where, kind = (
                f"{source}:{call.lineno}: {ast.unparse(call)[:80]}",
                ast.unparse(call.func),
            )
            loads = (name in LOADERS or name == "from_pretrained") and is_loading(call)
            if loads and given(call, "trust_remote_code") != "False":
                wrong.append(f"{where}: trust_remote_code=False is missing")
            weights = (
                name == "from_pretrained"
                and loads
                and not re.search("okenizer|rocessor|onfig", kind)
            )
            if weights and given(call, "use_safetensors") != "True":
                wrong.append(f"{where}: use_safetensors=True is missing")
            if (
                name == "SentenceTransformer"
                and loads
                and "use_safetensors" not in (given(call, "model_kwargs") or "")
            ):
                wrong.append(f"{where}: use_safetensors is missing")
            if kind == "torch.load" and given(call, "weights_only") != "True":
                wrong.append(f"{where}: weights_only=True is missing")
            if kind in ("np.load", "numpy.load") and given(call, "allow_pickle") != "False":
                wrong.append(f"{where}: allow_pickle=False is missing")
            if kind in (
                "eval",
                "exec",
                "compile",
                "__import__",
                "os.system",
                "yaml.unsafe_load",
                "yaml.full_load",
                "pipeline",
            ):
                wrong.append(where)
            if kind == "yaml.load" and ast.unparse(call.args[1]) != "_Loader":  # a SafeLoader
                wrong.append(where)
            if given(call, "shell") == "True":
                wrong.append(where)
        wrong += [f"{source} imports {name}" for name in imports(source) if below(name, UNPICKLERS)]
    assert not wrong


def tool(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_lint() -> None:
    tool("ruff", "check", ".")


def test_format() -> None:
    """100 columns; what the formatter leaves longer, strings and comments, the linter reports."""
    tool("ruff", "format", "--check", ".")


@pytest.mark.slow
def test_types() -> None:
    tool("mypy")
