"""The engine against plain torch, and its state through checkpoints: averages, skipped steps, any
number of processes after any other.
"""

from pathlib import Path

import pytest
import torch
from groups import run_groups
from safetensors.torch import load_file, save_file
from torch import nn

from configs import files
from configs.errors import DataError, SetupError
from configs.schema.distill import Distill, Objective
from distill.checkpoints import saved_state
from distill.checkpoints.checkpoint import Checkpoints
from distill.parallel import engine

DECAY, STEPS, MORE = 0.8, 6, 3
KINDS = [(precision, decay) for precision in ("fp32", "bf16") for decay in (0.0, DECAY)]


def made_engine(precision: str, decay: float) -> engine.Engine:
    settings = Distill(
        base="x",
        objective=Objective(),
        steps=99,
        batch_size=6,
        learning_rate=1e-2,
        precision=precision,
        ema_decay=decay,
    )
    engine.REDUCE_BUCKET = 1000  # the buffer of full size takes longer to clear than all steps here
    return engine.Engine(model(), settings)


def model() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3), nn.Linear(3, 3))
    made[0].bias.requires_grad_(False)  # as dead layers are
    return made


def inputs(step: int) -> torch.Tensor:
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(step))


def one_step(made: engine.Engine, step: int, broken: bool = False) -> bool:
    share = inputs(step)[engine.rank() :: engine.world_size()]
    made.micro_batch(last=True)
    loss = made(share.to(made.parameters["0.weight"].dtype)).float().square().sum() / 6
    made.backward(loss * float("nan") if broken and engine.rank() == 0 else loss)
    return made.step(1e-2)


def weights(made: engine.Engine) -> dict[str, torch.Tensor]:
    return {name: made.whole(name, made.exported).clone() for name in made.parameters}


def close(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor], tolerance: float) -> None:
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=0, atol=tolerance)


def plain_torch() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Weights and their running averages after `STEPS` steps, every gradient on one process."""
    plain, averages = model(), None
    trained = [parameter for parameter in plain.parameters() if parameter.requires_grad]
    adam = torch.optim.AdamW(trained, lr=1e-2, betas=(0.9, 0.98), weight_decay=0.0)
    for step in range(STEPS):
        (plain(inputs(step)).square().sum() / 6).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        adam.step()
        adam.zero_grad()
        state = {name: value.clone() for name, value in plain.state_dict().items()}
        averages = averages or state
        weight = max(1 - DECAY, 9 / (10 + step + 1))
        averages = {
            name: averages[name] + weight * (state[name] - averages[name]) for name in state
        }
    return plain.state_dict(), averages


def train(folder: str) -> None:
    """`STEPS` steps as plain AdamW makes them, one of another batch with a NaN in one process
    between them; saved; `MORE` steps.
    """
    expected = plain_torch()
    for precision, decay in KINDS:
        made = made_engine(precision, decay)
        for step in range(STEPS):
            if step == 3:
                before = weights(made)
                assert not one_step(made, 100, broken=True), (
                    "one process's gradient is no number: no process takes the step"
                )
                close(weights(made), before, 0)
            assert one_step(made, step)
        close(weights(made), expected[decay > 0], 1e-6 if precision == "fp32" else 0.02)
        frozen = model()[0].bias
        assert weights(made)["0.bias"].equal(
            frozen if precision == "fp32" else frozen.bfloat16().float()
        )
        run = Path(folder) / f"{precision}_{decay}_by_{engine.world_size()}"
        Checkpoints(run, 2).save(made, STEPS + 1)
        for step in range(STEPS, STEPS + MORE):
            assert one_step(made, step)
        after = weights(made)
        if engine.rank() == 0:
            save_file(after, run / "after.safetensors")


def go_on(folder: str) -> None:
    """From every checkpoint of `train`: the same numbers to the bit by as many processes, to
    rounding by another number.
    """
    for precision, decay in KINDS:
        for by in (1, 2):
            run = Path(folder) / f"{precision}_{decay}_by_{by}"
            made, checkpoints = made_engine(precision, decay), Checkpoints(run, 2)
            assert (
                checkpoints.resume(made, checkpoints.latest()) == STEPS + 1
                and made.skipped_steps == 1
            )
            for step in range(STEPS, STEPS + MORE):
                assert one_step(made, step)
            rounding = 1e-6 if precision == "fp32" else 0.02
            close(
                weights(made),
                load_file(run / "after.safetensors"),
                0 if by == engine.world_size() else rounding,
            )


@pytest.mark.slow
def test_averages_skipped_steps_and_any_number_of_processes_after_any_other(tmp_path: Path) -> None:
    of = {"folder": str(tmp_path)}
    first = [(processes, "train", of) for processes in (1, 2)]
    run_groups(__file__, [*first, *((processes, "go_on", of) for processes in (1, 2, 3))])


def fail_alone(folder: str) -> None:
    """What fails in one process is raised in all; what is not finite there is named by all."""

    def work() -> int:
        if engine.rank() == 1:
            raise OSError(28, "No space left on device", "x.bin")
        return engine.rank()

    with pytest.raises(SetupError, match=r"x\.bin: no space left on device; free some space"):
        engine.in_all(work)
    made, checkpoints = made_engine("fp32", DECAY), Checkpoints(Path(folder), 1)
    assert checkpoints.resume(made, checkpoints.latest()) == 0 and one_step(made, 0)
    checkpoints.save(made, 1)
    opened = saved_state.TensorFile
    if engine.rank() == 1:  # its disk is full
        saved_state.TensorFile = lambda path, shapes: opened(Path("/dev/full"), shapes)
    with pytest.raises(SetupError, match="no space left on device; free some space"):
        checkpoints.save(made, 2)
    saved_state.TensorFile = opened
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(SetupError, match=r"the disk is too full, 0.00 GB are needed"),
    ):
        patch.setattr(files, "SPARE", 1 << 60)
        checkpoints.save(made, 2)
    assert [path.name for path in (Path(folder) / "checkpoints").iterdir()] == ["step_000001"]
    bias = made.parameters["2.bias"]._hp_mapping  # at the end of the state: rank 1 has it
    if bias is not None:
        bias.get_hp_fragment("exp_avg_sq")[-1] = float("inf")
    assert made.not_finite() == ["exp_avg_sq of 2.bias"]
    with pytest.raises(
        DataError, match=r"step 2: not saved, for exp_avg_sq of 2\.bias is not finite"
    ):
        checkpoints.save(made, 2)
    assert checkpoints.latest().name == "step_000001"


def test_one_process_that_fails_stops_all(tmp_path: Path) -> None:
    run_groups(__file__, [(2, "fail_alone", {"folder": str(tmp_path)})])
