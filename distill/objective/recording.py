"""Records the query bank (`distill/objective/query_bank.py`): the stock pipelines paint English
prompts while hooks look on (`painting.py`); then each layer's influence is measured.

In:  the folders of the UNets, the teacher, some English prompts.
Out: the bank's file. Until it is written, `recorded-<UNet>.safetensors` and
     `influences-<UNet>.json` lie beside it, so that an interrupted recording goes on.

Shape letters: B batch, L token position, D width, N queries, H heads, K width of one head, E = H *
K.
"""

import itertools
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from configs import memory
from configs.errors import DataError
from configs.files import read_json, whole, write_json
from configs.schema.distill import QueryBank
from distill.encoders.family import Family
from distill.encoders.teacher import Encoding, TextEncoders
from distill.objective import painting
from distill.objective.distances import attention_output
from distill.objective.painting import GENERATOR, QUERIES
from distill.objective.projections import Projections


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
    own = {part: part for part in painting.LOADERS if part in folders}
    for names in (own, *({"base": unet} for unet in folders if unet not in own)):
        read = teacher.family, encoding
        found = _of_pipelines(path.parent, folders, names, read, prompts, settings, generator)
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
    teacher: tuple[Family, Encoding],
    prompts: list[str],
    settings: QueryBank,
    generator: torch.Generator,
) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """The bank's tensors and numbers of heads of one pair of pipelines, one UNet in memory at a
    time; `names`: what the bank calls the UNet of each. What is done already lies in `folder`.
    """
    family, encoding = teacher
    tensors: dict[str, torch.Tensor] = {}
    heads: dict[str, int] = {}
    painted: dict[str, torch.Tensor] = {}  # by the base
    for part, unet in names.items():
        path, own = folder / f"recorded-{unet}.safetensors", folders[unet]
        made = path.is_file()
        embeds = [] if made else painting.embedded(part, own, family, prompts)
        memory.give_back()
        pipeline = painting.without_encoders(part, own, family)
        if part == "base":
            _check_width(pipeline.unet, own, family, encoding)
        if not made:
            if part == "base":
                refiner = folders[names["refiner"]] if "refiner" in names else None
                found = painting.paint_base(pipeline, embeds, settings, generator, refiner, family)
            else:
                found = painting.paint_refiner(pipeline, embeds, settings, painted)
            with whole(path) as temporary:
                save_file(found, temporary)
        recorded = load_file(path)
        if part == "base":
            painted = recorded
            generator.set_state(recorded[GENERATOR])
        context_BLD = encoding.context(family.readers[part])
        measured = _layers(pipeline.unet, recorded, context_BLD, folder / f"influences-{unet}.json")
        if not any(layer["influence"] for layer in measured.values()):
            raise DataError(
                f"{own}: no layer of its UNet reacts to the prompts' text; give a UNet that is "
                "conditioned on text"
            )
        for name, layer in measured.items():
            heads[f"{unet}.{name}"] = pipeline.unet.get_submodule(name).heads
            tensors |= {f"{unet}.{name}.{kind}": tensor for kind, tensor in layer.items()}
        del pipeline
        memory.give_back()
    return tensors, heads


def _layers(
    unet: Any, recorded: dict[str, torch.Tensor], context_BLD: torch.Tensor, path: Path
) -> dict[str, dict[str, torch.Tensor]]:
    """By layer of the UNet what the bank holds of it: `queries`, `variance` and `influence`, of
    which `path` holds what is measured.
    """
    # In the UNet's order, which the file does not keep: a step draws layers by their place.
    queries = {
        name: recorded[key]
        for name, _ in unet.named_modules()
        if (key := f"{QUERIES}.{name}") in recorded
    }
    moved = influences(unet, list(queries), _calls_of(recorded, unet.device), path)
    found = {}
    for name, rows_NE in queries.items():
        attention = unet.get_submodule(name)
        queries_NHK = rows_NE[:64].float().unflatten(-1, (attention.heads, -1))
        output_BHNK = attention_output(
            queries_NHK.to(context_BLD.device),
            context_BLD,
            *(one.weight.detach().to(context_BLD) for one in (attention.to_k, attention.to_v)),
        )
        found[name] = {
            "queries": rows_NE,
            "variance": output_BHNK.var(dim=0, correction=0).mean().cpu(),
            "influence": torch.tensor(moved[name]),
        }
    return found


def _check_width(unet: Any, folder: str, family: Family, encoding: Encoding) -> None:
    """Raises DataError for a UNet that reads other states than the teacher's."""
    width = next(
        module for name, module in unet.named_modules() if name.endswith("attn2.to_k")
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


def _calls_of(recorded: dict[str, torch.Tensor], device: torch.device) -> list[dict[str, Any]]:
    """The arguments of the recorded calls, as painting.py names them."""
    calls: list[dict[str, Any]] = []
    for number in itertools.count():
        start = f"call{number}."
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
