"""Makes fuzzed inputs and feeds them to the project's own functions, in a process of the fork
server.

Out, in the working folder: `problems.jsonl`, one line for every input that failed; `at`, the number
of the current input.
"""

import contextlib
import io
import json
import random
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from configs.errors import DataError, RecipeError, SetupError
from tests.faults import verdict
from tests.faults.client import ROOT, Ended
from tests.faults.mutate import mutated_bytes, mutated_json, mutated_text
from tests.faults.server import entry_point

Feed = Callable[[random.Random], str]


class TooLongError(Exception):
    """An input took longer than its limit."""


def main(argv: list[str]) -> int:
    kind, seed, count, limit = argv[0], argv[1], int(argv[2]), float(argv[3])
    signal.signal(signal.SIGALRM, _too_long)
    with open("problems.jsonl", "w", encoding="utf-8") as problems:
        for number in range(count):
            Path("at").write_text(str(number))
            problem, detail = _feed(KINDS[kind], random.Random(f"{seed}/{number}"), limit)
            if problem:
                problems.write(
                    json.dumps({"number": number, "problem": problem, "detail": detail[:1500]})
                    + "\n"
                )
                problems.flush()
    return 0


def _too_long(_number: int, _frame: FrameType | None) -> None:
    raise TooLongError


def _feed(feed: Feed, rng: random.Random, limit: float) -> tuple[str, str]:
    """What is wrong with the treatment of one input, and the details; two empty texts where nothing
    is.
    """
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        return feed(rng), ""
    except (RecipeError, DataError, SetupError) as error:
        from configs.errors import one_line

        return verdict.unclear(one_line(error)), one_line(error, 300)
    except TooLongError:
        return "hung", traceback.format_exc()[-600:]
    except _Unclear as error:
        return error.problem, error.detail
    except BaseException as error:
        if (cause := _of_system(error)) is not None:
            return verdict.unclear(cause), cause
        return "traceback", traceback.format_exc()[-1000:]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _of_system(error: BaseException) -> str | None:
    """The line `command.guard` makes of a refusal by the operating system."""
    from configs.errors import cause_of_system, of_system, one_line

    cause = cause_of_system(error)
    return one_line(of_system(cause)) if cause else None


class _Unclear(Exception):
    def __init__(self, problem: str, detail: str) -> None:
        super().__init__(problem)
        self.problem, self.detail = problem, detail


def recipe(rng: random.Random) -> str:
    from configs.schema.load import load_recipe

    text = (ROOT / "configs" / rng.choice(["toyworld.yaml", "sdxl_jp.yaml"])).read_text(
        encoding="utf-8"
    )
    Path("fuzzed.yaml").write_bytes(mutated_text(text, rng).encode("utf-8", "surrogatepass"))
    load_recipe("fuzzed.yaml")
    return ""


def override(rng: random.Random) -> str:
    from configs.schema.load import load_recipe

    keys = [
        "distill.steps",
        "distill.objective",
        "corpora.sources.0.path",
        "corpora.sources",
        "eval.unets",
        "captions.images",
        "run",
        "distill",
    ]
    values = [
        "1",
        "{}",
        "[1, 2]",
        "null",
        "nan",
        "1e999",
        "'x'",
        "{kind: tsv}",
        "&a [*a]",
        "!!python/object:os.system x",
        "toyworld:../x",
        "9" * 400,
    ]
    words = [
        mutated_text(f"{rng.choice(keys)}={rng.choice(values)}", rng)
        for _ in range(rng.randint(1, 3))
    ]
    load_recipe(ROOT / "configs" / "toyworld.yaml", words)
    return ""


def corpus(rng: random.Random) -> str:
    """A damaged file of one source, read to its end."""
    from corpora import sources
    from tests.faults.corpus_files import make

    corpora = make(
        Path("corpus"), rng, lambda path: path.write_bytes(mutated_bytes(path.read_bytes(), rng))
    )
    sources.inputs(corpora)
    for part in sources.plan(corpora):
        for _ in sources.read(corpora.sources[part.source], part):
            pass
    return ""


