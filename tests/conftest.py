"""A miniature SDXL and a miniature SD of random, seeded weights (every class and file of the real
folder, small enough for a test), and a run of the first.

Out: `tiny_sdxl`, a folder with `base/` and `refiner/` in diffusers layout: 16 x 16 x 4 latents, 32
     x 32 pictures, clip_l of width 16, clip_bigg of width 24 projected to 20, 77 positions.
     `tiny_sd`, likewise one folder: clip of width 18, and a safety checker that never flags. Read
     them, never write to them: they are shared. `finished_run`, a run folder of the test's own:
     pairs, initial student and export.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when the libraries below are imported
if "PYTEST_XDIST_WORKER" in os.environ:  # two files of tests share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pyarrow as pa
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from configs import artefact
from corpora import pair
from corpora.toyworld import captions
from distill.encoders.family import SDXL, Family
from distill.encoders.teacher import load_text_encoders
from distill.run import inputs, run_folder
from distill.sdxl.base import family_of
from distill.verify import readings
from distill.verify.record import VERIFICATION, Verification

# A long file that begins last would leave the other worker without work for minutes.
LONGEST = (
    "test_damage",
    "test_policies",
    "test_launchers",
    "test_whole_road",
    "test_stacks",
    "test_faults",
    "test_export",
    "test_stage_export",
)
PAIRS = 8  # held-out pairs of `finished_run`
CLIP_L_WIDTH, CLIP_BIGG_WIDTH, POOLED_WIDTH, TIME_WIDTH = 16, 24, 20, 8
SD_WIDTH = 18


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; all else in its order."""
    items.sort(key=lambda item: [*LONGEST, item.path.stem].index(item.path.stem))


@pytest.fixture(scope="session")
def tiny_sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny_sdxl")
    write_tiny_sdxl(folder, seed=0)
    return folder


def write_tiny_sdxl(folder: Path, seed: int) -> None:
    """Saves `folder/base` and `folder/refiner`; the same seed gives the same weights."""
    from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

    torch.manual_seed(seed)
    vae, scheduler = _vae(), _scheduler()
    tokenizer, tokenizer_2 = _tokenizer("<|endoftext|>"), _tokenizer("!")
    text_encoder, text_encoder_2 = (
        _text_encoder(CLIP_L_WIDTH, None),
        _text_encoder(CLIP_BIGG_WIDTH, POOLED_WIDTH),
    )
    StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=_unet(CLIP_L_WIDTH + CLIP_BIGG_WIDTH, **_text_time(6)),
        scheduler=scheduler,
    ).save_pretrained(folder / "base")
    StableDiffusionXLImg2ImgPipeline(
        vae=vae,
        text_encoder=None,
        text_encoder_2=text_encoder_2,
        tokenizer=None,
        tokenizer_2=tokenizer_2,
        unet=_unet(CLIP_BIGG_WIDTH, **_text_time(5)),
        scheduler=scheduler,
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
    ).save_pretrained(folder / "refiner")


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny_sd")
    write_tiny_sd(folder, seed=0)
    return folder


def write_tiny_sd(folder: Path, seed: int) -> None:
    """Saves an SD in `folder`, as SDs are published: with a safety checker and its preprocessor."""
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPImageProcessor

    from corpora.miniature import miniature, train_sd

    torch.manual_seed(seed)
    StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=_text_encoder(SD_WIDTH, None),
        tokenizer=_tokenizer("<|endoftext|>"),
        unet=_unet(SD_WIDTH, use_linear_projection=False),
        scheduler=_scheduler(),
        safety_checker=miniature.safety_checker(),
        feature_extractor=CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
    ).save_pretrained(folder)
    train_sd._write_safety_checker(folder / "safety_checker")  # keys that every version reads


def write_flagging_sd(sd: Path, folder: Path) -> Path:
    """A copy of an SD whose safety checker flags every picture."""
    shutil.copytree(sd, folder)
    weights = folder / "safety_checker" / "model.safetensors"
    tensors = load_file(weights)
    tensors["concept_embeds_weights"].fill_(-2.0)  # the thresholds: below any cosine
    save_file(tensors, weights, metadata={"format": "pt"})
    return folder


