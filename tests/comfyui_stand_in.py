"""The names of ComfyUI that the node pack uses, as small as they can be, for machines without it.

They keep ComfyUI's signatures and attributes; what they compute is transformers' own CLIP. The real
ones are in tests/comfyui/test_in_comfyui.py.
"""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

ENGLISH_ROWS = 49408  # whatever the config says, as in ComfyUI


class Operations:
    @staticmethod
    def Embedding(rows, width, dtype=None, device=None):
        return torch.nn.Embedding(rows, width, dtype=dtype, device=device)


class CLIPTextModel(CLIPTextModelWithProjection):
    def __init__(self, config_dict, dtype, device, operations):
        sizes = {**config_dict, "vocab_size": ENGLISH_ROWS}
        sizes["projection_dim"] = sizes["hidden_size"]
        super().__init__(CLIPTextConfig.from_dict(sizes))
        self.to(dtype)


class SDClipModel(torch.nn.Module):
    def __init__(self, *, dtype, device, model_class, textmodel_json_config, **settings):
        super().__init__()
        self.settings = settings
        self.transformer = model_class(textmodel_json_config, dtype, device, Operations)
        self.logit_scale = torch.nn.Parameter(torch.tensor(4.6))


class SD1ClipModel(torch.nn.Module):
    def __init__(self, device="cpu", dtype=None, model_options=None, *, clip_name, clip_model):
        super().__init__()
        options = {**(model_options or {}), "model_name": f"clip_{clip_name}"}
        made = clip_model(device=device, dtype=dtype, model_options=options)
        setattr(self, f"clip_{clip_name}", made)


class SDTokenizer:
    embedding_identifier = "embedding:"

    def __init__(self, path, *, tokenizer_class, max_length, embedding_directory, **settings):
        self.tokenizer = tokenizer_class.from_pretrained(path)
        self.max_length, self.embedding_directory = max_length, embedding_directory
        self.start_token, self.end_token = self.tokenizer("")["input_ids"]
        self.pad_token = self.end_token if settings["pad_with_end"] else 0
        self.settings = settings

    def _try_get_embedding(self, name):
        path = Path(self.embedding_directory[0]) / f"{name}.safetensors"
        return (load_file(path)[self.settings["embedding_key"]] if path.is_file() else None), ""


class SD1Tokenizer:
    def __init__(self, embedding_directory=None, tokenizer_data=None, *, clip_name, tokenizer):
        self.name = clip_name
        self.one = tokenizer(embedding_directory=embedding_directory, tokenizer_data=tokenizer_data)

    def tokenize_with_weights(self, text, return_word_ids=False, **more):
        return {self.name: self.one.tokenize_with_weights(text, return_word_ids, **more)}


class SDXLClipModel(torch.nn.Module):
    pass


class SDXLTokenizer:
    def tokenize_with_weights(self, text, return_word_ids=False, **more):
        both = {"g": self.clip_g, "l": self.clip_l}
        return {
            name: one.tokenize_with_weights(text, return_word_ids, **more)
            for name, one in both.items()
        }


class ClipTarget:
    def __init__(self, tokenizer, clip):
        self.tokenizer, self.clip, self.params = tokenizer, clip, {}


class LaterCLIP:
    """As of October 2025: the weights come after it."""

    def __init__(self, target=None, embedding_directory=None, parameters=0, model_options=None):
        options = model_options or {}
        dtype = options.get("dtype") or torch.float16
        self.cond_stage_model = target.clip(device="cpu", dtype=dtype, model_options=options)
        self.tokenizer = target.tokenizer(
            embedding_directory=embedding_directory, tokenizer_data={}
        )
        self.parameters = parameters

    def load_sd(self, weights, full_model=False):
        assert full_model
        return self.cond_stage_model.load_state_dict(weights, strict=False)


class AtOnceCLIP(LaterCLIP):
    """As of autumn 2026: it takes the weights."""

    def __init__(self, target=None, state_dict=(), **more):
        super().__init__(target, **more)
        super().load_sd(state_dict, full_model=True)

    def load_sd(self, weights, full_model=False):
        raise AssertionError("loaded twice")


def install(monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path], clip: type) -> None:
    """Puts them where `import comfy` finds them. `folders`: of models, by ComfyUI's names."""
    names: dict[str, dict[str, Any]] = {
        "comfy": {},
        "comfy.clip_model": {"CLIPTextModel": CLIPTextModel},
        "comfy.sd": {"CLIP": clip},
        "comfy.sd1_clip": {
            one.__name__: one for one in (SDClipModel, SD1ClipModel, SDTokenizer, SD1Tokenizer)
        },
        "comfy.sdxl_clip": {one.__name__: one for one in (SDXLClipModel, SDXLTokenizer)},
        "comfy.supported_models_base": {"ClipTarget": ClipTarget},
        "comfy.utils": {"load_torch_file": lambda path, safe_load: load_file(path)},
        "folder_paths": {"get_folder_paths": lambda name: [str(folders[name])]},
    }
    for name, content in names.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(__import__("sys").modules, name, module)
        parent, _, child = name.rpartition(".")
        if parent:
            monkeypatch.setattr(__import__("sys").modules[parent], child, module, raising=False)
