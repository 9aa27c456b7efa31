"""The one door to DeepSpeed: ZeRO-1 over however many processes the launcher started, the same
calls on CPU and GPU.

Works under `deepspeed`, `torchrun`, Slurm's `srun` (RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR,
MASTER_PORT set) and alone.
"""

import os
import socket
import warnings
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final, Literal, TypeVar

import torch
from torch import nn

from configs.errors import DataError, RecipeError, SetupError, cause_of_system, of_system
from configs.schema.distill import REDUCE_BUCKET
from configs.schema.pace import Pace
from configs.signals import rank as rank
from distill.parallel import optimizers
from distill.parallel.optimizers import ADAMW, ADAMW_8BIT, MOMENTS, EightBitMoments
from distill.parallel.optimizers import AVERAGE as AVERAGE

ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
# Longer than `distill.hung_after_seconds`, whose message names the process that hangs.
COLLECTIVE = timedelta(minutes=30)
# The parts of the training state: what is kept of every trained parameter, each in fp32 and of
# the parameter's shape.
WEIGHT: Final = "weight"
PIECE = 1 << 24  # numbers of a parameter looked at at once
T = TypeVar("T")


class Engine:
    """The module that is trained, inside DeepSpeed's engine; what is frozen beside it never enters
    it.

    `group_of`: by the name of a parameter, the group whose learning rate it follows. `optimizer`:
    of distill/parallel/optimizers.py.
    """

    def __init__(
        self,
        module: nn.Module,
        settings: Pace,
        group_of: Callable[[str], str] = lambda name: "",
        optimizer: str = ADAMW,
    ) -> None:
        import deepspeed

        grouped: dict[str, list[nn.Parameter]] = {}
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                grouped.setdefault(group_of(name), []).append(parameter)
        trained = [{"params": own, "group": group} for group, own in grouped.items()]
        rates: dict[str, Any] = {
            "lr": settings.learning_rate,
            "betas": settings.betas,
            "weight_decay": settings.weight_decay,
        }
        numbers = sum(parameter.numel() for own in grouped.values() for parameter in own)
        base = optimizers.make(optimizer, trained, settings.ema_decay, rates)
        self._eight_bit = EightBitMoments(base) if optimizer == ADAMW_8BIT else None
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=module,
            optimizer=base,
            config=_config(settings, world_size(), numbers),
            dist_init_required=False,
        )
        self._fp32, self._averaged = settings.precision == "fp32", settings.ema_decay > 0
        self.parameters = dict(module.named_parameters())  # frozen ones too
        self._group_of, self._linked = group_of, False

    @property
    def device(self) -> torch.device:
        return torch.device(self._engine.device)

    def __call__(self, *inputs: Any) -> Any:
        return self._engine(*inputs)

    def micro_batch(self, last: bool) -> None:
        """Call it before a micro-batch's forward. `last`: it is this process's last of the step,
        whose backward also reduces the gradients over all processes.
        """
        self._engine.set_gradient_accumulation_boundary(last)

    def backward(self, share_of_loss: torch.Tensor) -> None:
        """Adds the gradient of this micro-batch's share of the global loss (already divided by
        global counts).

        DeepSpeed averages over processes; the shares must be summed, hence the factor.
        """
        self._engine.backward(share_of_loss * world_size())

    def step(
        self, learning_rate: float, factors: Mapping[str, float] = MappingProxyType({})
    ) -> bool:
        """The optimizer step, after the last micro-batch's backward. `factors`: by group, what its
        learning rate is multiplied by, 1 where none is given.

        False, in every process, if the gradient's norm over all processes is not finite: DeepSpeed
        then skips the step, and weights and moments stay as they are.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate * factors.get(group["group"], 1.0)
        self._engine.step()
        taken = not self._optimizer.overflow
        if taken and not self._linked:
            self._link_states()
        return taken

    @property
    def gradient_norm(self) -> float:
        """L2 norm of the last step's gradient over all processes, before it is clipped."""
        return float(self._engine.get_global_grad_norm())

    def update_ratios(self) -> dict[str, float]:
        """By part of what is trained (`clip_l`, `clip_bigg`): the L2 norm of what the last step
        changed of its trained weights (fp32) over that of these weights. Every rank must call this.

        The change is computed from AdamW's state (Loshchilov and Hutter, arXiv 1711.05101,
        algorithm 2): so no copy of the weights before the step is kept.
        """
        updates = self._engine.global_steps - self._engine.skipped_steps
        groups = {group["group"]: group for group in self._optimizer.param_groups}
        modules = list(dict.fromkeys(name.partition(".")[0] for name in self.parameters))
        squares = torch.zeros(2, len(modules), dtype=torch.float64, device=self.device)
        for name, parameter in self.parameters.items():
            mapping = getattr(parameter, "_hp_mapping", None)
            if not parameter.requires_grad or mapping is None:  # frozen, or another process's
                continue
            group = groups[self._group_of(name)]
            decay = group["lr"] * group["weight_decay"]
            first, second = (1 - beta**updates for beta in group["betas"])
            whole = [mapping.get_hp_fragment().detach()]
            whole += [self._moment(mapping, part) for part in MOMENTS]
            # In pieces: the largest embedding would need a GB of temporaries.
            for weight, mean, square in zip(*(one.split(PIECE) for one in whole), strict=True):
                denominator = square.sqrt().div_(second**0.5).add_(group["eps"])
                change = (mean / denominator).mul_(group["lr"] / first)
                # With the decayed weight d * w, w after the step: (change + d * w) / (1 - d).
                change = change.add_(weight, alpha=decay).div_(1 - decay) if decay else change
                norms = torch.stack([torch.linalg.vector_norm(one) for one in (change, weight)])
                squares[:, modules.index(name.partition(".")[0])] += norms.double().square()
        norms_of_both = zip(*all_reduce_sum(squares).sqrt().tolist(), strict=True)
        return dict(zip(modules, (c / w for c, w in norms_of_both), strict=True))

    @property
    def skipped_steps(self) -> int:
        """Steps skipped since the run began, because their gradient was not finite."""
        return int(self._engine.skipped_steps)

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the tensors kept of every trained parameter: weight, Adam's moments, and the
        running average of the weight if there is one.
        """
        return (WEIGHT, *MOMENTS, AVERAGE) if self._averaged else (WEIGHT, *MOMENTS)

    @property
    def kept(self) -> tuple[str, ...]:
        """Those of `parts` that there are by now: the optimizer's begin with its first step."""
        return self.parts if self._linked else (WEIGHT,)

    @property
    def exported(self) -> Literal["weight", "average"]:
        """The part that is exported as the student: the running average of the weights if one is
        kept, else the weights.
        """
        return AVERAGE if self._averaged else WEIGHT

    def whole(self, name: str, part: str) -> torch.Tensor:
        """One part of one parameter's state, gathered from all processes: fp32, on the CPU, in the
        parameter's shape. Of a frozen parameter, its weight.

        Every rank must call this for the same parts in the same order.
        """
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        parameter = self.parameters[name]
        found: torch.Tensor
        if not parameter.requires_grad or (part == WEIGHT and self._fp32):
            found = parameter
        elif part == WEIGHT:
            found = safe_get_full_fp32_param(parameter)
        elif self._eight_bit is not None and part in MOMENTS:
            found = torch.zeros(parameter.numel(), device=self.device)
            if (mapping := getattr(parameter, "_hp_mapping", None)) is not None:
                place = mapping.lp_fragment_address
                found[place.start :][: place.numel] = self._moment(mapping, part)
            found = all_reduce_sum(found).view_as(parameter)
        else:
            found = safe_get_full_optimizer_state(parameter, part)
        return found.detach().float().cpu().contiguous()

    def _moment(self, mapping: Any, part: str) -> torch.Tensor:
        """This process's fragment of a parameter's moment, flat; `mapping` is DeepSpeed's."""
        if self._eight_bit is None:
            return mapping.get_hp_fragment(part).detach()
        place = mapping.get_hp_fragment_address()
        return self._eight_bit.read(mapping.param_group_index, part, place.start, place.numel)

    def set_state(
        self, step: int, skipped_steps: int, read: Callable[[str, str], torch.Tensor]
    ) -> None:
        """Sets the whole state after `step` steps; `read(name, part)` gives a tensor as `whole`
        does.

        Only the parameters of this process's ZeRO partition are read. No process waits for another
        here; call `share_weights` afterwards.
        """
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        self._make_optimizer_state(step - skipped_steps)
        for name, parameter in self.parameters.items():
            if not parameter.requires_grad or getattr(parameter, "_hp_mapping", None) is None:
                continue
            safe_set_full_fp32_param(parameter, read(name, WEIGHT))
            for part in self.parts[1:]:
                if self._eight_bit is None or part not in MOMENTS:
                    safe_set_full_optimizer_state(parameter, read(name, part), part)
        if self._eight_bit is not None:
            self._set_eight_bit(self._eight_bit, read)
        self._engine.global_steps, self._engine.skipped_steps = step, skipped_steps

    def _set_eight_bit(
        self, moments: EightBitMoments, read: Callable[[str, str], torch.Tensor]
    ) -> None:
        """A moment of a whole group at once: its blocks reach over parameters."""
        for number, group in enumerate(self._optimizer.param_groups):
            for part in MOMENTS:
                whole = torch.zeros_like(group["params"][0])
                for name, parameter in self.parameters.items():
                    mapping = getattr(parameter, "_hp_mapping", None)
                    if mapping is None or mapping.param_group_index != number:
                        continue
                    here, there = mapping.get_hp_fragment_address(), mapping.lp_fragment_address
                    value = read(name, part).flatten()[there.start :][: there.numel]
                    whole[here.start :][: here.numel] = value.to(whole)
                moments.write(number, part, whole)

    def share_weights(self) -> None:
        """The student's weights become those that `set_state` has set.

        Every rank must call this.
        """
        self._optimizer.update_lp_params()

    def _make_optimizer_state(self, updates: int) -> None:
        """Creates the state that AdamW creates at its first step, and lets DeepSpeed map each
        parameter to its fragment of it.
        """
        if self._eight_bit is not None:
            self._eight_bit.make(updates)
        for group in self._optimizer.param_groups:
            for flat in group["params"]:
                state = self._optimizer.state[flat]
                if self._eight_bit is None:
                    state["step"] = torch.tensor(float(updates), device=flat.device)
                for part in self.parts[1:] if self._eight_bit is None else self.parts[3:]:
                    if part not in state:
                        state[part] = torch.zeros_like(flat, requires_grad=False)
        self._link_states()

    def _link_states(self) -> None:
        """Lets DeepSpeed map each parameter to its fragment of the optimizer's state. It does so by
        itself after the first group's first step, when the other groups have no state yet.
        """
        self._optimizer._hp_optimizer_states_linked = False
        self._optimizer._lazy_init_hp_params_optimizer_state()
        self._linked = True

    def not_finite(self) -> list[str]:
        """Names of the tensors that hold a NaN or an infinity: `name` of a weight, `part of name`
        of the optimizer's state. Every rank must call this.
        """
        pieces: dict[str, torch.Tensor] = {}
        for name, parameter in self.parameters.items():
            mapping = getattr(parameter, "_hp_mapping", None)
            if not parameter.requires_grad:
                pieces[name] = parameter.detach()
            elif mapping is not None:
                pieces[name] = mapping.get_hp_fragment().detach()
                for part in mapping.optim_fragment or ():
                    pieces[f"{part} of {name}"] = mapping.get_hp_fragment(part)
        # No copy of the tensor is needed: its minimum and maximum are NaN where one number is.
        ends = [torch.stack(torch.aminmax(piece)).float() for piece in pieces.values()]
        finite = torch.isfinite(torch.stack(ends)).all(dim=1).tolist() if ends else []
        bad = [name for name, good in zip(pieces, finite, strict=True) if not good]
        bad += self._eight_bit.not_finite() if self._eight_bit is not None else []
        return sorted({name for found in in_all(lambda: bad) for name in found})


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
        raise SetupError(
            f"the launcher set RANK but not {', '.join(missing)}; start with deepspeed, torchrun "
            "or srun as the recipe shows"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its dependencies' deprecations are not the user's
        import deepspeed
    # An operator of inference that DeepSpeed would compile at the first start on CPUs: a minute,
    # and a C++ compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logging.logger.setLevel("WARNING")
    if torch.cuda.is_available():
        # `in_all` sends over the current device
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    deepspeed.init_distributed(dist_backend=backend, timeout=COLLECTIVE, verbose=False)


def stop() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def world_size() -> int:
    return torch.distributed.get_world_size()


def barrier() -> None:
    torch.distributed.barrier()


def in_all(work: Callable[[], T]) -> list[T]:
    """Runs `work` in every process; what each got, by rank.

    If it fails in one, that error is raised in all: else the others would wait for it for ever.
    Every rank must call this.
    """
    error: Exception | None = None
    result: Any = None
    try:
        result = work()
    except (DataError, RecipeError, SetupError) as caught:
        error = caught
    except Exception as caught:
        refused = cause_of_system(caught)
        if refused is None:
            raise  # a bug: its traceback is wanted, and the launcher ends the other processes
        error = SetupError(of_system(refused))
    found: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(found, (error, result))
    for failed, _ in found:
        if failed is not None:
            raise failed
    return [one for _, one in found]


def all_reduce_sum(values: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, in every process."""
    torch.distributed.all_reduce(values)
    return values


def _config(settings: Pace, processes: int, trained: int) -> dict[str, Any]:
    """`trained`: numbers of parameters. No bucket is larger: DeepSpeed allocates it whole."""
    return {
        "train_batch_size": settings.batch_size,
        # Micro-batches are ours (`micro_batch`), of any number and size.
        "train_micro_batch_size_per_gpu": settings.batch_size // processes,
        # Under bf16 the sum over micro-batches would be rounded at each of them.
        "data_types": {"grad_accum_dtype": "fp32"},
        # fp32: each message goes while backward computes the next. bf16: DeepSpeed sums in fp32 and
        # sends after the last backward
        "zero_optimization": {
            "stage": 1,
            "overlap_comm": processes > 1,
            "reduce_bucket_size": min(REDUCE_BUCKET, trained),
            "allgather_bucket_size": REDUCE_BUCKET,
        },
        # bf16, its default, needs a copy of all gradients, and rounds what was summed in fp32.
        "communication_data_type": "fp32",
        "zero_allow_untested_optimizer": True,
        # Each gradient joins the fp32 sum as backward makes it: they are not kept in bf16 as well.
        "bf16": {"enabled": settings.precision == "bf16", "immediate_grad_update": True},
        "gradient_clipping": settings.gradient_clipping,
        "steps_per_print": 10**9,
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
