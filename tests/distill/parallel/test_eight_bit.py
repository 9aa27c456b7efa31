"""AdamW with moments of 8 bits: near AdamW's own steps, and its state through checkpoints. Where
bitsandbytes is not installed, only the refusal is tested.
"""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from groups import run_groups
from safetensors.torch import load_file, save_file
from torch import nn

from configs.errors import SetupError
from configs.schema.pace import Pace
from distill.checkpoints.checkpoint import Checkpoints, newest
from distill.parallel import engine, optimizers
from distill.plan import cost

needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed: pip install it"
)
STEPS = 6


def settings(precision: str = "fp32", decay: float = 0.8) -> Pace:
    rates = {"steps": 99, "batch_size": 4, "learning_rate": 1e-2}
    return Pace(**rates, precision=precision, ema_decay=decay, weight_decay=0.1)


def made_engine(optimizer: str, precision: str, decay: float = 0.8) -> engine.Engine:
    """Two groups, parameters of sizes that no block of 256 fits."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(30, 50), nn.Tanh(), nn.Linear(50, 37), nn.Linear(37, 5))
    engine.REDUCE_BUCKET = 10_000

    def group_of(name: str) -> str:
        return "first" if name.startswith("0.") else "rest"

    return engine.Engine(module, settings(precision, decay), group_of, optimizer)


def one_step(made: engine.Engine, step: int) -> None:
    rows = torch.randn(4, 30, generator=torch.Generator().manual_seed(step))
    rows = rows[engine.rank() :: engine.world_size()].to(made.parameters["0.weight"].dtype)
    made.micro_batch(last=True)
    made.backward(made(rows).float().square().sum() / 4)
    assert made.step(1e-2, {"first": 0.5})


def state(made: engine.Engine) -> dict[str, torch.Tensor]:
    return {
        f"{part} of {name}": made.whole(name, part).clone()
        for name in made.parameters
        for part in made.parts
    }


def train(folder: str) -> None:
    for precision in ("fp32", "bf16"):
        made, plain = (made_engine(one, precision) for one in ("adamw8bit", "adamw"))
        for step in range(STEPS):
            one_step(made, step)
            one_step(plain, step)
        found, exact = state(made), state(plain)
        for part, bound in (("weight", 0.02), ("average", 0.02), ("exp_avg", 0.05)):
            ours, theirs = (
                torch.cat([one[f"{part} of {name}"].flatten() for name in made.parameters])
                for one in (found, exact)
            )
            assert 0 < (ours - theirs).norm() < bound * theirs.norm(), part
        for name, ratio in made.update_ratios().items():
            assert ratio == pytest.approx(plain.update_ratios()[name], rel=0.1)
        assert not made.not_finite()
        Checkpoints(Path(folder) / f"{precision}_{engine.world_size()}", 2).save(made, STEPS)
        again = made_engine("adamw8bit", precision)
        there = Path(folder) / f"{precision}_{engine.world_size()}"
        assert Checkpoints(there, 2).resume(again, newest(there)) == STEPS
        for step in range(STEPS, STEPS + 3):
            one_step(made, step)
            one_step(again, step)
        after = state(made)
        assert all(value.equal(state(again)[name]) for name, value in after.items())
        if engine.rank() == 0:
            save_file(after, Path(folder) / f"{precision}_{engine.world_size()}_after")


def resume_on_another_number(folder: str) -> None:
    """What two processes saved: one goes on from it as they did, but for the rounding of blocks
    that are others.
    """
    made = made_engine("adamw8bit", "fp32")
    there = Path(folder) / "fp32_2"
    Checkpoints(there, 2).resume(made, newest(there))
    for step in range(STEPS, STEPS + 3):
        one_step(made, step)
    expected = load_file(Path(folder) / "fp32_2_after")
    for name, value in state(made).items():
        bound = 0.03 if name.startswith("exp_avg") else 1e-3
        assert (value - expected[name]).norm() <= bound * expected[name].norm(), name


@needs_bitsandbytes
def test_it_trains_as_adamw_does_and_resumes_to_the_bit(tmp_path: Path) -> None:
    groups = [(count, "train", {"folder": str(tmp_path)}) for count in (1, 2)]
    another = (1, "resume_on_another_number", {"folder": str(tmp_path)})
    run_groups(__file__, [*groups, another])


@needs_bitsandbytes
def test_moments_read_and_written_are_the_same_codes() -> None:
    """Whatever the sizes in a block, zeros among them; read in parts too."""
    torch.manual_seed(0)
    flat = nn.Parameter(torch.randn(100_003))
    group = {"params": [flat], "group": ""}
    optimizer = optimizers.make("adamw8bit", [group], 0.0, {"lr": 1e-3})
    sizes = 10 ** (-12 * torch.rand(len(flat)))
    sizes[20_000:40_000] = 0
    for _ in range(5):
        flat.grad = sizes * torch.randn_like(flat)
        optimizer.step()
    moments, state = optimizers.EightBitMoments(optimizer), optimizer.state[flat]
    for part, (codes, largest, _) in optimizers.STORED.items():
        numbers = moments.read(0, part, 0, len(flat))
        for start in (0, 777, 99_000):
            assert moments.read(0, part, start, 1003).equal(numbers[start : start + 1003])
        before, blocks = state[codes].clone(), state[largest].clone()
        state[codes].zero_()
        state[largest].zero_()
        moments.write(0, part, numbers)
        there = blocks.repeat_interleave(optimizers.BLOCK)[: len(flat)] > 0
        assert state[largest].equal(blocks) and 0 < there.sum() < len(flat)
        assert state[codes][there].equal(before[there])


@needs_bitsandbytes
def test_its_state_takes_two_bytes_a_parameter(tmp_path: Path) -> None:
    flat = nn.Parameter(torch.randn(100_000))
    flat.grad = torch.randn_like(flat)
    group = {"params": [flat], "group": ""}
    optimizer = optimizers.make("adamw8bit", [group], 0.9, {"lr": 1e-3})
    optimizer.step()
    kept = optimizer.state[flat]
    held = [value for name, value in kept.items() if torch.is_tensor(value) and "map" not in name]
    moments = sum(value.nbytes for value in held) - kept["average"].nbytes
    assert 2 * flat.numel() <= moments < 2.05 * flat.numel()


def test_the_plan_counts_two_bytes_a_parameter() -> None:
    fp32, eight = (cost.state_bytes(1000, 0, settings("bf16"), 4, bit) for bit in (False, True))
    assert fp32 - eight == 1000 * 6 / 4


def test_without_bitsandbytes_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match="pip install bitsandbytes"):
        optimizers.make("adamw8bit", [], 0.0, {})
    optimizers.check_installed("adamw")
