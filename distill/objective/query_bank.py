"""Queries of the frozen UNets' cross-attention layers, recorded once, so that training needs no
UNet and no image.

In:  the base (and refiner) folder and some English prompts; the stock pipelines generate images for
     them while forward hooks record.
Out: `<run>/distill/measured/query_bank.safetensors`: per layer a sample of its queries (fp16), the
     variance of the layer's outputs on the teacher's states, and how much the UNet's prediction
     changes when this layer alone sees another prompt. The `to_k` and `to_v` weights stay in the
     UNet's file; the bank holds their digests, so that a changed UNet is detected.

Shape letters: B batch, L token position, D width, N queries, H heads, K width of one head, E = H *
K.
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

from configs.errors import DataError
from configs.files import whole
from configs.schema.distill import QueryBank, unet_shares
from distill.encoders.family import Family
from distill.encoders.teacher import Encoding, TextEncoders
from distill.objective.distances import attention_output
from distill.objective.projections import Projections
from distill.sdxl.pipelines import Pipelines, load_pipelines

PROMPTS_AT_ONCE = 16
CALLS, PROMPTS_OF_A_CALL = 4, 8  # recorded to measure the influence of layers


@dataclass(frozen=True)
class CrossAttentionLayer:
    """One `attn2` of a UNet: recorded queries, K/V projections, and the variance of its outputs
    over prompts.

    `parts`: the encoders whose states it reads. `share`: probability of being sampled, proportional
    to how much the prediction changes when only this layer sees another prompt; sums to 1 over all
    layers.
    """

    name: str
    parts: tuple[str, ...]
    queries_NHK: torch.Tensor
    to_k_ED: torch.Tensor
    to_v_ED: torch.Tensor
    variance: torch.Tensor
    share: float

    def output(
        self, encoding: Encoding, chosen_N: torch.Tensor, visible_BL: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(B, H, N, K): the layer's output for the chosen queries; `visible_BL` masks states."""
        return attention_output(
            self.queries_NHK[chosen_N],
            encoding.context(self.parts),
            self.to_k_ED,
            self.to_v_ED,
            visible_BL,
        )


def record(
    path: Path,
    folders: dict[str, str],
    teacher: TextEncoders,
    prompts: list[str],
    settings: QueryBank,
    seed: int,
) -> None:
    """Generates images for `prompts` with the UNets of `folders` (by `Distill.unets`) and writes
    the bank.

    Raises DataError for a folder that does not load.
    """
    generator = torch.Generator().manual_seed(seed)
    encoding = teacher.encode(prompts)
    tensors: dict[str, torch.Tensor] = {}
    heads: dict[str, int] = {}
    own = {part: part for part in Pipelines._fields if part in folders}
    for names in (own, *({"base": unet} for unet in folders if unet not in own)):
        pipelines = load_pipelines(
            folders[names["base"]],
            folders[names["refiner"]] if "refiner" in names else None,
            teacher.family,
        )
        width = next(
            module
            for name, module in pipelines.base.unet.named_modules()
            if name.endswith("attn2.to_k")
        ).in_features
        given = encoding.context(teacher.family.readers["base"]).shape[-1]
        if width != given:
            raise DataError(
                f"{folders[names['base']]}: its UNet reads states of width {width}, the teacher's "
                f"have {given}; give the UNet of an {teacher.family.name} base"
            )
        found_tensors, found_heads = _of_pipelines(
            pipelines, names, teacher.family, encoding, prompts, settings, generator
        )
        tensors |= found_tensors
        heads |= found_heads
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        digests = {unet: Projections(folder).sha256() for unet, folder in folders.items()}
        save_file(
            tensors,
            temporary,
            metadata={"heads": json.dumps(heads), "projections": json.dumps(digests)},
        )


