"""Records the query bank (`distill/objective/query_bank.py`): the stock pipelines paint English
prompts while forward hooks look on.

In:  the folders of the UNets, the teacher, some English prompts.
Out: the bank's file. Until it is written, `recorded-<UNet>.safetensors` and
     `influences-<UNet>.json` lie beside it, so that an interrupted recording goes on.

Shape letters: B batch, L token position, D width, N queries, H heads, K width of one head, E = H *
K.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from configs.errors import DataError
from configs.files import read_json, whole, write_json
from configs.schema.distill import QueryBank
from distill.encoders.family import Family
from distill.encoders.teacher import Encoding, TextEncoders
from distill.objective.distances import attention_output
from distill.objective.projections import Projections
from distill.sdxl.pipelines import Pipelines, load_pipelines

PROMPTS_AT_ONCE = 16
CALLS, PROMPTS_OF_A_CALL = 4, 8  # recorded to measure the influence of layers
GENERATOR = "generator"  # the state of the random numbers after a recording


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

    Raises DataError for a folder that does not load, and for prompts that are all the same.
    """
    if len(set(prompts)) < 2:
        raise DataError(
            f"distill.query_bank.prompts: all {len(prompts)} are {prompts[0]!r}, so that no layer "
            "could be seen to react to its text; give pairs with different English texts"
        )
    generator = torch.Generator().manual_seed(seed)
    encoding = teacher.encode(prompts)
    tensors: dict[str, torch.Tensor] = {}
    heads: dict[str, int] = {}
    own = {part: part for part in Pipelines._fields if part in folders}
    for names in (own, *({"base": unet} for unet in folders if unet not in own)):
        found = _of_pipelines(
            path.parent, folders, names, teacher.family, encoding, prompts, settings, generator
        )
        tensors |= found[0]
        heads |= found[1]
    with whole(path) as temporary:
        digests = {unet: Projections(folder).sha256() for unet, folder in folders.items()}
        save_file(
            tensors,
            temporary,
            metadata={"heads": json.dumps(heads), "projections": json.dumps(digests)},
        )
    for left in (*path.parent.glob("recorded-*"), *path.parent.glob("influences-*")):
        left.unlink()


def _of_pipelines(
    folder: Path,
    folders: dict[str, str],
    names: dict[str, str],
    family: Family,
    encoding: Encoding,
    prompts: list[str],
    settings: QueryBank,
    generator: torch.Generator,
) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """The bank's tensors and numbers of heads of one pair of pipelines; `names`: what the bank
    calls the UNet of each. What is done already lies in `folder`.
    """
    base, refiner = folders[names["base"]], names.get("refiner")
    pipelines = load_pipelines(base, folders[refiner] if refiner else None, family)
    _check_width(pipelines, base, family, encoding)
    path = folder / f"recorded-{names['base']}.safetensors"
    if not path.is_file():
        found = _generate(pipelines, prompts, settings, generator)
        with whole(path) as temporary:
            save_file(found | {GENERATOR: generator.get_state()}, temporary)
    recorded = load_file(path)
    generator.set_state(recorded[GENERATOR])
    tensors: dict[str, torch.Tensor] = {}
    heads: dict[str, int] = {}
    for part, unet in names.items():
        model, context_BLD = getattr(pipelines, part).unet, encoding.context(family.readers[part])
        # In the UNet's order, which the file does not keep: a step draws layers by their place.
        queries = {
            name: recorded[key]
            for name, _ in model.named_modules()
            if (key := f"{part}.queries.{name}") in recorded
        }
        moved = influences(
            model,
            list(queries),
            _calls_of(part, recorded, model.device),
            folder / f"influences-{unet}.json",
        )
        if not any(moved.values()):
            raise DataError(
                f"{folders[unet]}: no layer of its UNet reacts to the prompts' text; give a UNet "
                "that is conditioned on text"
            )
        for layer, rows_NE in queries.items():
            attention, name = model.get_submodule(layer), f"{unet}.{layer}"
            queries_NHK = rows_NE[:64].float().unflatten(-1, (attention.heads, -1))
            output_BHNK = attention_output(
                queries_NHK.to(context_BLD.device),
                context_BLD,
                *(one.weight.detach().to(context_BLD) for one in (attention.to_k, attention.to_v)),
            )
            tensors[f"{name}.queries"], heads[name] = rows_NE, attention.heads
            tensors[f"{name}.variance"] = output_BHNK.var(dim=0, correction=0).mean().cpu()
            tensors[f"{name}.influence"] = torch.tensor(moved[layer])
    return tensors, heads


def _check_width(pipelines: Pipelines, folder: str, family: Family, encoding: Encoding) -> None:
    """Raises DataError for a UNet that reads other states than the teacher's."""
    width = next(
        module
        for name, module in pipelines.base.unet.named_modules()
        if name.endswith("attn2.to_k")
    ).in_features
    given = encoding.context(family.readers["base"]).shape[-1]
    if width != given:
        raise DataError(
            f"{folder}: its UNet reads states of width {width}, the teacher's have {given}; give "
            f"the UNet of an {family.name} base"
        )


