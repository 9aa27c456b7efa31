"""Real pairs, a real Japanese vocabulary and CLIP's: how many words of the gold list are right."""

import time
from pathlib import Path

import pytest
from conftest import write_pairs
from transformers import AutoTokenizer

from configs.schema.load import load_recipe
from distill.tokenizer import portable
from distill.unpack import vocabulary as clip_vocabulary
from vocab_init import gold, material, methods
from vocab_init.transplant import Teacher

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
SPECIAL = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}


@pytest.mark.full_size
def test_real_pairs_translate_the_gold_list(tmp_path: Path) -> None:
    """CLIP's vocabulary, a real Japanese one, and the pairs of ../shared/data: at least 0.85 of the
    gold list's words, in a minute of two cores.
    """
    files = sorted((SHARED / "pairs").glob("*.tsv"))
    model = SHARED / "tokenizers" / "llm-jp" / "code10K_en20K_ja30K.ver2.2.model"
    if not files or not model.is_file():
        pytest.skip(f"{SHARED} is not there: ../shared/data beside the checkout has real pairs")
    lines = [line for path in files for line in path.read_text("utf-8").split("\n")[1:] if line]
    write_pairs(tmp_path / "pairs", [tuple(line.split("\t")[:2]) for line in lines], "train")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **SPECIAL}
    clip_vocabulary.write(tmp_path / "clip", settings)
    clip = AutoTokenizer.from_pretrained(str(tmp_path / "clip"), trust_remote_code=False)
    vocabulary = portable.build(model, tmp_path / "tokenizer")
    student = portable.load(tmp_path / "tokenizer")
    special = clip.bos_token_id, clip.eos_token_id
    teacher = Teacher(clip.get_vocab(), *special, {}, clip)
    recipe = load_recipe(ROOT / "configs" / "toyworld.yaml", [f"run={tmp_path}"])
    begun = time.process_time()
    known = material.of(recipe, vocabulary, student, teacher)
    found = methods.starts("alignment", known)
    seconds = time.process_time() - begun
    judged = gold.judge(gold.read("ja"), found, teacher.texts())
    print(f"{judged.right} of {judged.words} right, {seconds:.0f} s: {judged.wrong}")
    assert judged.words > 400 and judged.right / judged.words >= 0.85 and seconds < 120
