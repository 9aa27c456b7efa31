"""The engine against plain torch, alone and with two processes: the average of the weights, steps that are not taken, what a checkpoint holds.

DeepSpeed starts once a process, so the body runs in processes of its own.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """
import copy, sys
from pathlib import Path
import torch
from torch import nn
from configs.distill import Distill, Objective
from distill import engine

DECAY, FOLDER = 0.8, Path(sys.argv[1])

def settings(precision, decay):
    return Distill(base="x", objective=Objective(), steps=9, batch_size=4, learning_rate=1e-2, precision=precision, ema_decay=decay)

def model():
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))
    made[0].bias.requires_grad_(False)  # as dead layers are
    return made

def inputs(step):
    return torch.randn(4, 5, generator=torch.Generator().manual_seed(step))

def one_step(made, step, broken=False):
    share = inputs(step)[engine.rank() :: engine.world_size()]
    made.micro_batch(last=True)
    dtype = next(made._engine.module.parameters()).dtype
    loss = made(share.to(dtype)).float().square().sum() / 4
    made.backward(loss * float("nan") if broken and engine.rank() == 0 else loss)
    return made.step(1e-2)

def close(left, right, tolerance=1e-6):
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=0, atol=tolerance)

engine.start()
# plain torch, every gradient on one process
plain, averages = model(), None
trained = [parameter for parameter in plain.parameters() if parameter.requires_grad]
adam = torch.optim.AdamW(trained, lr=1e-2, betas=(0.9, 0.98), weight_decay=0.0)
for step in range(6):
    (plain(inputs(step)).square().sum() / 4).backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    adam.step()
    adam.zero_grad()
    state = {name: value.clone() for name, value in plain.state_dict().items()}
    if averages is None:
        averages = state
    weight = max(1 - DECAY, 9 / (10 + step + 1))
    averages = {name: averages[name] + weight * (state[name] - averages[name]) for name in state}

for precision in ("fp32", "bf16"):
    for decay, wanted in ((0.0, plain.state_dict()), (DECAY, averages)):
        made = engine.Engine(model(), settings(precision, decay))
        for step in range(3):
            assert one_step(made, step)
        before = made.weights()
        assert not one_step(made, 100, broken=True), "one process's gradient is no number: no process takes the step"
        assert made.skipped_steps == 1
        close(made.weights(), before, 0)
        for step in range(3, 6):
            assert one_step(made, step)
        after = made.weights()
        close(after, wanted, 1e-6 if precision == "fp32" else 0.02)
        assert after["0.bias"].equal(model()[0].bias if precision == "fp32" else model()[0].bias.bfloat16().float())
        folder = FOLDER / f"{precision}_{decay}"
        made.save(folder)
        again = engine.Engine(model(), settings(precision, decay))
        again.load(folder)
        assert one_step(again, 6) and one_step(made, 6)
        close(again.weights(), made.weights(), 0)
        assert again.skipped_steps == 1
engine.stop()
print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_averages_skipped_steps_and_checkpoints(tmp_path: Path, processes: int) -> None:
    """Six steps as plain AdamW makes them, one of another batch with a NaN in one process left out between them; saved, loaded, one more."""
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, str(tmp_path / "program.py"), str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.count("done") == processes, done.stdout + done.stderr