def _vae():
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(4, 8),
        norm_num_groups=2,
        latent_channels=4,
        sample_size=32,
    )


def _scheduler():
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def _tokenizer(pad_token: str):
    """CLIP's byte-level tokenizer with one token a byte: any text of any script has ids; EOS is the
    highest id, as in CLIP.
    """
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    alphabet = sorted(ByteLevel.alphabet())  # "!" comes first: id 0, as in CLIP
    tokens = [
        *alphabet,
        *(f"{character}</w>" for character in alphabet),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=[],
        pad_token=pad_token,
        model_max_length=77,
    )


def _text_encoder(width: int, projection: int | None):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=514,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=2,
        hidden_act="quick_gelu" if projection is None else "gelu",
        projection_dim=projection or width,
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=1,
    )
    model = CLIPTextModel(config) if projection is None else CLIPTextModelWithProjection(config)
    with torch.no_grad():  # the default initialisation hardly looks at the text
        for name, parameter in model.named_parameters():
            if name.endswith("weight") and parameter.ndim == 2:
                parameter.copy_(
                    torch.randn_like(parameter)
                    * (0.5 if "embedding" in name else parameter.shape[1] ** -0.5)
                )
    return model.eval()


def _text_time(time_ids: int) -> dict[str, object]:
    """What SDXL's UNets read beside the text's states."""
    return {
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": TIME_WIDTH,
        "projection_class_embeddings_input_dim": time_ids * TIME_WIDTH + POOLED_WIDTH,
    }


def _unet(cross_attention_dim: int, **more: object):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=(2, 4),
        transformer_layers_per_block=1,
        cross_attention_dim=cross_attention_dim,
        **more,
    ).eval()


@pytest.fixture
def finished_run(tiny_sdxl: Path, tmp_path: Path) -> Callable[..., str]:
    """What the stages before evaluation leave in a run folder; returns a maker of recipe files for
    it.
    """
    folder = tmp_path / "run"
    shutil.copytree(tiny_sdxl / "base", folder / "export" / "base")
    shutil.copytree(tiny_sdxl / "refiner", folder / "export" / "refiner")
    for subfolder in ("text_encoder", "text_encoder_2"):
        disturb(folder / "export" / "base", subfolder, 0.05)
    for export in ("base", "refiner"):
        write_verification(folder / "export" / export)
    write_initial_student(tiny_sdxl / "base", folder / "initial_student")
    write_pairs(
        folder / "pairs",
        [(caption.text, caption.en) for caption in captions.pairs(PAIRS, "held_out", 0)],
    )

    def recipe(name: str = "tiny", source: dict | None = None, **evaluation: object) -> str:
        tree = {
            "name": name,
            "run": str(folder),
            "corpora": {
                "sources": [source or {"kind": "toyworld", "pairs": 10, "held_out_pairs": PAIRS}],
                "language_id": {"model": "x"},
            },
            "vocab_init": {"tokenizer": "x", "sentence_encoder": "x"},
            "distill": {
                "base": str(tiny_sdxl / "base"),
                "refiner": str(tiny_sdxl / "refiner"),
                "objective": {"position": 1.0},
                "steps": 200,
                "batch_size": 4,
                "learning_rate": 1e-3,
            },
            "eval": {
                "pairs": PAIRS,
                "timesteps": 2,
                "gap_pairs": 4,
                "prompts": 5,
                "inference_steps": 5,
                "batch_size": 3,
            }
            | evaluation,
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(tree), encoding="utf-8")
        return str(path)

    return recipe


def disturb(folder: Path, subfolder: str, amount: float) -> None:
    """Adds noise to an encoder's weights on disk: a student that has not learnt everything."""
    path = folder / subfolder / "model.safetensors"
    torch.manual_seed(1)
    save_file(
        {
            name: tensor + amount * torch.randn_like(tensor)
            for name, tensor in load_file(path).items()
        },
        path,
    )


