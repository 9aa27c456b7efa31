"""Our text tower against transformers' on the same tiny random weights; test_distill_teacher.py
compares it with open_clip's.
"""

import copy

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from distill.encoders.tower import TextTower, tower_of, with_prefix

VOCAB = 99
EOS = VOCAB - 1


def config(activation: str, width: int = 32, layers: int = 3, heads: int = 4) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=VOCAB,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=77,
        hidden_act=activation,
        projection_dim=width,
        bos_token_id=VOCAB - 2,
        eos_token_id=2,
        pad_token_id=1,
    )


def prompts() -> tuple[torch.Tensor, torch.Tensor]:
    """Ids of four prompts of different lengths, the shortest one empty and the longest one full,
    padded with EOS.
    """
    generator = torch.Generator().manual_seed(0)
    eos_position_B = torch.tensor([1, 5, 30, 76])
    ids_BL = torch.randint(0, VOCAB - 2, (4, 77), generator=generator)
    ids_BL[:, 0] = VOCAB - 2
    ids_BL[torch.arange(77) >= eos_position_B[:, None]] = EOS
    return ids_BL, eos_position_B


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (CLIPTextModel, config("quick_gelu")),
        (CLIPTextModelWithProjection, config("gelu")),
        (CLIPTextModel, config("quick_gelu", width=768, layers=12, heads=12)),  # CLIP-L
        (
            CLIPTextModelWithProjection,
            config("gelu", width=1280, layers=6, heads=20),
        ),  # bigG's blocks, of which it has 32
    ],
)
def test_equals_transformers(kind: type, config: CLIPTextConfig) -> None:
    """The penultimate states bit by bit; the pooled one up to rounding, since transformers computes
    the last block at all positions.
    """
    torch.manual_seed(0)
    ids_BL, eos_position_B = prompts()
    model = kind(config).eval()
    with torch.no_grad():
        expected = model(ids_BL, output_hidden_states=True)
        penultimate_BLD, pooled_BP = tower_of(model, "penultimate")(ids_BL, eos_position_B)
    assert penultimate_BLD.equal(expected.hidden_states[-2])
    if kind is CLIPTextModelWithProjection:
        torch.testing.assert_close(pooled_BP, expected.text_embeds, rtol=0, atol=5e-6)
    else:
        assert pooled_BP is None


@pytest.mark.parametrize("kind", [CLIPTextModel, CLIPTextModelWithProjection])
def test_final_states_equal_transformers_and_need_every_parameter(kind: type) -> None:
    """What SD reads. A cut last block or final norm would train to nonsense with a falling loss."""
    torch.manual_seed(0)
    ids_BL, eos_position_B = prompts()
    model = kind(config("quick_gelu")).eval()
    with torch.no_grad():
        expected = model(ids_BL)
    tower = tower_of(model, "final")
    states_BLD, pooled_BP = tower(ids_BL, eos_position_B)
    assert states_BLD.equal(expected.last_hidden_state)
    if kind is CLIPTextModelWithProjection:
        torch.testing.assert_close(pooled_BP, expected.text_embeds, rtol=0, atol=5e-6)
    loss = states_BLD.square().mul(torch.arange(32)).sum()
    (loss if pooled_BP is None else loss + pooled_BP.square().sum()).backward()
    assert tower.dead_parameters() == []
    assert all(one.grad is not None and one.grad.any() for one in tower.parameters())


def test_gradients_equal_transformers() -> None:
    torch.manual_seed(0)
    ids_BL, eos_position_B = prompts()
    model = CLIPTextModelWithProjection(config("gelu")).double()
    tower = tower_of(model, "penultimate").double()
    expected = model(ids_BL, output_hidden_states=True)
    (expected.hidden_states[-2].square().sum() + expected.text_embeds.square().sum()).backward()
    penultimate_BLD, pooled_BP = tower(ids_BL, eos_position_B)
    assert pooled_BP is not None
    (penultimate_BLD.square().sum() + pooled_BP.square().sum()).backward()
    ours = dict(tower.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            ours[with_prefix(name)].grad, parameter.grad, rtol=1e-9, atol=1e-9
        )


def test_only_the_dead_parameters_get_no_gradient() -> None:
    ids_BL, eos_position_B = prompts()
    tower = TextTower(config("quick_gelu"), "penultimate", with_projection=False)
    tower(ids_BL, eos_position_B)[0].square().sum().backward()
    without = {id(parameter) for parameter in tower.parameters() if parameter.grad is None}
    assert without == {id(parameter) for parameter in tower.dead_parameters()} != set()


def test_no_graph_break() -> None:
    torch.manual_seed(0)
    ids_BL, eos_position_B = prompts()
    tower = TextTower(config("gelu"), "penultimate", with_projection=True)
    whole = torch.compile(tower, fullgraph=True, backend="eager")
    for one, other in zip(
        whole(ids_BL, eos_position_B), tower(ids_BL, eos_position_B), strict=True
    ):
        assert one.equal(other)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)  # torch's compiler looks at it itself
def test_compiled_blocks_compute_the_same_for_any_number_of_prompts_and_positions() -> None:
    torch.manual_seed(0)
    tower = TextTower(config("gelu"), "penultimate", with_projection=True)
    compiled = copy.deepcopy(tower)
    compiled.compile_layers()
    ids_BL, eos_position_B = prompts()
    for rows, length in ((slice(4), 77), (slice(2), 9), (slice(1), 77)):
        gradients = []
        for one in (tower, compiled):
            one.zero_grad()
            penultimate_BLD, pooled_BP = one(ids_BL[rows, :length], eos_position_B[rows])
            (penultimate_BLD.square().sum() + pooled_BP.square().sum()).backward()
            gradients.append(
                [penultimate_BLD, pooled_BP, *(parameter.grad for parameter in one.parameters())]
            )
        for eager, fused in zip(*gradients, strict=True):
            torch.testing.assert_close(fused, eager, rtol=1e-4, atol=1e-3)
