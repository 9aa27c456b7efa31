"""What CONTRIBUTING.md says of adding an objective, a source, a language or a family is all there
is to it: each is added to a copy of the code, in the files named there and in no other, and used.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("configs", "corpora", "distill", "vocab_init", "eval")
# of each file the lines after which something is added, and what; "" is a new file
Additions = dict[str, list[tuple[str, str]]]

OBJECTIVE: Additions = {
    "configs/schema/distill.py": [
        (
            'a term of weight 0 is not computed."""\n',
            '\n    pooled_l1: Scheduled = Field(0.0, description="its absolute error")\n',
        )
    ],
    "distill/objective/distances.py": [
        (
            "RELATIVE_VARIANCE_FLOOR = 1e-4\n",
            "\n\ndef absolute_error_sum(one_BP: torch.Tensor, other_BP: torch.Tensor)"
            " -> torch.Tensor:\n    return (one_BP - other_BP).abs().mean(dim=1).sum()\n",
        )
    ],
    "distill/objective/terms.py": [
        (
            "        sums: dict[str, Callable[[], torch.Tensor]] = {\n",
            '            "pooled_l1": lambda: distances.absolute_error_sum(\n'
            "                sides.student.pooled_BP, sides.teacher.pooled_BP\n            ),\n",
        )
    ],
    "distill/model_card/model_card.py": [
        ("OBJECTIVES = {\n", '    "pooled_l1": "the pooled state is near the teacher\'s",\n')
    ],
}
USE_OBJECTIVE = """
import torch
from configs.schema.load import load_recipe
from distill.encoders.teacher import Encoding
from distill.objective.terms import GlobalCounts, Loss, Sides
recipe = load_recipe("configs/toyworld.yaml", ["distill.objective={pooled: 0, pooled_l1: 2}"])
assert str(recipe.distill.objective) == "2 pooled_l1"
one, other = (Encoding({"clip_l": torch.zeros(3, 77, 4)}, value * torch.ones(3, 5))
              for value in (1.0, 1.5))
eos = torch.full((3,), 4)
sides = Sides(one, other, eos, {"clip_l": eos}, torch.zeros(3))
counts = GlobalCounts.of({"clip_l": eos.numpy()}, 77)
terms = Loss(recipe.distill, None, [], []).terms(sides, counts, step=0)
assert set(terms) == {"loss/pooled_l1", "loss/total"}
assert terms["loss/total"] == 2 * terms["loss/pooled_l1"] == 1.0
"""

SOURCE: Additions = {
    "configs/schema/sources.py": [
        (
            "    name: str\n    licence: str\n",
            '\n\nclass PipesSource(FileSource):\n    kind: Literal["pipes"]\n    path: Path\n',
        ),
        ("PairSource = (\n    TsvSource", " | PipesSource"),
        ("        TsvSource,\n", "        PipesSource,\n"),
    ],
    "corpora/sources/pipes.py": [
        (
            "",
            "from pathlib import Path\n\nfrom corpora.sources.part import Part\n\n\n"
            "def plan(source, number, path, first_row):\n"
            "    rows = len(Path(path).read_text('utf-8').splitlines())\n"
            "    yield Part(number, (path,), (0,), (rows,), first_row, rows)\n\n\n"
            "def read(source, part):\n"
            "    lines = Path(part.paths[0]).read_bytes().splitlines()\n"
            "    return (tuple(line.split(b'|')) for line in lines)\n",
        )
    ],
    "corpora/sources/__init__.py": [
        ("from corpora.sources import (\n", "    pipes,\n"),
        ("    ParquetSource,\n", "    PipesSource,\n"),
        (
            "        yield from hub.plan(source, number)\n",
            "    elif isinstance(source, PipesSource):\n"
            "        yield from pipes.plan(source, number, paths[0], first_row)\n",
        ),
        (
            "        return hub.read(source, part)\n",
            "    if isinstance(source, PipesSource):\n        return pipes.read(source, part)\n",
        ),
    ],
}
USE_SOURCE = """
from pathlib import Path
from configs.schema.load import load_recipe
from corpora import sources
Path("rows.txt").write_text("赤い丸|a red circle\\n青い星|a blue star\\n", encoding="utf-8")
one = "[{kind: pipes, name: mine, licence: CC0-1.0, path: rows.txt}]"
corpora = load_recipe("configs/toyworld.yaml", [f"corpora.sources={one}"]).corpora
(part,) = sources.plan(corpora)
(batch,) = sources.read(corpora.sources[0], part)
assert batch.text == ["赤い丸", "青い星"] and batch.en == ["a red circle", "a blue star"]
assert [one.path for one in sources.inputs(corpora)] == ["rows.txt"]
"""