def _of_pipelines(
    pipelines: Pipelines,
    names: dict[str, str],
    family: Family,
    encoding: Encoding,
    prompts: list[str],
    settings: QueryBank,
    generator: torch.Generator,
) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """The bank's tensors and numbers of heads; `names`: what the bank calls the UNet of each
    pipeline.
    """
    tensors: dict[str, torch.Tensor] = {}
    heads: dict[str, int] = {}
    with (
        _recorded_queries(pipelines, settings.queries_per_layer, generator) as recorded,
        _recorded_calls(pipelines) as calls,
    ):
        _generate(pipelines, prompts, settings, generator)
    for part, unet in names.items():
        of_part = {
            name.removeprefix(f"{part}."): found
            for name, found in recorded.items()
            if name.startswith(f"{part}.")
        }
        context_BLD = encoding.context(family.readers[part])
        moved = influences(getattr(pipelines, part).unet, list(of_part), calls[part])
        for layer, (attention, reservoir) in of_part.items():
            name, rows_NE = f"{unet}.{layer}", reservoir.rows_NE.half()
            queries_NHK = rows_NE[:64].float().unflatten(-1, (attention.heads, -1))
            to_k_ED, to_v_ED = (
                projection.weight.detach().float().cpu()
                for projection in (attention.to_k, attention.to_v)
            )
            output_BHNK = attention_output(queries_NHK, context_BLD, to_k_ED, to_v_ED)
            tensors[f"{name}.queries"], heads[name] = rows_NE.contiguous(), attention.heads
            tensors[f"{name}.variance"] = output_BHNK.var(dim=0, correction=0).mean()
            tensors[f"{name}.influence"] = moved[layer]
    return tensors, heads


