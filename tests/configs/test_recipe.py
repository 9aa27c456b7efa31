"""The recipe and the command line: every shipped recipe loads; whatever else is written is one
clear line, never a traceback.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import command
from configs.errors import DataError, Preempted, RecipeError, SetupError
from configs.references import looks_like_hub_name
from configs.schema import yaml12
from configs.schema.load import dump_recipe, load_recipe
from configs.schema.recipe import Recipe
from configs.schema.sources import TsvSource

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "configs").glob("*.yaml"))
TOYWORLD = ROOT / "configs" / "toyworld.yaml"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_load_and_open_with_commands_time_and_result(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem and recipe.run_dir == Path("runs") / path.stem
    opening = re.split(r"\n(?:name|like):", path.read_text(encoding="utf-8"))[0]
    assert all(line.startswith("#") or not line for line in opening.splitlines())
    assert (
        f"python -m corpora.prepare configs/{path.name}" in opening
        and "# Time:" in opening
        and "# Result:" in opening
    )


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_dump_reads_back_equal(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(
        path, ["distill.learning_rate=1e-05", 'name="1e3"', "run=no"]
    )  # texts that YAML dialects fight over
    copy = tmp_path / "config.yaml"
    copy.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(copy) == recipe


def test_a_recipe_like_another_holds_what_differs(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    own, other = tmp_path / "own.yaml", tmp_path / "other" / "first.yaml"
    other.write_text(f"like: {TOYWORLD}\nname: first\ndistill: {{steps: 900, seed: 4}}\n")
    own.write_text(
        "like: other/first.yaml\nname: own\ncaptions: null\n"
        "distill: {seed: 5, objective: {position: 1.0}}\n"
        "corpora: {sources: [{kind: toyworld, pairs: 7, held_out_pairs: 2}]}\n"
    )
    found, toyworld = load_recipe(own, ["distill.batch_size=8"]), load_recipe(TOYWORLD)
    assert (found.name, found.captions, found.run) == ("own", None, toyworld.run)
    assert (found.distill.steps, found.distill.seed, found.distill.batch_size) == (900, 5, 8)
    assert found.distill.objective.position == found.distill.objective.cross_attention == 1.0
    assert found.distill.query_bank == toyworld.distill.query_bank
    assert [source.pairs for source in found.corpora.sources] == [7]
    assert "like" not in dump_recipe(found)


@pytest.mark.parametrize(
    ("like", "complaint"),
    [
        ("none.yaml", "own.yaml: like: the recipe cannot be read"),
        ("own.yaml", "like: own.yaml is like this one itself"),
        ("back.yaml", "like: own.yaml is like this one itself"),
        ("[a, b]", "like: ['a', 'b'] is no file"),
        ("list.yaml", "a recipe is a mapping of sections"),
    ],
)
def test_a_recipe_like_no_other_is_one_line(like: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(f"like: {like}\nname: own\n")
    (tmp_path / "back.yaml").write_text("like: own.yaml\n")
    (tmp_path / "list.yaml").write_text("[1, 2]\n")
    with pytest.raises(RecipeError) as error:
        load_recipe(tmp_path / "own.yaml")
    assert complaint in str(error.value) and "\n" not in str(error.value)


def test_the_reference_numbers_stand_in_the_reference_recipe() -> None:
    recipe = load_recipe(ROOT / "configs" / "sdxl_jp.yaml")
    kept = 28_155_494 + 13_221_368
    assert (
        recipe.distill.steps == (kept - recipe.corpora.held_out_pairs) // recipe.distill.batch_size
    )  # one epoch
    assert (
        recipe.vocab_init.sentence_encoder == "intfloat/multilingual-e5-large"
        and recipe.vocab_init.prompt == "query: "
    )


def test_a_folder_called_like_an_organisation_hides_no_hub_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someorg" / "here").mkdir(parents=True)
    names = ("someorg/name", "other/name", "someorg/here", "./name", "/name", "name", "a/b/c", "a/")
    assert [looks_like_hub_name(name) for name in names] == [True, True] + 6 * [False]


def test_a_console_that_cannot_show_a_character(tmp_path: Path) -> None:
    """Code page 932 has no emoji: in what is printed, in an error and in `--help`."""
    script = (
        "from configs import command\n"
        "def body():\n"
        "    parser = command.parser('x', 'a description with 👩')\n"
        "    parser.add_argument('--a', type=int)\n"
        "    recipe = parser.parse_intermixed_args().recipe\n"
        "    print('丸', recipe)\n"
        "    raise OSError(5, '👩')\n"
        "raise SystemExit(command.guard('x', body))"
    )
    environment = os.environ | {"PYTHONIOENCODING": "cp932"}
    for word, code in (("👩", 4), ("--help", 0), ("--a=👩", 2)):
        done = subprocess.run(
            [sys.executable, "-c", script, word], cwd=ROOT, env=environment, capture_output=True
        )
        assert done.returncode == code and b"Traceback" not in done.stderr, done.stderr
        assert "\\U0001f469" in (done.stdout + done.stderr).decode("cp932")


@pytest.mark.parametrize(
    "entry", ["corpora.inspect", "vocab_init", "distill.plan", "eval.paint", "benchmarks.loader"]
)
def test_the_users_folder_does_not_hide_the_projects_packages(entry: str, tmp_path: Path) -> None:
    """As installed: the packages lie elsewhere on the path, behind the current folder."""
    siblings = {"configs", "corpora", "distill", "eval", "vocab_init"} - {entry.partition(".")[0]}
    for name in siblings:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong package')")
    words = [TOYWORLD] if entry == "distill.plan" else ["--help"]
    done = subprocess.run(
        [sys.executable, "-m", entry, *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_overrides_reach_into_sections_and_lists() -> None:
    overrides = [
        "distill.learning_rate=3e-4",
        "corpora.sources.0.pairs=7",
        "distill.betas=[0.8, 0.9]",
        "export.encoders_only=true",
    ]
    recipe = load_recipe(TOYWORLD, overrides)
    assert recipe.distill.learning_rate == 3e-4
    assert recipe.corpora.sources[0].pairs == 7  # type: ignore[union-attr]
    assert recipe.distill.betas == (0.8, 0.9) and recipe.export.encoders_only


BAD_OVERRIDES = [
    (
        "distill.learning_rat=1",
        "distill.learning_rat: there is no such key (its value is 1); did you mean "
        "'learning_rate'?",
    ),
    (
        "qqqq=1",
        "qqqq: there is no such key (its value is 1); the keys are name, run, language, captions, "
        "corpora, vocab_init, distill, export, eval, pictures",
    ),
    (
        "corpora.sources.0.pair=1",
        "corpora.sources.0.pair: there is no such key (its value is 1); did you mean 'pairs'?",
    ),
    (
        "distill.steps=many",
        "distill.steps: Input should be a valid integer, not 'many'; correct the value",
    ),
    (
        "distill.steps=1.0",
        "distill.steps: Input should be a valid integer, not 1.0; correct the value",
    ),
    ("distill.steps=0", "distill.steps: Input should be greater than 0, not 0; correct the value"),
    (
        "distill.steps=true",
        "distill.steps: Input should be a valid integer, not True; correct the value",
    ),
    (
        "distill.learning_rate=1e999",
        "distill.learning_rate: Input should be a finite number, not inf; correct the value",
    ),
    (
        "export.encoders_only=no",
        "export.encoders_only: Input should be a valid boolean, not 'no'; correct the value",
    ),
    (
        "distill.objective=mse",
        "distill.objective: Input should be a valid dictionary or instance of Objective, not "
        "'mse'; correct the value",
    ),
    (
        "distill.objective={pooled: 0}",
        "distill.objective: every weight is 0, so nothing would be learnt; change one of them",
    ),
    (
        "distill.objective.position=-1",
        "distill.objective.position: Input should be greater than or equal to 0, not -1",
    ),
    (
        "distill.objective.set=1",
        "distill.objective.set: there is no such key (its value is 1); the keys are position, "
        "cross_attention, random_attention, pooled",
    ),
    ("distill.objective.position={start: 1}", "distill.objective.position: "),
    ("distill.betas=[0.9]", "distill.betas.1: missing, and it has no default; add it"),
    (
        "distill.warmup_steps=6500",
        "distill.warmup_steps (6500) must be below distill.steps (6500); change one of them",
    ),
    (
        "distill.steps",
        "override 'distill.steps': write it as section.key=value, for example distill.steps=100",
    ),
    (
        "distill.steps.x=1",
        "override 'distill.steps.x=1': distill.steps holds a single value, it has no key 'x'; "
        "override distill.steps itself",
    ),
    (
        "name.x.y=1",
        "override 'name.x.y': 'x' lies below a single value; see the recipe for the keys there are",
    ),
    (
        "corpora.near_duplicates.ngram=3",
        "override 'corpora.near_duplicates.ngram=3': the recipe has nothing at 'near_duplicates'",
    ),
    (
        "corpora.sources.9.pairs=1",
        "override 'corpora.sources.9.pairs': '9' is not one of the 1 entries there; count them "
        "from 0",
    ),
    (
        "corpora.sources.²=1",
        "override 'corpora.sources.²': '²' is not one of the 1 entries there; count them from 0",
    ),
    (
        "corpora.sources=[]",
        "corpora.sources: List should have at least 1 item after validation, not 0, not []; "
        "correct the value",
    ),
    (
        "distill.steps=[1",
        "override 'distill.steps=[1': not valid YAML at line 1: expected ',' or ']'",
    ),
    (
        "distill.steps=2001-99-99",
        "override 'distill.steps=2001-99-99': not valid YAML: month must be in 1..12; correct that "
        "line",
    ),
    ("a\nb=1", "a b: there is no such key"),
]


@pytest.mark.parametrize(
    ("override", "line"), BAD_OVERRIDES, ids=[override for override, _ in BAD_OVERRIDES]
)
def test_a_bad_override_says_field_value_and_way_out(override: str, line: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(TOYWORLD, [override])
    assert line in str(error.value) and len(str(error.value).splitlines()) == 1


def test_a_bad_file_source_names_the_key_the_user_wrote() -> None:
    with pytest.raises(RecipeError, match=r"corpora\.sources\.0\.text: .* not \[1\]"):
        load_recipe(ROOT / "configs" / "sdxl_jp.yaml", ["corpora.sources.0.text=[1]"])
    with pytest.raises(RecipeError, match=r"sources\.0\.ja: there is no such .* write 'text'$"):
        load_recipe(ROOT / "configs" / "sdxl_jp.yaml", ["corpora.sources.0.ja=0"])
    with pytest.raises(RecipeError, match=r"sources\.5\.ja_member: .* write 'text_member'$"):
        load_recipe(ROOT / "configs" / "sdxl_jp.yaml", ["corpora.sources.5.ja_member=a"])
    with pytest.raises(RecipeError, match=r"corpora\.sources\.0\.licenc: .*did you mean 'licence'"):
        load_recipe(ROOT / "configs" / "sdxl_jp.yaml", ["corpora.sources.0.licenc=x"])


BAD_FILES = [
    ("name: [", "not valid YAML at line 1"),
    ("name: a\nname: b\n", "the key 'name' stands twice"),
    ("- 1\n", "a recipe is a mapping of sections, this file holds list"),
    ("", "a recipe is a mapping of sections, this file holds NoneType"),
    ("name: x\n", "run: missing, and it has no default; add it (3 more after this one)"),
    ("name: \x00\n", "not valid YAML"),
]


@pytest.mark.parametrize(("text", "line"), BAD_FILES, ids=[line for _, line in BAD_FILES])
def test_a_bad_file_is_one_line(text: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert (
        line in str(error.value)
        and str(path) in str(error.value)
        and len(str(error.value).splitlines()) == 1
    )


@pytest.mark.parametrize("case", ["missing", "folder", "not_utf8"])
def test_an_unreadable_file_is_one_line(case: str, tmp_path: Path) -> None:
    path = tmp_path / case
    if case == "folder":
        path.mkdir()
    if case == "not_utf8":
        path.write_bytes(b"name: \xff\n")
    with pytest.raises(
        RecipeError,
        match=r"the recipe cannot be read .* give the path of a YAML file such as "
        r"configs/toyworld.yaml",
    ):
        load_recipe(path)


KEYS = st.sampled_from(
    [
        "distill",
        "steps",
        "corpora",
        "sources",
        "0",
        "kind",
        "betas",
        "export",
        "query_bank",
        "name",
        "near_duplicates",
        "x",
        "",
        "²",
    ]
)
YAML_EDGES = st.sampled_from(
    [
        "",
        "~",
        "{}",
        "[]",
        "&a [*a]",
        "*a",
        "1e999",
        "!!int ''",
        "!!python/none",
        "0x_",
        "2001-99-99",
        "{a: 1, a: 2}",
        "? [a]",
        "[" * 500,
    ]
)
OVERRIDES = st.one_of(
    st.text(),
    st.builds(
        "{}={}".format,
        st.lists(KEYS, min_size=1, max_size=4).map(".".join),
        st.one_of(YAML_EDGES, st.text(), st.integers().map(str)),
    ),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(OVERRIDES, max_size=2))
def test_no_override_gives_anything_but_a_recipe_or_one_line(overrides: list[str]) -> None:
    try:
        recipe = load_recipe(TOYWORLD, overrides)
    except RecipeError as error:
        assert len(str(error).splitlines()) == 1 and str(error)
    else:
        assert Recipe.model_validate(yaml12.read(dump_recipe(recipe))) == recipe


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)


@settings(deadline=None)
@given(
    st.recursive(
        LEAVES, lambda tree: st.lists(tree) | st.dictionaries(st.text(), tree), max_leaves=8
    )
)
def test_yaml_reads_back_what_it_wrote(tree: object) -> None:
    assert yaml12.read(yaml12.write(tree)) == tree


def plan(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "distill.plan", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["configs/none.yaml"],
        ["README.md"],
        ["configs/toyworld.yaml", "distill.step=1"],
        ["configs/toyworld.yaml", "distill"],
    ],
    ids=" ".join,
)
def test_an_entry_answers_a_bad_recipe_with_one_line_and_code_2(arguments: list[str]) -> None:
    done = plan(*arguments)
    assert done.returncode == 2 and not done.stdout
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("distill.plan: ")


def test_an_entry_refuses_a_misspelt_flag() -> None:
    done = plan("configs/toyworld.yaml", "--gpu", "2")
    assert (
        done.returncode == 2
        and "unrecognized arguments: --gpu" in done.stderr
        and "Traceback" not in done.stderr
    )


@pytest.mark.parametrize(
    ("error", "code"),
    [(RecipeError, 2), (DataError, 3), (SetupError, 4), (Preempted, 75), (KeyboardInterrupt, 130)],
)
def test_each_known_error_has_its_exit_code(
    error: type[BaseException], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def stage(_: Recipe) -> None:
        raise error("what, which value, what to do")

    assert command.run("corpora.prepare", "", stage, [str(TOYWORLD)]) == code
    assert re.fullmatch(r"corpora\.prepare: .+\n", capsys.readouterr().err)


def test_a_bug_keeps_its_traceback() -> None:
    def stage(_: Recipe) -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        command.run("corpora.prepare", "", stage, [str(TOYWORLD)])


def test_a_stage_leaves_its_seconds_in_the_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [str(TOYWORLD), f"run={tmp_path}"]
    assert command.run("corpora.prepare", "", lambda recipe: None, arguments) == 0
    monkeypatch.setenv("RANK", "1")  # another rank of the same launch stays silent
    assert command.run("corpora.prepare", "", lambda recipe: None, arguments) == 0
    assert re.fullmatch(
        r'\{"stage": "corpora.prepare", "seconds": [0-9.]+\}\n',
        (tmp_path / "stages.jsonl").read_text(),
    )


def test_a_home_folder_is_written_out_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "recipe.yaml"
    path.write_text(TOYWORLD.read_text(encoding="utf-8"), encoding="utf-8")
    overrides = [
        "run=~/runs/x",
        "corpora.sources=[{kind: tsv, name: t, licence: CC0, path: ~/a b/*.tsv, member: '~'}]",
        "corpora.language_id.model=~/lid.ftz",
        "distill.base=~/sdxl",
        "eval.repositories={ours: ~/ours, theirs: org/name}",
        "vocab_init.prompt='query: ~/'",
    ]
    recipe = load_recipe("~/recipe.yaml", overrides)
    assert recipe.run_dir == tmp_path / "runs" / "x"
    source = recipe.corpora.sources[0]
    assert (
        isinstance(source, TsvSource)
        and source.path == f"{tmp_path}/a b/*.tsv"
        and source.member == "~"
    )
    assert (
        recipe.corpora.language_id.model == f"{tmp_path}/lid.ftz"
        and recipe.distill.base == f"{tmp_path}/sdxl"
    )
    assert (
        recipe.eval.repositories == {"ours": f"{tmp_path}/ours", "theirs": "org/name"}
        and recipe.vocab_init.prompt == "query: ~/"
    )
    with pytest.raises(RecipeError, match="'~nobody-of-that-name/x': the home folder is not known"):
        load_recipe(path, ["run=~nobody-of-that-name/x"])
