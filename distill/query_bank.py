"""What the frozen UNets' cross-attention layers ask of a prompt: recorded once, so that training needs no UNet and no image.

In:  the base (and refiner) folder and some English prompts; the stock pipelines paint them while hooks listen.
Out: `<run>/distill/query_bank.safetensors`: per layer its `to_k` and `to_v` weights, real queries, and the variance of the teacher's
     outputs; metadata says heads and which encoders' states the layer reads.

Shape letters: B batch, L token position, D width, N queries, H heads, K width of one head, E = H * K.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from configs.files import whole
from configs.schema import QueryBank
from distill.objectives import attention_output
from distill.pipelines import Pipelines, load_pipelines
from distill.teacher import Encoding, TextEncoders

PROMPTS_AT_ONCE = 16


@dataclass(frozen=True)
class CrossAttentionLayer:
    """One `attn2` of a UNet: `queries_NHK` to draw from, its K/V projections, its outputs' variance over prompts."""

    name: str
    reads_both: bool
    queries_NHK: torch.Tensor
    to_k_ED: torch.Tensor
    to_v_ED: torch.Tensor
    variance: torch.Tensor

    def context(self, encoding: Encoding) -> torch.Tensor:
        """The base reads both encoders side by side, the refiner the second alone."""
        return encoding.prompt_embeds_BLD if self.reads_both else encoding.clip_bigg_BLD

    def output(self, encoding: Encoding, chosen_N: torch.Tensor) -> torch.Tensor:
        """(B, H, N, K) for the chosen queries."""
        return attention_output(self.queries_NHK[chosen_N], self.context(encoding), self.to_k_ED, self.to_v_ED)


def record(path: Path, base: str, refiner: str | None, teacher: TextEncoders, prompts: list[str], settings: QueryBank, seed: int) -> None:
    """Paints `prompts` with base and refiner and writes the bank. Raises DataError for a folder that cannot be loaded."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    metadata: dict[str, Any] = {}
    pipelines = load_pipelines(base, refiner)
    with _listening(pipelines, settings.queries_per_layer, generator) as heard:
        _paint(pipelines, prompts, settings, generator)
    encoding = teacher.encode(prompts)
    for name, (attention, reservoir) in heard.items():
        rows_NE = reservoir.rows_NE
        layer = CrossAttentionLayer(
            name,
            reads_both=name.startswith("base."),
            queries_NHK=rows_NE.unflatten(-1, (attention.heads, -1)),
            to_k_ED=attention.to_k.weight.detach().float().cpu(),
            to_v_ED=attention.to_v.weight.detach().float().cpu(),
            variance=torch.ones(()),
        )
        output_BHNK = layer.output(encoding, torch.arange(min(64, len(rows_NE))))
        tensors[f"{name}.queries"] = rows_NE.contiguous()
        tensors[f"{name}.to_k"], tensors[f"{name}.to_v"] = layer.to_k_ED.contiguous(), layer.to_v_ED.contiguous()
        tensors[f"{name}.variance"] = output_BHNK.var(dim=0, correction=0).mean()
        metadata[name] = attention.heads
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        save_file(tensors, temporary, metadata={"heads": json.dumps(metadata)})


def load(path: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> list[CrossAttentionLayer]:
    layers = []
    with safe_open(path, "pt", device=str(device)) as file:
        for name, heads in json.loads(file.metadata()["heads"]).items():
            layers.append(
                CrossAttentionLayer(
                    name,
                    name.startswith("base."),
                    file.get_tensor(f"{name}.queries").to(dtype).unflatten(-1, (heads, -1)),
                    file.get_tensor(f"{name}.to_k").to(dtype),
                    file.get_tensor(f"{name}.to_v").to(dtype),
                    file.get_tensor(f"{name}.variance"),
                )
            )
    return layers


@contextmanager
def _listening(pipelines: Pipelines, wanted: int, generator: torch.Generator) -> Iterator[dict[str, tuple[Any, "_Reservoir"]]]:
    """Collects a uniform sample of `wanted` rows of every `attn2.to_q` output while the block runs."""
    heard: dict[str, tuple[Any, _Reservoir]] = {}
    hooks = []
    for part, pipeline in zip(Pipelines._fields, pipelines, strict=True):
        for name, module in pipeline.unet.named_modules() if pipeline is not None else ():
            if name.endswith("attn2"):
                reservoir = _Reservoir(wanted, generator)
                heard[f"{part}.{name}"] = (module, reservoir)
                hooks.append(module.to_q.register_forward_hook(reservoir.hear))
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


class _Reservoir:
    """A uniform sample of all rows heard: each gets a random number, the `size` smallest stay."""

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self.size, self.generator = size, generator
        self.rows_NE = torch.empty(0)
        self.numbers_N = torch.empty(0)

    def hear(self, _module: Any, _inputs: Any, output_BNE: torch.Tensor) -> None:
        heard_NE = output_BNE.detach().flatten(0, -2)
        numbers_N = torch.rand(len(heard_NE), generator=self.generator)
        kept_N = numbers_N.argsort()[: self.size]
        rows_NE = torch.cat([self.rows_NE.reshape(-1, heard_NE.shape[-1]), heard_NE[kept_N.to(heard_NE.device)].float().cpu()])
        numbers_N = torch.cat([self.numbers_N, numbers_N[kept_N]])
        best_N = numbers_N.argsort()[: self.size]
        self.rows_NE, self.numbers_N = rows_NE[best_N], numbers_N[best_N]


@torch.no_grad()
def _paint(pipelines: Pipelines, prompts: list[str], settings: QueryBank, generator: torch.Generator) -> None:
    """Base all the way, then the refiner over its stretch: the noise levels at which each will be asked for pictures."""
    shared: dict[str, Any] = {"num_inference_steps": settings.inference_steps, "output_type": "latent"}
    for start in tqdm(range(0, len(prompts), PROMPTS_AT_ONCE), desc="query bank", unit=" batches"):
        chunk = prompts[start : start + PROMPTS_AT_ONCE]
        noise = [torch.Generator().manual_seed(int(torch.randint(2**31, (), generator=generator))) for _ in chunk]
        latents = pipelines.base(prompt=chunk, generator=noise, **shared).images
        if pipelines.refiner is not None:
            pipelines.refiner(prompt=chunk, image=latents, strength=0.3, generator=noise, **shared)
