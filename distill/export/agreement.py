"""Do a pipeline's own text encoders still say what the teacher's say?

In:  the teacher's encoders, and a folder in diffusers layout into which a student is put.
Out: one number: the cosine of what both give for English prompts.

A fine-tune that left its text encoders alone gives 1 (rounding of fp16 and bf16 included). One that
trained them (Pony, Illustrious and Animagine did) has a UNet that reads other states than those the
student was taught: the student serves it badly, and should be distilled from that model instead.

Shape letters: B batch, L token position (77), D width, P pooled width.
"""

import dataclasses
from pathlib import Path

import torch
import torch.nn.functional as F

from configs.errors import DataError
from distill.encoders.family import Family
from distill.encoders.teacher import TextEncoders, load_text_encoders
from distill.sdxl.repository import read_index

# Subjects, styles, tags as anime models are trained on, one long prompt and the empty one.
PROMPTS = (
    "a photograph of an old man reading a newspaper on a bench in the park",
    "two small red circles to the left of a large blue square",
    "oil painting of a harbour at sunset, fishing boats, dramatic clouds",
    "1girl, solo, long hair, school uniform, cherry blossoms, masterpiece, best quality",
    "a cat",
    "isometric view of a tiny wooden house, soft light, 3d render",
    "a black and white sketch of a horse that jumps over a fence without a rider",
    "portrait of a woman with freckles, wearing a green scarf, shallow depth of field, studio "
    "lighting, looking away from the camera while it rains behind the window",
    "score_9, score_8_up, a dragon flying over snowy mountains",
    "",
)


def agreement(teacher: TextEncoders, folder: Path, family: Family) -> float:
    """The mean cosine over prompts, of the part or the pooled state where it is least; of the parts
    that the pipeline in `folder` has (a refiner has one). Raises DataError.
    """
    index = read_index(folder)
    parts = {
        name: part
        for name, part in family.parts.items()
        if (index.get(part.subfolder) or [None])[0]
    }
    own = load_text_encoders(folder, dataclasses.replace(family, parts=parts))
    mine, theirs = own.encode(list(PROMPTS)), teacher.encode(list(PROMPTS))
    ends = teacher.tokenize(list(PROMPTS)).eos
    if any(mine.states[name].shape != theirs.states[name].shape for name in parts):
        raise DataError(f"{folder}: its text encoders are of other widths than the teacher's")
    found = [_of_states(mine.states[name], theirs.states[name], ends[name]) for name in parts]
    if mine.pooled_BP is not None and theirs.pooled_BP is not None:
        found.append(_of_pooled(mine.pooled_BP, theirs.pooled_BP))
    return min(found)


def _of_states(mine_BLD: torch.Tensor, theirs_BLD: torch.Tensor, ends_B: torch.Tensor) -> float:
    """Over the positions after BOS up to EOS. Less the teacher's mean: CLIP's states have a few
    dimensions so large that any two of them look alike.
    """
    positions_L = torch.arange(theirs_BLD.shape[1])
    read_BL = (positions_L > 0) & (positions_L <= ends_B[:, None])
    mine_ND, theirs_ND = mine_BLD[read_BL].double(), theirs_BLD[read_BL].double()
    mean_D = theirs_ND.mean(dim=0)
    return float(F.cosine_similarity(mine_ND - mean_D, theirs_ND - mean_D).mean())


def _of_pooled(mine_BP: torch.Tensor, theirs_BP: torch.Tensor) -> float:
    mean_P = theirs_BP.double().mean(dim=0)
    return float(F.cosine_similarity(mine_BP.double() - mean_P, theirs_BP.double() - mean_P).mean())
