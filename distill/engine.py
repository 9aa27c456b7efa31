"""The one door to DeepSpeed: ZeRO-1 over however many processes the launcher started, the same calls on CPU and GPU.

Works under `deepspeed`, `torchrun`, Slurm's `srun` (RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT set) and alone.
"""

import os
import socket
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import nn

from configs.distill import Distill
from configs.errors import SetupError
from distill.cost import REDUCE_BUCKET

ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
AVERAGE = "average"
COLLECTIVE = timedelta(minutes=30)  # longer than `distill.hung_after_seconds`, whose message names the process that hangs


class AveragingAdamW(torch.optim.AdamW):
    """AdamW that keeps an exponential moving average of the weights beside its moments: so ZeRO shards it, and checkpoints hold it, as them.

    The decay of step n is min(`decay`, (1 + n) / (10 + n)), as in TensorFlow's ExponentialMovingAverage: else the start would linger.
    """

    def __init__(self, parameters: list[nn.Parameter], decay: float, **rates: Any) -> None:
        super().__init__(parameters, **rates)
        self.decay = decay

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if AVERAGE not in state:
                    state[AVERAGE] = parameter.clone()
                state[AVERAGE].lerp_(parameter, (9 / (10 + state["step"])).clamp_min(1 - self.decay).to(parameter))


class Engine:
    """The student inside DeepSpeed's engine; the frozen teacher never enters it."""

    def __init__(self, student: nn.Module, settings: Distill) -> None:
        import deepspeed

        trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
        rates: dict[str, Any] = {"lr": settings.learning_rate, "betas": settings.betas, "weight_decay": settings.weight_decay, "fused": True}
        averaged = settings.ema_decay > 0
        optimizer = AveragingAdamW(trained, settings.ema_decay, **rates) if averaged else torch.optim.AdamW(trained, **rates)
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=student, optimizer=optimizer, config=_config(settings, world_size()), dist_init_required=False
        )
        self._fp32, self._averaged = settings.precision == "fp32", averaged

    @property
    def device(self) -> torch.device:
        return torch.device(self._engine.device)

    def __call__(self, *inputs: torch.Tensor) -> Any:
        return self._engine(*inputs)

    def micro_batch(self, last: bool) -> None:
        """Says, before its forward, whether a micro-batch is this process's last of the step: only then gradients travel."""
        self._engine.set_gradient_accumulation_boundary(last)

    def backward(self, share_of_loss: torch.Tensor) -> None:
        """Adds the gradient of this micro-batch's share of the global loss (already divided by global counts).

        DeepSpeed averages over processes; the shares must be summed, hence the factor.
        """
        self._engine.backward(share_of_loss * world_size())

    def step(self, learning_rate: float) -> bool:
        """The optimizer step, after the last micro-batch's backward.

        False, in every process, where the gradient's norm over all processes is no number: DeepSpeed then leaves weights and moments alone.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        return not self._optimizer.overflow

    @property
    def skipped_steps(self) -> int:
        """How many steps of the whole run were not taken."""
        return int(self._engine.skipped_steps)

    def weights(self) -> dict[str, torch.Tensor]:
        """Full fp32 weights on the CPU, their running average where one is kept (gathered from all processes: every rank must call this)."""
        return {name: self._whole(parameter).detach().float().cpu().contiguous() for name, parameter in self._engine.module.named_parameters()}

    def _whole(self, parameter: nn.Parameter) -> torch.Tensor:
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        if not parameter.requires_grad or (self._fp32 and not self._averaged):
            return parameter
        whole = safe_get_full_optimizer_state(parameter, AVERAGE) if self._averaged else safe_get_full_fp32_param(parameter)
        return parameter if whole is None else whole

    def save(self, folder: Path) -> None:
        """Weights, optimizer and step of every rank, under `folder/engine`; DeepSpeed's own `latest` is not written."""
        self._engine.save_checkpoint(str(folder), tag="engine", save_latest=False)

    def load(self, folder: Path) -> None:
        self._engine.load_checkpoint(str(folder), tag="engine")


def weights_dtype(precision: str) -> torch.dtype:
    """Of the student's weights in the engine, and so of the teacher's beside it."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


def start() -> None:
    """Joins the process group; without a launcher this process is the whole group."""
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    if "RANK" not in os.environ:
        os.environ.update(ALONE, MASTER_PORT=str(_free_port()))
    missing = [name for name in (*ALONE, "MASTER_PORT") if name not in os.environ]
    if missing:
        raise SetupError(f"the launcher set RANK but not {', '.join(missing)}; start with deepspeed, torchrun or srun as the recipe shows")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its dependencies' deprecations are not the user's
        import deepspeed
    # An operator of inference that DeepSpeed would compile at the first start on CPUs: a minute, and a C++ compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logging.logger.setLevel("WARNING")
    deepspeed.init_distributed(dist_backend="nccl" if torch.cuda.is_available() else "gloo", timeout=COLLECTIVE, verbose=False)


def stop() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def rank() -> int:
    return torch.distributed.get_rank()


def world_size() -> int:
    return torch.distributed.get_world_size()


def barrier() -> None:
    torch.distributed.barrier()


def all_reduce_sum(values: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, in every process."""
    torch.distributed.all_reduce(values)
    return values


def _config(settings: Distill, processes: int) -> dict[str, Any]:
    return {
        "train_batch_size": settings.batch_size,
        "train_micro_batch_size_per_gpu": settings.batch_size // processes,  # micro-batches are ours (`micro_batch`), of any number and size
        "data_types": {"grad_accum_dtype": "fp32"},  # under bf16 the sum over micro-batches would be rounded at each of them
        # fp32: each message goes while backward computes the next. bf16: DeepSpeed sums in fp32 and sends after the last backward
        "zero_optimization": {"stage": 1, "overlap_comm": processes > 1, "reduce_bucket_size": REDUCE_BUCKET, "allgather_bucket_size": REDUCE_BUCKET},
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": settings.precision == "bf16"},
        "gradient_clipping": settings.gradient_clipping,
        "steps_per_print": 10**9,
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