# Which light commands read a JSON file of a finished run; the first pattern that is in its name
# decides.
READERS = {
    "pairs/": ("corpora.prepare", "distill.tokens"),
    "tokens/": ("distill.tokens",),
    "initial_student/": ("vocab_init", "distill.tokens"),
    "checkpoints/": ("distill.export",),
    "export/": ("distill.export", "distill.model_card"),
    "eval/": ("eval.summary", "distill.model_card"),
    "teacher/": ("distill.plan", "distill.tokens"),
    "distill/": ("distill.export", "eval.summary"),
    "": ("eval.summary",),
}


def json_file(rng: random.Random) -> str:
    """A damaged JSON file of a finished run, read by a command."""
    paths = sorted(
        path
        for path in [
            *Path("run").rglob("*.json"),
            *Path("run").rglob("*.jsonl"),
            *Path("teacher").rglob("config.json"),
        ]
    )
    path = rng.choice(paths)
    original = path.read_bytes()
    path.unlink()  # never through a hard link
    path.write_bytes(mutated_json(original, rng))
    entry = rng.choice(
        next(entries for part, entries in READERS.items() if part in path.as_posix())
    )
    out = io.StringIO()
    try:
        main = entry_point(entry)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            code = main(["recipe.yaml"])
    except TooLongError:
        raise
    except BaseException:
        raise _Unclear(
            "traceback", f"{path} read by {entry}: {traceback.format_exc()[-1000:]}"
        ) from None
    finally:
        path.write_bytes(original)
    if code and (problem := verdict.problem(Ended(code, False, False, 0, out.getvalue()))):
        raise _Unclear(problem, f"{path} read by {entry}: {out.getvalue()[-500:]}")
    return ""


def prompt(rng: random.Random) -> str:
    """A prompt as it goes into a PNG and comes out of it, a damaged PNG, or a damaged command
    line.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from eval.paint import __main__ as paint_entry
    from eval.paint import picture_text, request

    text = mutated_text("a red circle, 赤い丸\nSteps: 3, Sampler: x\nNegative prompt: y", rng)
    how = rng.randrange(4)
    if how == 0:
        Path("prompts.txt").write_bytes(mutated_bytes(text.encode("utf-8", "surrogatepass"), rng))
        request.read_prompts(Path("prompts.txt"))
    elif how == 1:
        request.check(
            request.Request(
                repository=text,
                prompts=(text,),
                steps=rng.randint(-2, 9),
                height=rng.choice([None, 0, 7, 64]),
                scheduler=text,
            )
        )
    elif how == 2:
        words = [
            "run/none",
            "--prompt",
            text,
            "--steps",
            mutated_text("30", rng),
            "--width",
            mutated_text("64", rng),
            "--out",
            "painted",
        ]
        return _command(paint_entry.main, words)
    else:
        info = PngInfo()
        for name in (picture_text.PARAMETERS, picture_text.JSON):
            info.add_itxt(name, mutated_text('{"a": 1}', rng).encode("utf-8", "replace").decode())
        Image.new("RGB", (8, 8)).save("picture.png", pnginfo=info)
        Path("picture.png").write_bytes(mutated_bytes(Path("picture.png").read_bytes(), rng))
        return _command(paint_entry.main, ["--show", "picture.png"])
    return ""


def _command(main: Callable[[list[str]], int], words: list[str]) -> str:
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            code = main(words)
    except SystemExit as end:  # argparse's own refusal
        code = end.code if isinstance(end.code, int) else 1
    if code and (problem := verdict.problem(Ended(code, False, False, 0, out.getvalue()))):
        raise _Unclear(problem, f"{words}: {out.getvalue()[-500:]}")
    return ""


KINDS: dict[str, Feed] = {
    "recipe": recipe,
    "override": override,
    "corpus": corpus,
    "json": json_file,
    "prompt": prompt,
}
