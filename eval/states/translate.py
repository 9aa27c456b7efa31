"""Japanese to English by any sequence-to-sequence model of transformers, such as Helsinki-NLP/opus-mt-ja-en: what a student competes with.

In:  `eval.translator`, a folder or hub name; Japanese texts.
Out: English texts, greedy, so that the same model says the same again. Nothing on disk.
"""

import warnings
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from configs.command import DataError
from configs.references import first_line
from distill.pipelines import device, quiet

MAX_NEW_TOKENS = 128  # well over the 77 positions SDXL reads


def translate(reference: str, texts: list[str], batch_size: int) -> list[str]:
    """One translation a text. Raises DataError when the model cannot be loaded."""
    tokenizer, model = _load(reference)
    translated: list[str] = []
    for start in tqdm(range(0, len(texts), batch_size), desc="translate", unit="batch"):
        inputs = tokenizer(texts[start : start + batch_size], padding=True, truncation=True, return_tensors="pt").to(device())
        with torch.inference_mode():
            ids = model.generate(**inputs, num_beams=1, do_sample=False, max_new_tokens=MAX_NEW_TOKENS)
        translated += tokenizer.batch_decode(ids, skip_special_tokens=True)
    return translated


def _load(reference: str) -> tuple[Any, Any]:
    quiet()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")  # Marian's wish for a normaliser of punctuation
            tokenizer, model = AutoTokenizer.from_pretrained(reference), AutoModelForSeq2SeqLM.from_pretrained(reference)
    except Exception as error:  # each library raises its own kinds for the same cause
        message = f"eval.translator: {reference} cannot be loaded ({first_line(error)}); give a sequence-to-sequence model's folder or hub name"
        raise DataError(message) from error
    # the model's own limit, beside ours, would be warned of at every batch
    model.generation_config.max_length = None
    return tokenizer, model.eval().to(device())
