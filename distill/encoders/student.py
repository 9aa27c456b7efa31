"""The student: the teacher's towers with a new vocabulary.

In:  the teacher's folder, and `initial_student/` (`token_embeddings.safetensors`, `tokenizer/`)
     made by vocab_init.
Out: `Towers`, the module that is trained; `initial_text_encoders`, the same before training,
     through the stock classes.
"""

import copy
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from configs import artefact
from configs.errors import DataError
from distill.encoders.family import Family
from distill.encoders.teacher import Encoding, TextEncoders, TokenIds, load_text_encoders
from distill.encoders.tower import TextTower, tower_of
from distill.tokenizer.portable import load as load_tokenizer


class Towers(nn.Module):
    """The text encoders of a family, one `TextTower` a part; teacher and student are each one.

    Parameter names start with the part's: `clip_l.text_model...`.
    """

    def __init__(self, towers: dict[str, TextTower]) -> None:
        super().__init__()
        self.parts = tuple(towers)
        for name, tower in towers.items():
            self.add_module(name, tower)

    def __getitem__(self, part: str) -> TextTower:
        tower: TextTower = self.get_submodule(part)  # type: ignore[assignment]
        return tower

    def forward(self, tokens: TokenIds) -> Encoding:
        """The encoding of (B, L) ids; the pooled state is that of the one part that has it."""
        tensors = {}
        for name in self.parts:
            tensors[name], pooled_BP = self[name](tokens.ids[name], tokens.eos[name])
            tensors |= {"pooled": pooled_BP} if pooled_BP is not None else {}
        return Encoding.of(tensors)

    def compile_layers(self) -> None:
        for name in self.parts:
            self[name].compile_layers()


def teacher_towers(encoders: TextEncoders, dtype: torch.dtype | None = None) -> Towers:
    """The frozen teacher as training runs it; `dtype` as `tower_of` takes it."""
    return _towers(encoders, dtype).eval().requires_grad_(False)


def _towers(encoders: TextEncoders, dtype: torch.dtype | None) -> Towers:
    parts = encoders.family.parts
    return Towers(
        {name: tower_of(encoders.models[name], parts[name].states, dtype) for name in parts}
    )


def initial_student(
    teacher: TextEncoders, folder: Path, dtype: torch.dtype | None = None
) -> Towers:
    """The teacher's transformer weights under the new token embeddings. Raises DataError.

    Parameters that the UNet never reads are frozen: DeepSpeed would decay them, as they receive no
    gradient.
    """
    embeddings = _token_embeddings(folder, teacher.family)
    towers = _towers(teacher, dtype)
    for name in towers.parts:
        tower = towers[name]
        tower.text_model.embeddings.token_embedding = nn.Embedding.from_pretrained(
            _checked(embeddings, name, tower, folder).to(dtype), freeze=False
        )
        for parameter in tower.dead_parameters():
            parameter.requires_grad_(False)
    return towers


def initial_text_encoders(
    base_folder: str | Path,
    family: Family,
    initial_student_folder: Path,
    teacher_weights: str | None = None,
) -> TextEncoders:
    """The student before training, through the stock transformers classes; `teacher_weights` is
    `distill.teacher`. Raises DataError.
    """
    artefact.read(initial_student_folder, "run python -m vocab_init with this recipe")
    teacher = load_text_encoders(base_folder, family, teacher_weights)
    embeddings = _token_embeddings(initial_student_folder, family)
    tokenizer = load_tokenizer(initial_student_folder / "tokenizer")
    models = {}
    for name, model in teacher.models.items():
        config = copy.deepcopy(model.config)
        config.vocab_size = len(embeddings[name])
        config.eos_token_id = 2  # SDXL's own setting: "the highest id", which the student's EOS is
        state = {
            key: embeddings[name] if key.endswith("token_embedding.weight") else value
            for key, value in model.state_dict().items()
        }
        models[name] = type(model)(config).eval().requires_grad_(False)
        models[name].load_state_dict(state)
    return TextEncoders(family, dict.fromkeys(family.parts, tokenizer), models)


def _token_embeddings(folder: Path, family: Family) -> dict[str, torch.Tensor]:
    path = folder / "token_embeddings.safetensors"
    try:
        tensors = load_file(path)
        return {name: tensors[name] for name in family.parts}
    except (OSError, SafetensorError, KeyError) as error:
        raise DataError(
            f"{path}: the initial token embeddings cannot be read ({error}); run python -m "
            "vocab_init with this recipe"
        ) from None


def _checked(
    embeddings: dict[str, torch.Tensor], name: str, tower: TextTower, folder: Path
) -> torch.Tensor:
    table_VD = embeddings[name]
    width = tower.text_model.embeddings.token_embedding.embedding_dim
    if table_VD.shape[1] != width:
        raise DataError(
            f"{folder}: its {name} embeddings are {table_VD.shape[1]} wide, the teacher's {width}; "
            "run python -m vocab_init with this recipe"
        )
    return table_VD.clone()
