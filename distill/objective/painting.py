"""The unmodified pipelines paint English prompts while hooks look on, with one UNet in memory at a
time: what `recording.py` makes the query bank of.

The sampled queries and the noise come from one generator. It is used batch by batch, base before
refiner, although the base paints all batches before the refiner is loaded: `_refiner_draws` tells
how many numbers to leave out for the refiner.

Shape letters: B batch, N queries, E width of a layer.
"""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from tqdm import tqdm

from configs.files import read_json
from configs.schema.distill import QueryBank
from distill.encoders.family import Family
from distill.sdxl.pipelines import device, load_base, load_refiner, painting_dtype
from distill.sdxl.repository import STEMS, fetch

PROMPTS_AT_ONCE = 16
STRENGTH = 0.3  # the refiner's share of the steps, the last: the noise levels at which it is used
PROMPTS_OF_A_CALL = 8  # at most, recorded to measure the influence of layers
QUERIES = "queries"
GENERATOR = "generator"  # the state of the random numbers after a recording
# By batch of prompts, for the refiner: what the base painted, the states of its noise's generators
# and of ours, and how many numbers were left out.
LATENTS, NOISE, STATES, LEFT_OUT = "latents", "noise", "states", "left_out"
LOADERS = {"base": load_base, "refiner": load_refiner}
EMBEDS = (
    "prompt_embeds",
    "negative_prompt_embeds",
    "pooled_prompt_embeds",
    "negative_pooled_prompt_embeds",
)
Embeds = dict[str, torch.Tensor]  # what a pipeline takes instead of a batch of prompts


@torch.no_grad()
def embedded(part: str, folder: str, family: Family, prompts: list[str]) -> list[Embeds]:
    """By batch: the prompts as the pipeline of `part` encodes them. Its text encoders alone are
    loaded. Raises DataError.
    """
    pipeline = LOADERS[part](folder, family, painting_dtype(), tuple(STEMS))
    chunks = [prompts[at : at + PROMPTS_AT_ONCE] for at in range(0, len(prompts), PROMPTS_AT_ONCE)]
    guided = {"num_images_per_prompt": 1, "do_classifier_free_guidance": True}
    found = [pipeline.encode_prompt(prompt=one, device=device(), **guided) for one in chunks]
    return [dict(zip(EMBEDS, tensors, strict=False)) for tensors in found]  # SD's gives two


def without_encoders(part: str, folder: str, family: Family) -> Any:
    """The pipeline of `part`, to be given `embedded` prompts. Raises DataError."""
    encoders = tuple(part.subfolder for part in family.parts.values())
    return LOADERS[part](folder, family, painting_dtype(), encoders)


@torch.no_grad()
def paint_base(
    painter: Any,
    prompts: list[Embeds],
    settings: QueryBank,
    generator: torch.Generator,
    refiner: str | None,
    family: Family,
) -> dict[str, torch.Tensor]:
    """Paints over all steps. Of each layer a sample of its queries, `queries.<layer>` in fp16; the
    first calls; and what `paint_refiner` goes on from, where there is a refiner (its folder).
    """
    draws = cache(lambda shape: _refiner_draws(str(refiner), family, settings, shape))
    painted: dict[str, list[torch.Tensor]] = {LATENTS: [], NOISE: [], STATES: [], LEFT_OUT: []}
    with _looking_on(painter.unet, settings, generator) as (recorded, calls):
        for chunk in tqdm(prompts, desc="query bank", unit=" batches"):
            noise = [
                torch.Generator().manual_seed(int(torch.randint(2**31, (), generator=generator)))
                for _ in chunk[EMBEDS[0]]
            ]
            latents = painter(**chunk, generator=noise, **_shared(settings)).images
            if refiner is not None:
                left_out = draws(latents.shape)
                painted[LATENTS].append(latents.cpu())
                painted[NOISE] += [one.get_state() for one in noise]
                painted[STATES].append(generator.get_state())
                painted[LEFT_OUT].append(torch.tensor(sum(left_out)))
                for count in left_out:
                    torch.rand(count, generator=generator)
    found = _found(recorded) | calls | {GENERATOR: generator.get_state()}
    if refiner is not None:
        found |= {name: torch.stack(painted[name]) for name in (NOISE, STATES, LEFT_OUT)}
        found[LATENTS] = torch.cat(painted[LATENTS])
    return found


