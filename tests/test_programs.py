"""What docs/programs.md says of other programs, but for ComfyUI (tests/comfyui)."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import exports
import original_layout
import pytest
import torch

from configs.references import TOYWORLD_MODELS

DOCUMENT = exports.ROOT / "docs" / "programs.md"
PACK = exports.ROOT / "comfyui"
PROMPTS = ["白い背景に、大きい青い四角の左に小さい赤い丸がある", "a red circle", ""]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exports.toyworld_base(tmp_path_factory.mktemp("run"))


def states(pipeline: Any, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        found, _, pooled, _ = pipeline.encode_prompt(
            prompts, device="cpu", do_classifier_free_guidance=False
        )
    return found, pooled


def test_the_snippet_puts_our_encoders_under_any_single_file(base: Path, tmp_path: Path) -> None:
    english = TOYWORLD_MODELS / "base"
    original_layout.write(english, tmp_path / "FILE.safetensors", "base")
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.S)
    code = code.replace("FILE.safetensors", str(tmp_path / "FILE.safetensors"))
    given: dict[str, Any] = {}
    exec(code.replace("runs/toyworld/export/base", str(base)), given)
    pipeline, ours = given["pipeline"], given["ours"]
    for mine, theirs in zip(states(pipeline, PROMPTS), states(ours, PROMPTS), strict=True):
        assert torch.equal(mine, theirs)
    stored = type(ours).from_pretrained(english).unet.state_dict()
    assert all(torch.equal(one, stored[name]) for name, one in pipeline.unet.state_dict().items())


def test_compel_gives_the_pipelines_own_states(base: Path) -> None:
    compel = pytest.importorskip("compel", reason="compel is not installed")
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(base)
    found = compel.CompelForSDXL(pipeline)(PROMPTS[0], negative_prompt=PROMPTS[1])
    mine = (
        (found.embeds, found.pooled_embeds),
        (found.negative_embeds, found.negative_pooled_embeds),
    )
    for prompt, ours in zip(PROMPTS, mine, strict=False):
        wanted = states(pipeline, [prompt])  # alone: a batch may add in another order
        assert all(torch.equal(*pair) for pair in zip(ours, wanted, strict=True))


def test_both_readmes_of_the_pack_say_the_same() -> None:
    texts = [(PACK / name).read_text(encoding="utf-8") for name in ("README.md", "README.ja.md")]
    english, japanese = (Counter(re.findall(r"`([^`]+)`", text)) for text in texts)
    assert english == japanese
    numbers = [Counter(re.findall(r"\d+(?:\.\d+)*", text)) for text in texts]
    assert numbers[0] == numbers[1]
    assert all(len(line) <= 110 for text in texts for line in text.splitlines())
