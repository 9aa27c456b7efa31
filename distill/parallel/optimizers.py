"""AdamW as the engine runs it on each process's share of the weights: its moments in fp32 or, by
bitsandbytes, in 8 bits; and the running average of the weights beside them.

Moments of 8 bits (Dettmers et al., arXiv 2110.02861): a code a number, and for every `BLOCK`
numbers of a process's share the largest of them. Checkpoints hold moments in fp32 all the same, and
read back on as many processes they are the same codes; on another number of processes the blocks
are others, and the moments are rounded again.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Final

import torch

from configs.errors import SetupError

ADAMW, ADAMW_8BIT = "adamw", "adamw8bit"
MOMENTS: Final = ("exp_avg", "exp_avg_sq")
AVERAGE: Final = "average"
BLOCK = 256  # bitsandbytes' own
CHUNK = BLOCK << 14  # numbers coded at once: what they need beside them stays small
# What bitsandbytes calls a moment's codes, the largest number of each block, and what codes mean.
STORED = {
    "exp_avg": ("state1", "absmax1", "qmap1"),
    "exp_avg_sq": ("state2", "absmax2", "qmap2"),
}


def check_installed(optimizer: str) -> None:
    """Raises SetupError where it needs a library that is not there."""
    if optimizer == ADAMW_8BIT and find_spec("bitsandbytes") is None:
        raise SetupError(
            f"optimizer: {ADAMW_8BIT} needs bitsandbytes, which is not installed; pip install "
            f"bitsandbytes, or set optimizer: {ADAMW}"
        )


def make(
    kind: str, parameters: list[dict[str, Any]], ema_decay: float, rates: Mapping[str, Any]
) -> torch.optim.Optimizer:
    """`rates`: lr, betas and weight_decay. `ema_decay`: 0 for no average. Raises SetupError."""
    if kind == ADAMW_8BIT:
        check_installed(kind)
        from bitsandbytes.optim import AdamW8bit  # only those who ask for it have it

        optimizer: torch.optim.Optimizer = AdamW8bit(parameters, min_8bit_size=0, **rates)
        if ema_decay:
            optimizer.register_step_post_hook(lambda own, *_: average_weights(own, ema_decay))
        return optimizer
    if ema_decay:
        return AveragingAdamW(parameters, ema_decay, **rates, fused=True)
    return torch.optim.AdamW(parameters, **rates, fused=True)


class AveragingAdamW(torch.optim.AdamW):
    """AdamW that keeps an exponential moving average of the weights beside its moments: so ZeRO
    shards it, and checkpoints hold it, as them.
    """

    def __init__(self, parameters: list[Any], decay: float, **rates: Any) -> None:
        super().__init__(parameters, **rates)
        self.decay = decay

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step(closure)
        average_weights(self, self.decay)


@torch.no_grad()
def average_weights(optimizer: torch.optim.Optimizer, decay: float) -> None:
    """The decay of step n is min(`decay`, (1 + n) / (10 + n)), as in TensorFlow's
    ExponentialMovingAverage: else the start would linger.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if AVERAGE not in state:
                state[AVERAGE] = parameter.clone()
            step = torch.as_tensor(state["step"])
            state[AVERAGE].lerp_(parameter, (9 / (10 + step)).clamp_min(1 - decay).to(parameter))


class EightBitMoments:
    """The moments of bitsandbytes' AdamW as fp32 numbers. `optimizer` holds one flat parameter a
    group: this process's share.
    """

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer

    def make(self, updates: int) -> None:
        """Zero moments, as after `updates` steps."""
        for number, group in enumerate(self._optimizer.param_groups):
            for flat in group["params"]:
                if STORED[MOMENTS[0]][0] not in self._optimizer.state[flat]:
                    self._optimizer.init_state(group, flat, number, 0)
                self._optimizer.state[flat]["step"] = updates

    def read(self, group: int, part: str, start: int, numel: int) -> torch.Tensor:
        """(numel,) numbers of one group's share, from `start`.

        The largest number of a block is what its codes are relative to, but there is no code for
        minus one: the lowest stands for it here, so that `write` finds the same block again.
        """
        from bitsandbytes.functional import dequantize_blockwise

        codes, largest, meaning = self._stored(group, part)
        meaning = meaning.clone()
        if float(meaning.min()) < 0:
            meaning[meaning.argmin()] = -1.0
        first, last = start // BLOCK, -(-(start + numel) // BLOCK)
        numbers = dequantize_blockwise(
            codes[first * BLOCK : last * BLOCK].contiguous(),
            absmax=largest[first:last].contiguous(),
            code=meaning,
            blocksize=BLOCK,
        )
        return torch.as_tensor(numbers).narrow(0, start - first * BLOCK, numel)

    def write(self, group: int, part: str, numbers: torch.Tensor) -> None:
        """All numbers of one group's share."""
        codes, largest, meaning = self._stored(group, part)
        between = (meaning[1:] + meaning[:-1]) / 2  # they ascend
        for start in range(0, len(numbers), CHUNK):
            own = numbers[start : start + CHUNK]
            blocks = torch.nn.functional.pad(own, (0, -len(own) % BLOCK)).view(-1, BLOCK)
            found = blocks.abs().amax(dim=1)
            largest[start // BLOCK :][: len(found)] = found
            # Not bitsandbytes' own search, which on CPUs is not always the nearest code's.
            relative = blocks / torch.where(found > 0, found, 1.0)[:, None]
            nearest = torch.bucketize(relative, between).to(codes.dtype).flatten()
            codes[start : start + CHUNK] = nearest[: len(own)]

    def not_finite(self) -> list[str]:
        """Names of the moments that hold a NaN or an infinity."""
        return [
            f"{part} of {group['group'] or 'the weights'}"
            for number, group in enumerate(self._optimizer.param_groups)
            for part in MOMENTS
            if STORED[part][1] in self._optimizer.state[group["params"][0]]
            and not self._stored(number, part)[1].isfinite().all()
        ]

    def _stored(self, group: int, part: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        state = self._optimizer.state[self._optimizer.param_groups[group]["params"][0]]
        codes, largest, meaning = (state[name] for name in STORED[part])
        return codes, largest, meaning
