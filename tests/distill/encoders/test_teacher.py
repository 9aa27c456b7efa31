"""Encoders whose weights come from OpenCLIP: equal to open_clip's own forward, in miniature and at
full size, and seen by every stage.
"""

import json
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU, TextTransformer
from open_clip_models import checkpoint, edit, tiny_model
from safetensors.torch import load_file, save_file
from torch import nn

from configs import artefact
from configs.errors import DataError
from configs.schema.load import load_recipe
from corpora.pair import read_pairs
from distill.encoders.family import SDXL
from distill.encoders.student import teacher_towers
from distill.encoders.teacher import Encoding, TextEncoders, load_text_encoders
from distill.encoders.tower import tower_of
from distill.objective import teacher_statistics
from distill.run import run_folder
from distill.train import measuring, preparation
from eval.compare_hidden_states import __main__ as compare_hidden_states_entry
from vocab_init import __main__ as vocab_init
from vocab_init import transplant

ROOT = Path(__file__).resolve().parents[3]
PROMPTS = [
    "",
    "a big red circle",
    "two small squares, watercolour!",
    "a very long sentence about shapes " * 4,
]


def forward(text_tower: nn.Module, ids_BL: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Penultimate states and pooled features as open_clip computes them; `text_tower` is a CLIP, or
    a text transformer alone.
    """
    states: list[torch.Tensor] = []
    module: Any = text_tower
    blocks = (module.text if hasattr(module, "text") else module).transformer.resblocks
    hook = blocks[-2].register_forward_hook(lambda _module, _inputs, output: states.append(output))
    with torch.no_grad():
        pooled_BP = module.encode_text(ids_BL) if hasattr(module, "encode_text") else module(ids_BL)
    hook.remove()
    return states[0], pooled_BP


def as_training_runs_it(encoders: TextEncoders, prompts: list[str]) -> Encoding:
    with torch.no_grad():
        encoding: Encoding = teacher_towers(encoders)(encoders.tokenize(prompts))
    return encoding


# --- equal to open_clip ---


@pytest.mark.parametrize(
    ("name", "kind"),
    [("tiny-bigG", "safetensors"), ("tiny-bigG-custom", "safetensors"), ("tiny-bigG-custom", "pt")],
)
def test_the_second_encoder_equals_open_clips_own_forward(
    name: str, kind: str, tiny_sdxl: Path, tmp_path: Path
) -> None:
    encoders, base = (
        load_text_encoders(tiny_sdxl / "base", SDXL, checkpoint(tmp_path, name, kind)),
        load_text_encoders(tiny_sdxl / "base", SDXL),
    )
    states_BLD, pooled_BP = forward(tiny_model(name), encoders.tokenize(PROMPTS).ids["clip_bigg"])
    of_base = base.encode(PROMPTS)
    assert not torch.allclose(
        states_BLD, of_base.states["clip_bigg"], atol=0.1
    ) and not torch.allclose(pooled_BP, of_base.pooled_BP, atol=0.1)
    for ours in (encoders.encode(PROMPTS), as_training_runs_it(encoders, PROMPTS)):
        torch.testing.assert_close(ours.states["clip_bigg"], states_BLD, rtol=0, atol=1e-5)
        torch.testing.assert_close(ours.pooled_BP, pooled_BP, rtol=0, atol=1e-5)
        torch.testing.assert_close(
            ours.states["clip_l"], of_base.states["clip_l"], rtol=0, atol=1e-5
        )  # the other encoder stays base's
    model = encoders.models["clip_bigg"]
    assert not model.training and not any(
        parameter.requires_grad for parameter in model.parameters()
    )


def test_a_model_as_wide_as_the_first_encoder_replaces_that_one(
    tiny_sdxl: Path, tmp_path: Path
) -> None:
    encoders, of_base = (
        load_text_encoders(tiny_sdxl / "base", SDXL, checkpoint(tmp_path, "tiny-L")),
        load_text_encoders(tiny_sdxl / "base", SDXL).encode(PROMPTS),
    )
    states_BLD, _ = forward(tiny_model("tiny-L"), encoders.tokenize(PROMPTS).ids["clip_l"])
    assert not torch.allclose(states_BLD, of_base.states["clip_l"], atol=0.1)
    for ours in (encoders.encode(PROMPTS), as_training_runs_it(encoders, PROMPTS)):
        torch.testing.assert_close(ours.states["clip_l"], states_BLD, rtol=0, atol=1e-5)
        torch.testing.assert_close(ours.pooled_BP, of_base.pooled_BP, rtol=0, atol=1e-5)


def test_a_config_that_says_float16_does_not_round_the_weights(
    tiny_sdxl: Path, tmp_path: Path
) -> None:
    """SDXL's own config.json does, and transformers 5 follows it unless told otherwise."""
    reference = checkpoint(tmp_path, "tiny-bigG")
    shutil.copytree(tiny_sdxl / "base", tmp_path / "base")
    edit(
        tmp_path / "base" / "text_encoder_2" / "config.json", torch_dtype="float16", dtype="float16"
    )
    for folder in (tiny_sdxl / "base", tmp_path / "base"):
        model = load_text_encoders(folder, SDXL, reference).models["clip_bigg"]
        assert torch.equal(
            model.get_input_embeddings().weight, tiny_model("tiny-bigG").token_embedding.weight
        )


# --- every stage sees it ---


def test_vocab_init_takes_the_token_embeddings_of_the_teacher(
    tiny_sdxl: Path, tmp_path: Path
) -> None:
    base = transplant.read_teacher(str(tiny_sdxl / "base"), SDXL)
    ours = transplant.read_teacher(str(tiny_sdxl / "base"), SDXL, checkpoint(tmp_path, "tiny-bigG"))
    assert torch.equal(ours.tables["clip_bigg"], tiny_model("tiny-bigG").token_embedding.weight)
    assert (
        torch.equal(ours.tables["clip_l"], base.tables["clip_l"]) and ours.sha256() != base.sha256()
    )


def test_a_run_of_another_teacher_is_refused(
    tiny_sdxl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = checkpoint(tmp_path, "tiny-bigG"), checkpoint(tmp_path, "tiny-bigG-custom")
    line = [
        str(ROOT / "configs" / "toyworld.yaml"),
        f"run={tmp_path / 'run'}",
        f"distill.base={tiny_sdxl / 'base'}",
    ]
    assert vocab_init.main([*line, f"distill.teacher={first}"]) == 0
    tables = load_file(tmp_path / "run" / "initial_student" / "token_embeddings.safetensors")
    bos_and_eos = tiny_model("tiny-bigG").token_embedding.weight[-2:]
    assert torch.equal(tables["clip_bigg"][-2:], bos_and_eos)
    assert vocab_init.main([*line, f"distill.teacher={second}"]) == 3
    assert f"made with teacher {first!r}, the recipe says {second!r}" in capsys.readouterr().err
    run_folder.claim_run(
        load_recipe(line[0], [*line[1:], f"distill.teacher={first}"]), tmp_path / "run" / "distill"
    )
    with pytest.raises(DataError, match=r"distill\.teacher was 'open_clip:tiny-bigG/.*, is None"):
        run_folder.claim_run(load_recipe(line[0], line[1:]), tmp_path / "run" / "distill")


def test_training_learns_from_that_teacher_and_starts_from_it(
    finished_run: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(
        finished_run(),
        ["distill.precision=fp32", f"distill.teacher={checkpoint(tmp_path, 'tiny-bigG')}"],
    )
    manifest = recipe.run_dir / "pairs" / "manifest.json"
    splits = json.loads(manifest.read_text(encoding="utf-8"))["splits"]
    edit(manifest, splits={"train": splits["held_out"], "held_out": []})
    preparation.prepare(recipe, SDXL)
    monkeypatch.setattr(
        preparation, "Engine", lambda student, settings: SimpleNamespace(device="cpu")
    )  # DeepSpeed needs a launcher
    work = preparation.load(recipe, SDXL)
    theirs = tiny_model("tiny-bigG")
    ids_BL = (
        load_text_encoders(recipe.distill.base, SDXL)
        .tokenize([pair.en for pair in read_pairs(recipe.run_dir / "pairs", "train")])
        .ids["clip_bigg"]
    )
    states_BLD, pooled_BP = forward(theirs, ids_BL)
    variances = teacher_statistics.load(
        recipe.run_dir / "distill" / measuring.MEASURED / measuring.STATISTICS, SDXL
    )
    torch.testing.assert_close(
        variances.states["clip_bigg"],
        states_BLD[:, 1:].flatten(0, 1).var(dim=0, correction=0),
        rtol=1e-4,
        atol=1e-6,
    )
    torch.testing.assert_close(
        variances.pooled_P, pooled_BP.var(dim=0, correction=0), rtol=1e-4, atol=1e-6
    )
    for tower in (work.teacher["clip_bigg"], work.student["clip_bigg"]):
        assert torch.equal(
            tower.text_model.embeddings.position_embedding.weight, theirs.positional_embedding
        )


def test_evaluation_compares_with_that_teacher(
    finished_run: Callable[..., str], tmp_path: Path
) -> None:
    recipe = finished_run()
    run = load_recipe(recipe).run_dir

    def rows(*overrides: str) -> dict[str, Any]:
        assert compare_hidden_states_entry.main([recipe, *overrides]) == 0
        return json.loads(
            (run / "eval" / "compare_hidden_states.json").read_text(encoding="utf-8")
        )["rows"]

    teacher = f"distill.teacher={checkpoint(tmp_path, 'tiny-bigG')}"
    base, ours = rows(), rows(teacher)
    assert ours["teacher"]["noise_gap"]["value"] == 0.0
    student_of_base, student = (
        base["student"]["states"],
        ours["student"]["states"],
    )
    assert (
        student_of_base["clip_l"] == student["clip_l"]
        and student_of_base["pooled"] != student["pooled"]
    )
    # With the teacher's embeddings, as vocab_init gives them, the student before training is the
    # teacher itself.
    path = run / "initial_student" / "token_embeddings.safetensors"
    save_file(
        load_file(path) | {"clip_bigg": tiny_model("tiny-bigG").token_embedding.weight.detach()},
        path,
    )
    artefact.seal(path.parent, {})
    ours = rows(teacher)
    assert (
        ours["student_before_training"]["states"]["pooled"]
        == ours["teacher_untranslated"]["states"]["pooled"]
    )


# --- at full size ---

REAL = {
    "ViT-L-14-quickgelu": {
        "hidden_size": 768,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "intermediate_size": 3072,
        "projection_dim": 768,
    },
    "ViT-bigG-14": {
        "hidden_size": 1280,
        "num_attention_heads": 20,
        "num_hidden_layers": 32,
        "intermediate_size": 5120,
        "projection_dim": 1280,
    },
}  # what SDXL's two config.json say
MEMORY = 10 * 10**9  # bytes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "encoder"), [("ViT-L-14-quickgelu", "clip_l"), ("ViT-bigG-14", "clip_bigg")]
)
def test_the_real_architectures_equal_open_clips_own_forward(
    name: str, encoder: str, tiny_sdxl: Path, tmp_path: Path
) -> None:
    """SDXL's text towers at full size with random weights: 123 and 695 million parameters, two
    prompts; the image tower stays on disk.
    """
    shutil.copytree(tiny_sdxl / "base", tmp_path / "base")
    replaced = tmp_path / "base" / SDXL.parts[encoder].subfolder
    edit(replaced / "config.json", **REAL[name], vocab_size=49408, eos_token_id=2)
    (replaced / "model.safetensors").unlink()
    ids_BL = torch.randint(0, 49406, (2, 77), generator=torch.Generator().manual_seed(0))
    eos_position_B = torch.tensor([9, 76])
    ids_BL[:, 0], ids_BL[torch.arange(77) >= eos_position_B[:, None]] = 49406, 49407
    theirs = real_text_tower(name)
    states_BLD, pooled_BP = forward(theirs, ids_BL)
    path = tmp_path / "model.safetensors"
    save_with_image_tower(theirs.state_dict(), path)
    del theirs  # each copy of the larger one holds 2.8 GB
    encoders = load_text_encoders(tmp_path / "base", SDXL, f"open_clip:{name}/{path}")
    path.unlink()  # pytest would keep it; the encoder has memory of its own
    stock = encoders.models.pop(encoder)
    with torch.no_grad():
        found = stock(ids_BL, output_hidden_states=True)
        ours_BLD, ours_BP = tower_of(stock, "penultimate")(ids_BL, eos_position_B)
    for states in (found.hidden_states[-2], ours_BLD):
        assert relative_error(states, states_BLD) < 1e-4
    for pooled in [found.text_embeds, ours_BP] if encoder == "clip_bigg" else []:
        assert relative_error(pooled, pooled_BP) < 1e-4
    assert (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        * (1 if sys.platform == "darwin" else 1024)
        < MEMORY
    )


def save_with_image_tower(state: dict[str, torch.Tensor], path: Path) -> None:
    """A checkpoint whose `visual.` tensor alone would fill `MEMORY`: a hole in the file, which
    takes no disk.
    """
    save_file(state, path, metadata={"room": "for one more tensor" * 10})
    with open(path, "r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        del header["__metadata__"]
        end = max(tensor["data_offsets"][1] for tensor in header.values())
        header["visual.proj"] = {
            "dtype": "F32",
            "shape": [MEMORY // 4],
            "data_offsets": [end, end + MEMORY],
        }
        file.seek(8)
        file.write(json.dumps(header, separators=(",", ":")).encode().ljust(size))
        file.truncate(8 + size + end + MEMORY)


def real_text_tower(name: str) -> Any:
    """open_clip's text transformer of a model it knows, filled at once: its own initialisation
    takes a minute.
    """
    config = open_clip.get_model_config(name)
    activation = QuickGELU if config.get("quick_gelu") else nn.GELU
    with torch.device("meta"):
        tower = TextTransformer(
            **config["text_cfg"], output_dim=config["embed_dim"], act_layer=activation
        )
    tower = tower.to_empty(device="cpu").eval()
    tower.attn_mask = tower.build_causal_mask()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, parameter in tower.named_parameters():
            scale = 0.1 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
            parameter.uniform_(-scale, scale, generator=generator)
            if "ln_" in key and key.endswith("weight"):
                parameter.add_(1)
    return tower


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()