LANGUAGE: Additions = {
    "configs/languages.py": [
        (
            "LANGUAGES = {one.code: one for one in (JAPANESE, KOREAN)}\n",
            'LANGUAGES["el"] = Language(\n    "el", "Greek", "\\u0370-\\u03ff", "Greek letter", '
            '"el", "ell_Grek", "el", ("el", "greek"), ("κόκκινος κύκλος", ""),\n)\n',
        )
    ]
}
USE_LANGUAGE = """
from configs.schema.load import load_recipe
from corpora.filters import language_id, rules
filters = load_recipe("configs/toyworld.yaml", ["language=el"]).corpora.filters
assert rules.drop_reason("ένας κόκκινος κύκλος", "a red circle", filters) is None
assert rules.drop_reason("赤い丸がここにある", "a red circle", filters) == "no_greek_script"
assert len(language_id.REASONS["el"]) == 3
"""


FAMILY: Additions = {
    "distill/encoders/family.py": [
        (
            "FAMILIES = (SDXL, SD)\n",
            'FAMILIES += (\n    Family(\n        name="Tiny", title="Tiny Diffusion", tag="tiny",\n'
            '        parts={"text": EncoderPart("text_encoder", "tokenizer", "CLIPTextModel",\n'
            '            "text", states="penultimate", pooled=False)},\n'
            '        readers={"base": ("text",)}, pipelines=("TinyPipeline", "TinyOther"),\n'
            "        guidance_scales=(5.0, 5.0), watermark=None, published=(), paper='x',\n"
            "    ),\n)\n",
        )
    ]
}
USE_FAMILY = """
import json
from pathlib import Path
import torch
from transformers import CLIPTextConfig, CLIPTextModel
from configs.schema.load import load_recipe
from distill.encoders.tower import tower_of
from distill.sdxl.base import settled
Path("base").mkdir()
index = {"_class_name": "TinyPipeline", "text_encoder": ["transformers", "CLIPTextModel"]}
Path("base/model_index.json").write_text(json.dumps(index))
settings = ["distill.base=base", "distill.refiner=null", "distill.objective={position: 1}"]
recipe, family = settled(load_recipe("configs/toyworld.yaml", settings))
assert family.name == "Tiny" and not recipe.distill.objective.uses("pooled")
sizes = dict(hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)
model = CLIPTextModel(CLIPTextConfig(vocab_size=50, max_position_embeddings=9, **sizes)).eval()
tower = tower_of(model, family.parts["text"].states)
ids = torch.arange(18).view(2, 9)
expected = model(ids, output_hidden_states=True).hidden_states[-2]
states, pooled = tower(ids, torch.tensor([8, 8]))
assert pooled is None and torch.allclose(states, expected, atol=1e-6)
"""


def added_to_a_copy(additions: Additions, folder: Path) -> Path:
    """Of the packages' Python files and recipes."""
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package,
            folder / package,
            ignore=shutil.ignore_patterns("__pycache__", "models"),
        )
    (folder / "corpora" / "toyworld" / "models").symlink_to(
        ROOT / "corpora" / "toyworld" / "models"
    )
    for name, insertions in additions.items():
        path = folder / name
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for anchor, lines in insertions:
            assert not anchor or text.count(anchor) == 1, f"{name}: {anchor!r}"
            text = text.replace(anchor, anchor + lines) if anchor else lines
        path.write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("what", "additions", "use"),
    [
        ("an objective", OBJECTIVE, USE_OBJECTIVE),
        ("a corpus source", SOURCE, USE_SOURCE),
        ("a language", LANGUAGE, USE_LANGUAGE),
        ("a model family", FAMILY, USE_FAMILY),
    ],
)
def test_adding_touches_the_files_that_the_guide_names(
    what: str, additions: Additions, use: str, tmp_path: Path
) -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = guide.partition(f"## Adding {what}\n")[2].partition("\n## ")[0]
    named = re.findall(r"^\d\. \[?`([^`]+)`", section, re.MULTILINE)
    assert 0 < len(re.findall(r"^\d\. ", section, re.MULTILINE)) <= 4
    assert all(any(name.startswith(one) for one in named) for name in additions)
    copy = added_to_a_copy(additions, tmp_path)
    ended = subprocess.run(
        [sys.executable, "-c", use],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