def write_pairs(folder: Path, texts: list[tuple[str, str]], split: str = "held_out") -> None:
    """A finished folder of pairs of one split, as corpora.prepare leaves it."""
    folder.mkdir(exist_ok=True, parents=True)
    rows = [
        {"id": str(i), "text": ja, "en": en, "source": "toyworld", "licence": "x"}
        for i, (ja, en) in enumerate(texts)
    ]
    rows = [
        row | {"text_language_probability": 1.0, "en_language_probability": 1.0} for row in rows
    ]
    writer = pair.ShardWriter(folder, split, 100)
    writer.write(pa.Table.from_pylist(rows, pair.SCHEMA))
    stage = pair.StageCounts(name="read", rows_in=len(rows), dropped={}, rows_out=len(rows))
    splits = {"train": [], "held_out": []} | {split: writer.close()}
    manifest = pair.PairsManifest(
        format=2, fingerprint="x", settings={}, inputs=[], stages=[stage], splits=splits
    )
    pair.write_manifest(folder, manifest)


def write_initial_student(base: Path, folder: Path) -> None:
    """An initial student that is the teacher itself: its own embeddings and its first tokenizer
    (which pads with EOS).
    """
    encoders = load_text_encoders(base, family_of(str(base)))
    next(iter(encoders.tokenizers.values())).save_pretrained(folder / "tokenizer")
    (folder / "tokenizer" / "special_tokens_map.json").write_text("{}")
    embeddings = {
        name: model.get_input_embeddings().weight.detach().clone()
        for name, model in encoders.models.items()
    }
    save_file(embeddings, folder / "token_embeddings.safetensors")
    artefact.seal(folder, {})


def write_run_record(run: Path) -> None:
    """What a training leaves about the initial student it began with, which is sealed first."""
    folder = run / "initial_student"
    artefact.seal(folder, {})
    found = {inputs.INITIAL_STUDENT: inputs.initial_student(folder)}
    (run / "distill").mkdir(exist_ok=True)
    record = run_folder.Run.seal(
        code_version=artefact.CODE_VERSION, settings_sha256="x", inputs=found
    )
    record.write(run / "distill" / run_folder.RECORD)


@pytest.fixture(scope="session")
def demo_export(tiny_sdxl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of base and refiner, whose text encoders are not those of `tiny_sdxl`; the teacher
    that it names is nowhere. Never written to.
    """
    folder = tmp_path_factory.mktemp("demo_export")
    for name in ("base", "refiner"):
        shutil.copytree(tiny_sdxl / name, folder / name)
        disturb(folder / name, "text_encoder_2", 0.05)
        write_verification(folder / name, {"teacher": "ORG/GONE"})
    return folder


def write_verification(folder: Path, made_from: dict[str, str] | None = None) -> None:
    """The digests of an exported folder's files, as they are now."""
    stored = {
        "made_from": made_from or {},
        "made_with": {},
        "largest_relative_difference": 0.0,
        "prompts": [],
    }
    Verification.seal(**stored, files=readings.digests(folder)).write(folder / VERIFICATION)


def write_checkpoint(
    run: Path, teacher: Path, vocabulary: int, step: int, family: Family = SDXL
) -> dict[str, torch.Tensor]:
    """Random students of the teacher's shape, keyed as the training writes them, with the manifest
    last and `latest` after it.
    """
    import transformers
    from transformers import CLIPTextConfig

    torch.manual_seed(step)
    tensors = {}
    for name, part in family.parts.items():
        kind = getattr(transformers, part.class_name)
        config = json.loads((teacher / part.subfolder / "config.json").read_text())
        config |= {
            "vocab_size": vocabulary,
            "bos_token_id": vocabulary - 2,
            "eos_token_id": vocabulary - 1,
        }
        for key, tensor in kind(CLIPTextConfig.from_dict(config)).state_dict().items():
            prefix = "" if key.startswith(("text_model.", "text_projection.")) else "text_model."
            tensors[f"{name}.{prefix}{key}"] = torch.randn_like(tensor) * 0.3
    folder = run / "distill" / "checkpoints" / f"step_{step:06d}"
    folder.mkdir(parents=True)
    save_file(tensors, folder / "student.safetensors")
    artefact.seal(folder, made_from={})
    (run / "distill" / "latest").write_text(folder.name + "\n")
    if (run / "initial_student").is_dir():
        write_run_record(run)
    return tensors
