"""Our text tower against transformers' on the same tiny random weights; test_distill_teacher.py compares it with open_clip's."""

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from distill.clip_text import TextTower, tower_of, with_prefix

VOCAB = 99
EOS = VOCAB - 1


def config(activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=77,
        hidden_act=activation, projection_dim=32, bos_token_id=VOCAB - 2, eos_token_id=2, pad_token_id=1,
    )  # fmt: skip


def prompts() -> tuple[torch.Tensor, torch.Tensor]:
    """Ids of four prompts of different lengths, the shortest one empty and the longest one full, padded with EOS."""
    generator = torch.Generator().manual_seed(0)
    eos_position_B = torch.tensor([1, 5, 30, 76])
    ids_BL = torch.randint(0, VOCAB - 2, (4, 77), generator=generator)
    ids_BL[:, 0] = VOCAB - 2
    ids_BL[torch.arange(77) >= eos_position_B[:, None]] = EOS
    return ids_BL, eos_position_B


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_equals_transformers(activation: str) -> None:
    torch.manual_seed(0)
    ids_BL, eos_position_B = prompts()
    for kind in (CLIPTextModel, CLIPTextModelWithProjection):
        model = kind(config(activation)).eval()
        with torch.no_grad():
            expected = model(ids_BL, output_hidden_states=True)
            penultimate_BLD, pooled_BP = tower_of(model)(ids_BL, eos_position_B)
        torch.testing.assert_close(penultimate_BLD, expected.hidden_states[-2], rtol=0, atol=2e-6)
        if kind is CLIPTextModelWithProjection:
            torch.testing.assert_close(pooled_BP, expected.text_embeds, rtol=0, atol=2e-6)
        else:
            assert pooled_BP is None


def test_gradients_equal_transformers() -> None:
    torch.manual_seed(0)
    ids_BL, eos_position_B = prompts()
    model = CLIPTextModelWithProjection(config("gelu")).double()
    tower = tower_of(model).double()
    expected = model(ids_BL, output_hidden_states=True)
    (expected.hidden_states[-2].square().sum() + expected.text_embeds.square().sum()).backward()
    penultimate_BLD, pooled_BP = tower(ids_BL, eos_position_B)
    assert pooled_BP is not None
    (penultimate_BLD.square().sum() + pooled_BP.square().sum()).backward()
    ours = dict(tower.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[with_prefix(name)].grad, parameter.grad, rtol=1e-9, atol=1e-9)


def test_only_the_dead_parameters_get_no_gradient() -> None:
    ids_BL, eos_position_B = prompts()
    tower = TextTower(config("quick_gelu"), with_projection=False)
    tower(ids_BL, eos_position_B)[0].square().sum().backward()
    without = {id(parameter) for parameter in tower.parameters() if parameter.grad is None}
    assert without == {id(parameter) for parameter in tower.dead_parameters()} != set()
