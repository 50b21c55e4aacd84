"""State of a descent with Adam, for the journal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR


@dataclass(frozen=True)
class Descent:
    """Variables of a descent; see :class:`.journal.State`.

    Attributes
    ----------
    variable
        The optimized tensor.
    optimizer, schedule
        Its optimizer, and the schedule of the learning rate.
    beside
        Another tensor that the loop changes in place.
    """

    variable: Tensor
    optimizer: torch.optim.Adam
    schedule: CosineAnnealingLR
    beside: Tensor

    def get(self) -> list[Tensor]:
        """Return copies of the variables."""
        adam = self.optimizer.state[self.variable]
        rate = torch.tensor([self.schedule.last_epoch, *self.schedule.get_last_lr()], dtype=torch.float64)
        tensors = self.variable, self.beside, adam["step"], adam["exp_avg"], adam["exp_avg_sq"]
        return [*(each.detach().clone() for each in tensors), rate]

    def set(self, kept: Sequence[Tensor]) -> None:
        """Restore the variables."""
        variable, beside, step, mean, square, (epoch, *rates) = *kept[:5], kept[5].tolist()
        self.variable.copy_(variable)
        self.beside.copy_(beside)
        # Adam counts its steps on the CPU.
        self.optimizer.state[self.variable] = {"step": step.cpu(), "exp_avg": mean, "exp_avg_sq": square}
        described = {"last_epoch": int(epoch), "_step_count": int(epoch) + 1, "_last_lr": rates}
        self.schedule.load_state_dict({**self.schedule.state_dict(), **described})
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
