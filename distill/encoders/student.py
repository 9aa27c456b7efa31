"""The student: the teacher's two towers with a new vocabulary.

In:  the teacher's folder, and `initial_student/` (`token_embeddings.safetensors`, `tokenizer/`)
     made by vocab_init.
Out: `Student`, the module that is trained; `initial_text_encoders`, the same before training,
     through the stock classes.
"""

import copy
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from configs import artefact
from configs.errors import DataError
from distill.encoders.teacher import ENCODERS, Encoding, TextEncoders, load_text_encoders
from distill.encoders.tower import TextTower, tower_of
from distill.tokenizer.portable import load as load_tokenizer


class Hidden(NamedTuple):
    """What both towers computed of a micro-batch: states (B, L, D) of the layers asked for, the
    penultimate ones last; pooled (B, P).
    """

    clip_l: tuple[torch.Tensor, ...]
    clip_bigg: tuple[torch.Tensor, ...]
    pooled_BP: torch.Tensor

    @property
    def encoding(self) -> Encoding:
        """What the UNet reads of it."""
        return Encoding(self.clip_l[-1], self.clip_bigg[-1], self.pooled_BP)

    def float(self) -> "Hidden":
        """In fp32; what is in fp64 already stays so."""

        def up(x: torch.Tensor) -> torch.Tensor:
            return x.to(torch.promote_types(x.dtype, torch.float32))

        return Hidden(
            tuple(map(up, self.clip_l)), tuple(map(up, self.clip_bigg)), up(self.pooled_BP)
        )


class TowerPair(nn.Module):
    """Both towers; teacher and student are each one.

    Ids of the two encoders may differ in their pads only.
    """

    def __init__(self, clip_l: TextTower, clip_bigg: TextTower, every_layer: bool = False) -> None:
        super().__init__()
        self.clip_l, self.clip_bigg, self.every_layer = clip_l, clip_bigg, every_layer

    def forward(
        self,
        clip_l_ids_BL: torch.Tensor,
        clip_bigg_ids_BL: torch.Tensor,
        eos_position_B: torch.Tensor,
    ) -> Hidden:
        clip_l, _ = self.clip_l.hidden_states(clip_l_ids_BL, eos_position_B, self.every_layer)
        clip_bigg, pooled_BP = self.clip_bigg.hidden_states(
            clip_bigg_ids_BL, eos_position_B, self.every_layer
        )
        assert pooled_BP is not None
        return Hidden(clip_l, clip_bigg, pooled_BP)

    def compile_layers(self) -> None:
        self.clip_l.compile_layers()
        self.clip_bigg.compile_layers()


def teacher_towers(encoders: TextEncoders, every_layer: bool = False) -> TowerPair:
    """The frozen teacher as training runs it."""
    clip_l, clip_bigg = (tower_of(encoders.models[name]) for name in ENCODERS)
    return TowerPair(clip_l, clip_bigg, every_layer).eval().requires_grad_(False)


def initial_student(teacher: TextEncoders, folder: Path, every_layer: bool = False) -> TowerPair:
    """The teacher's transformer weights under the new token embeddings; parameters SDXL never reads
    are frozen.

    DeepSpeed would otherwise decay parameters that receive no gradient.
    """
    embeddings = _token_embeddings(folder)
    towers = []
    for name in ENCODERS:
        tower = tower_of(teacher.models[name])
        tower.text_model.embeddings.token_embedding = nn.Embedding.from_pretrained(
            _checked(embeddings, name, tower, folder), freeze=False
        )
        for parameter in tower.dead_parameters():
            parameter.requires_grad_(False)
        towers.append(tower)
    clip_l, clip_bigg = towers
    return TowerPair(clip_l, clip_bigg, every_layer)


def initial_text_encoders(
    base_folder: str | Path, initial_student_folder: Path, teacher_weights: str | None = None
) -> TextEncoders:
    """The student before training, through the stock transformers classes; `teacher_weights` is
    `distill.teacher`. Raises DataError.
    """
    artefact.read(initial_student_folder, "run python -m vocab_init with this recipe")
    teacher = load_text_encoders(base_folder, teacher_weights)
    embeddings = _token_embeddings(initial_student_folder)
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
    return TextEncoders(dict.fromkeys(ENCODERS, tokenizer), models)


def _token_embeddings(folder: Path) -> dict[str, torch.Tensor]:
    path = folder / "token_embeddings.safetensors"
    try:
        tensors = load_file(path)
        return {name: tensors[name] for name in ENCODERS}
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