@torch.no_grad()
def paint_refiner(
    painter: Any, prompts: list[Embeds], settings: QueryBank, painted: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Paints the last steps of what `paint_base` has painted; queries and calls as it gives."""
    generator = torch.Generator()
    batches = (painted[name].split(PROMPTS_AT_ONCE) for name in (LATENTS, NOISE))
    with _looking_on(painter.unet, settings, generator) as (recorded, calls):
        for chunk, latents, states, state, left_out in tqdm(
            zip(prompts, *batches, painted[STATES], painted[LEFT_OUT].tolist(), strict=True),
            desc="query bank, refiner",
            unit=" batches",
            total=len(prompts),
        ):
            # Cloned: torch reads a row of a larger tensor at the wrong place, and crashes.
            generator.set_state(state.clone())
            noise = [torch.Generator() for _ in states]
            for one, its_state in zip(noise, states, strict=True):
                one.set_state(its_state.clone())
            before = sum(reservoir.seen for reservoir in recorded.values())
            painter(
                **chunk,
                image=latents.to(device()),
                strength=STRENGTH,
                generator=noise,
                **_shared(settings),
            )
            seen = sum(reservoir.seen for reservoir in recorded.values()) - before
            assert seen == left_out, f"the refiner drew {seen} numbers, {left_out} were left out"
    return _found(recorded) | calls


@torch.no_grad()
def _refiner_draws(
    folder: str, family: Family, settings: QueryBank, latents: torch.Size
) -> list[int]:
    """How many random numbers sampling the refiner's queries takes for a batch of such latents, in
    order: the rows that each layer sees. From its UNet's shape alone, without numbers (meta
    tensors). Raises DataError.
    """
    pipeline = load_refiner(folder, family, without=(*STEMS, "text_encoder", "text_encoder_2"))
    pipeline.scheduler.set_timesteps(settings.inference_steps)
    steps, _ = pipeline.get_timesteps(settings.inference_steps, STRENGTH, "cpu")
    config = read_json(fetch(folder, ["unet/config.json"]) / "unet" / "config.json")
    draws: list[int] = []
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
        for name, module in unet.named_modules():
            if name.endswith("attn2"):
                module.to_q.register_forward_hook(
                    lambda _m, _i, output: draws.append(output[..., 0].numel())
                )
        rows = latents[0] * (2 if _guided(unet) else 1)
        added = unet.config.projection_class_embeddings_input_dim
        added -= unet.config.addition_time_embed_dim
        unet(
            torch.empty(rows, *latents[1:]),
            torch.zeros(()),
            torch.empty(rows, 77, unet.config.cross_attention_dim),
            added_cond_kwargs={
                "text_embeds": torch.empty(rows, added),
                "time_ids": torch.empty(rows, 1),
            },
        )
    return draws * len(steps)


def _shared(settings: QueryBank) -> dict[str, Any]:
    return {"num_inference_steps": settings.inference_steps, "output_type": "latent"}


def _guided(unet: Any) -> bool:
    """As the pipelines decide, at their default guidance scale."""
    return unet.config.time_cond_proj_dim is None


@contextmanager
def _looking_on(
    unet: Any, settings: QueryBank, generator: torch.Generator
) -> Iterator[tuple[dict[str, "_Reservoir"], dict[str, torch.Tensor]]]:
    with ExitStack() as hooks:
        queries = _recorded_queries(unet, settings.queries_per_layer, generator)
        yield (
            hooks.enter_context(queries),
            hooks.enter_context(_recorded_calls(unet, settings.influence_calls)),
        )


def _found(recorded: dict[str, "_Reservoir"]) -> dict[str, torch.Tensor]:
    return {name: reservoir.rows_NE.half().contiguous() for name, reservoir in recorded.items()}


@contextmanager
def _recorded_calls(unet: Any, wanted: int) -> Iterator[dict[str, torch.Tensor]]:
    """The arguments of its first `wanted` calls, `call0.sample` and so on: the conditional half of
    the batch, at most `PROMPTS_OF_A_CALL` prompts.
    """
    calls: dict[str, torch.Tensor] = {}
    numbers = itertools.count()

    def look(_module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        number = next(numbers)
        if number >= wanted:
            return
        # with guidance the negative prompts come first
        rows = slice(len(args[0]) // 2 if _guided(unet) else 0, None)

        def few(tensor: torch.Tensor) -> torch.Tensor:
            return tensor[rows][:PROMPTS_OF_A_CALL].cpu().contiguous().clone()

        found = {
            "sample": few(args[0]),
            "timestep": torch.as_tensor(args[1]).cpu().clone(),
            "encoder_hidden_states": few(kwargs["encoder_hidden_states"]),
        }
        for name, tensor in (kwargs["added_cond_kwargs"] or {}).items():
            found[f"added.{name}"] = few(tensor)
        calls.update({f"call{number}.{name}": tensor for name, tensor in found.items()})

    hook = unet.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield calls
    finally:
        hook.remove()


@contextmanager
def _recorded_queries(
    unet: Any, wanted: int, generator: torch.Generator
) -> Iterator[dict[str, "_Reservoir"]]:
    """Samples `wanted` rows of every `attn2.to_q` output uniformly while the context is open."""
    recorded: dict[str, _Reservoir] = {}
    hooks = []
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            recorded[f"{QUERIES}.{name}"] = reservoir = _Reservoir(wanted, generator)
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
        self.seen = 0  # rows, and so random numbers drawn

    def add(self, _module: Any, _inputs: Any, output_BNE: torch.Tensor) -> None:
        seen_NE = output_BNE.detach().flatten(0, -2)
        numbers_N = torch.rand(len(seen_NE), generator=self.generator)
        self.seen += len(seen_NE)
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
