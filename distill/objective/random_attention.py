"""Attention layers with random projections, which stand for UNets unknown to training. Needs no
UNet.

In:  the teacher's statistics and some English prompts.
Out: `<run>/distill/measured/random_attention.safetensors`: the variance of the teacher's outputs by
     layer. The layers themselves are sampled from the seed whenever they are loaded.

Shape letters: D width, N queries, H heads, K width of one head, E = H * K.
"""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from configs.files import whole
from configs.schema.distill import RandomAttention
from distill.encoders.family import Family
from distill.encoders.teacher import TextEncoders
from distill.objective import distances
from distill.objective.query_bank import CrossAttentionLayer
from distill.objective.teacher_statistics import Statistics

QUERIES = 512  # a layer
# Standard deviations of the logits: low ones average the whole prompt, high ones read one word.
SHARPNESS = (1.0, 2.0, 4.0)


def draw(
    settings: RandomAttention, family: Family, statistics: Statistics, seed: int
) -> list[CrossAttentionLayer]:
    """As many layers for every reader of the family: of SDXL's, half read the parts that the
    base reads, half those of the refiner.

    Whitening (states minus their mean, divided by their standard deviation) is folded into the
    projections. The mean is left out: it shifts all keys and all values alike, which changes
    neither the softmax nor a difference of outputs.
    """
    generator = torch.Generator().manual_seed(seed)
    width = settings.heads * settings.head_width
    deviations = {
        name: distances.floored(variance_D.cpu()).sqrt()
        for name, variance_D in statistics.states.items()
    }
    readers = [parts for parts in family.readers.values() for _ in range(settings.layers)]
    layers, share = [], 1 / len(readers)
    for i, parts in enumerate(readers):
        deviation_D = torch.cat([deviations[name] for name in parts])
        to_k_ED, to_v_ED = (
            torch.randn(width, len(deviation_D), generator=generator)
            / deviation_D
            / len(deviation_D) ** 0.5
            for _ in range(2)
        )
        queries_NHK = (
            torch.randn(QUERIES, settings.heads, settings.head_width, generator=generator)
            * SHARPNESS[i % len(SHARPNESS)]
        )
        layers.append(
            CrossAttentionLayer(
                f"random.{i}",
                parts,
                queries_NHK,
                to_k_ED,
                to_v_ED,
                torch.ones(()),
                share,
            )
        )
    return layers


@torch.no_grad()
def record(
    path: Path,
    settings: RandomAttention,
    statistics: Statistics,
    teacher: TextEncoders,
    prompts: list[str],
    seed: int,
) -> None:
    """Measures the variance over `prompts` of each layer's outputs."""
    encoding = teacher.encode(prompts).map(torch.Tensor.cpu)
    some = torch.arange(64)
    variances = [
        layer.output(encoding, some).var(dim=0, correction=0).mean()
        for layer in draw(settings, teacher.family, statistics, seed)
    ]
    with whole(path) as temporary:
        save_file({"variance": torch.stack(variances)}, temporary)


def load(
    path: Path,
    settings: RandomAttention,
    family: Family,
    statistics: Statistics,
    seed: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> list[CrossAttentionLayer]:
    """The layers with their measured variances, on the device."""
    variances = load_file(path)["variance"]
    layers = draw(settings, family, statistics, seed)
    return [
        replace(
            layer,
            queries_NHK=layer.queries_NHK.to(device, dtype),
            to_k_ED=layer.to_k_ED.to(device, dtype),
            to_v_ED=layer.to_v_ED.to(device, dtype),
            variance=variance.to(device),
        )
        for layer, variance in zip(layers, variances, strict=True)
    ]