@torch.no_grad()
def influences(
    unet: Any, layers: list[str], calls: list[dict[str, Any]], path: Path
) -> dict[str, float]:
    """By layer: mean squared change of the UNet's prediction when only this layer reads the next
    prompt's states. `path` holds what is measured, from the first layer on.
    """

    def next_prompt(_module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, kwargs | {
            "encoder_hidden_states": kwargs["encoder_hidden_states"].roll(1, dims=0)
        }

    found: dict[str, float] = read_json(path) if path.is_file() else {}
    missing = [layer for layer in layers if layer not in found]
    usual = [unet(**call).sample for call in calls] if missing else []
    for layer in tqdm(missing, desc="influence of layers", unit="layer", leave=False):
        hook = unet.get_submodule(layer).register_forward_pre_hook(next_prompt, with_kwargs=True)
        try:
            changes = [
                (unet(**call).sample - before).float().square().mean()
                for call, before in zip(calls, usual, strict=True)
            ]
        finally:
            hook.remove()
        found[layer] = float(torch.stack(changes).mean())
        with whole(path) as temporary:
            write_json(temporary, found)
    return found


def _calls_of(
    part: str, recorded: dict[str, torch.Tensor], device: torch.device
) -> list[dict[str, Any]]:
    """The arguments of the recorded calls, as `_recorded_calls` named them."""
    calls: list[dict[str, Any]] = []
    for number in range(CALLS):
        start = f"{part}.call{number}."
        found = {
            name.removeprefix(start): tensor.to(device)
            for name, tensor in recorded.items()
            if name.startswith(start)
        }
        if not found:
            break
        added = {
            name.removeprefix("added."): found.pop(name)
            for name in list(found)
            if name.startswith("added.")
        }
        # None where the UNet reads nothing but the text
        calls.append({**found, "added_cond_kwargs": added or None})
    return calls


@contextmanager
def _recorded_calls(pipelines: Pipelines) -> Iterator[dict[str, torch.Tensor]]:
    """The arguments of the UNets' first calls, `base.call0.sample` and so on: the conditional half
    of the batch, at most `PROMPTS_OF_A_CALL` prompts.
    """
    calls: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}
    hooks = []

    def hook_of(part: str, guided: bool, args: Any, kwargs: dict[str, Any]) -> None:
        number = counts.get(part, 0)
        counts[part] = number + 1
        if number >= CALLS:
            return
        # with guidance the negative prompts come first
        rows = slice(len(args[0]) // 2 if guided else 0, None)

        def few(tensor: torch.Tensor) -> torch.Tensor:
            return tensor[rows][:PROMPTS_OF_A_CALL].cpu().contiguous().clone()

        found = {
            "sample": few(args[0]),
            "timestep": torch.as_tensor(args[1]).cpu().clone(),
            "encoder_hidden_states": few(kwargs["encoder_hidden_states"]),
        }
        for name, tensor in (kwargs["added_cond_kwargs"] or {}).items():
            found[f"added.{name}"] = few(tensor)
        calls.update({f"{part}.call{number}.{name}": tensor for name, tensor in found.items()})

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
) -> Iterator[dict[str, "_Reservoir"]]:
    """Samples `wanted` rows of every `attn2.to_q` output uniformly while the context is open."""
    recorded: dict[str, _Reservoir] = {}
    hooks = []
    for part, pipeline in zip(Pipelines._fields, pipelines, strict=True):
        for name, module in pipeline.unet.named_modules() if pipeline is not None else ():
            if name.endswith("attn2"):
                reservoir = _Reservoir(wanted, generator)
                recorded[f"{part}.queries.{name}"] = reservoir
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
) -> dict[str, torch.Tensor]:
    """Runs the base over all steps, then the refiner over the last 30 %: the noise levels at which
    each is used.

    Of each layer a sample of its queries, `base.queries.<layer>` in fp16, and the first calls.
    """
    shared: dict[str, Any] = {
        "num_inference_steps": settings.inference_steps,
        "output_type": "latent",
    }
    with (
        _recorded_queries(pipelines, settings.queries_per_layer, generator) as recorded,
        _recorded_calls(pipelines) as calls,
    ):
        for start in tqdm(
            range(0, len(prompts), PROMPTS_AT_ONCE), desc="query bank", unit=" batches"
        ):
            chunk = prompts[start : start + PROMPTS_AT_ONCE]
            noise = [
                torch.Generator().manual_seed(int(torch.randint(2**31, (), generator=generator)))
                for _ in chunk
            ]
            latents = pipelines.base(prompt=chunk, generator=noise, **shared).images
            if pipelines.refiner is not None:
                pipelines.refiner(
                    prompt=chunk, image=latents, strength=0.3, generator=noise, **shared
                )
    queries = {name: reservoir.rows_NE.half().contiguous() for name, reservoir in recorded.items()}
    return queries | calls