def load(
    path: Path,
    folders: dict[str, str],
    settings: QueryBank,
    family: Family,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> list[CrossAttentionLayer]:
    """The layers with their projections, read from the UNets' own files.

    Raises DataError if those are missing or have changed.
    """
    with safe_open(path, "pt", device=str(device)) as file:
        heads, digests = (json.loads(file.metadata()[name]) for name in ("heads", "projections"))
        names = file.keys()  # the handle is no mapping
        stored = {name: file.get_tensor(name) for name in names}
    shares = layer_shares(
        {name: float(stored[f"{name}.influence"]) for name in heads}, settings.refiner_share
    )
    weights = {unet: Projections(folder) for unet, folder in folders.items()}
    layers = []
    for name, count in heads.items():
        unet, _, layer_name = name.partition(".")
        to_k_ED, to_v_ED = (
            weights[unet].read(f"{layer_name}.{kind}.weight").to(device, dtype)
            for kind in ("to_k", "to_v")
        )
        queries_NHK = stored[f"{name}.queries"].to(dtype).unflatten(-1, (count, -1))
        layers.append(
            CrossAttentionLayer(
                name,
                family.parts_read_by(unet),
                queries_NHK,
                to_k_ED,
                to_v_ED,
                stored[f"{name}.variance"],
                shares[name],
            )
        )
    for unet, projections in weights.items():
        if projections.sha256() != digests[unet]:
            raise DataError(
                f"{folders[unet]}: its UNet is not the one the query bank was recorded from; put "
                "that one back"
            )
    return layers


def layer_shares(influences: dict[str, float], refiner_share: float) -> dict[str, float]:
    """Each layer's probability of being sampled: its UNet's share (`unet_shares`), split within the
    UNet in proportion to influence.
    """
    totals: dict[str, float] = {}
    for name, value in influences.items():
        totals[unet_of(name)] = totals.get(unet_of(name), 0.0) + value
    parts = unet_shares(totals, refiner_share)
    return {
        name: parts[unet_of(name)] * value / totals[unet_of(name)]
        for name, value in influences.items()
    }


def unet_of(layer: str) -> str:
    """The UNet of a layer's name: `base` of `base.mid_block...`."""
    return layer.partition(".")[0]


@torch.no_grad()
def influences(
    unet: Any, layers: list[str], calls: list[dict[str, Any]]
) -> dict[str, torch.Tensor]:
    """By layer, a scalar: mean squared change of the UNet's prediction when only this layer reads
    the next prompt's states.
    """

    def next_prompt(_module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, kwargs | {
            "encoder_hidden_states": kwargs["encoder_hidden_states"].roll(1, dims=0)
        }

    usual = [unet(**call).sample for call in calls]
    found = {}
    for layer in tqdm(layers, desc="influence of layers", unit="layer", leave=False):
        hook = unet.get_submodule(layer).register_forward_pre_hook(next_prompt, with_kwargs=True)
        try:
            changes = [
                (unet(**call).sample - before).float().square().mean()
                for call, before in zip(calls, usual, strict=True)
            ]
        finally:
            hook.remove()
        found[layer] = torch.stack(changes).mean().cpu()
    return found


@contextmanager
def _recorded_calls(pipelines: Pipelines) -> Iterator[dict[str, list[dict[str, Any]]]]:
    """By pipeline, the arguments of the UNet's first calls: the conditional half of the batch, at
    most `PROMPTS_OF_A_CALL` prompts.
    """
    calls: dict[str, list[dict[str, Any]]] = {}
    hooks = []

    def hook_of(part: str, guided: bool, args: Any, kwargs: dict[str, Any]) -> None:
        if len(calls.setdefault(part, [])) < CALLS:
            rows = slice(
                len(args[0]) // 2 if guided else 0, None
            )  # with guidance the negative prompts come first

            def few(tensor: torch.Tensor) -> torch.Tensor:
                return tensor[rows][:PROMPTS_OF_A_CALL].clone()

            added = kwargs["added_cond_kwargs"]  # None where the UNet reads nothing but the text
            added = added and {name: few(tensor) for name, tensor in added.items()}
            states = few(kwargs["encoder_hidden_states"])
            calls[part].append(
                {
                    "sample": few(args[0]),
                    "timestep": args[1],
                    "encoder_hidden_states": states,
                    "added_cond_kwargs": added,
                }
            )

    for part, pipeline in zip(Pipelines._fields, pipelines, strict=True):
        if pipeline is not None:
            guided = (
                pipeline.unet.config.time_cond_proj_dim is None
            )  # as the pipelines decide, at their default guidance scale
            hook = pipeline.unet.register_forward_pre_hook(
                lambda _m, args, kwargs, p=part, g=guided: hook_of(p, g, args, kwargs),
                with_kwargs=True,
            )
            hooks.append(hook)
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _recorded_queries(
    pipelines: Pipelines, wanted: int, generator: torch.Generator
) -> Iterator[dict[str, tuple[Any, "_Reservoir"]]]:
    """Samples `wanted` rows of every `attn2.to_q` output uniformly while the context is open."""
    recorded: dict[str, tuple[Any, _Reservoir]] = {}
    hooks = []
    for part, pipeline in zip(Pipelines._fields, pipelines, strict=True):
        for name, module in pipeline.unet.named_modules() if pipeline is not None else ():
            if name.endswith("attn2"):
                reservoir = _Reservoir(wanted, generator)
                recorded[f"{part}.{name}"] = (module, reservoir)
                hooks.append(module.to_q.register_forward_hook(reservoir.add))
    try:
        yield recorded
    finally:
        for hook in hooks:
            hook.remove()


class _Reservoir:
    """A uniform sample of the rows seen: each gets a random number, the `size` smallest stay."""

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self.size, self.generator = size, generator
        self.rows_NE = torch.empty(0)
        self.numbers_N = torch.empty(0)

    def add(self, _module: Any, _inputs: Any, output_BNE: torch.Tensor) -> None:
        seen_NE = output_BNE.detach().flatten(0, -2)
        numbers_N = torch.rand(len(seen_NE), generator=self.generator)
        kept_N = numbers_N.argsort()[: self.size]
        rows_NE = torch.cat(
            [
                self.rows_NE.reshape(-1, seen_NE.shape[-1]),
                seen_NE[kept_N.to(seen_NE.device)].float().cpu(),
            ]
        )
        numbers_N = torch.cat([self.numbers_N, numbers_N[kept_N]])
        best_N = numbers_N.argsort()[: self.size]
        self.rows_NE, self.numbers_N = rows_NE[best_N], numbers_N[best_N]


@torch.no_grad()
def _generate(
    pipelines: Pipelines, prompts: list[str], settings: QueryBank, generator: torch.Generator
) -> None:
    """Runs the base over all steps, then the refiner over the last 30 %: the noise levels at which
    each is used.
    """
    shared: dict[str, Any] = {
        "num_inference_steps": settings.inference_steps,
        "output_type": "latent",
    }
    for start in tqdm(range(0, len(prompts), PROMPTS_AT_ONCE), desc="query bank", unit=" batches"):
        chunk = prompts[start : start + PROMPTS_AT_ONCE]
        noise = [
            torch.Generator().manual_seed(int(torch.randint(2**31, (), generator=generator)))
            for _ in chunk
        ]
        latents = pipelines.base(prompt=chunk, generator=noise, **shared).images
        if pipelines.refiner is not None:
            pipelines.refiner(prompt=chunk, image=latents, strength=0.3, generator=noise, **shared)
