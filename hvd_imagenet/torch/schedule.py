"""The learning rate of a PyTorch training loop of one's own, from the policy."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from hvd_imagenet.policy import LargeBatchPolicy, StepPlan


class LargeBatchLR(LRScheduler):
    """Sets the learning rate of every step: linear scaling, gradual warmup and the schedule (sections 2 and 3.1).

    Call `step` after each step of the optimizer, as with any scheduler of PyTorch. PyTorch's SGD needs no momentum
    correction: its velocity does not absorb the learning rate (section 3, remark 2).

    Args:
        optimizer: all of its parameter groups get the same rate.
        policy: the plan; after its end, the last rate stays.

    Attributes:
        plan: of the step that comes next. Where the policy's batch size changes along the run, it is the
            `global_batch` of this plan that the step must take.
    """

    def __init__(self, optimizer: Optimizer, policy: LargeBatchPolicy):
        self._policy = policy
        self.plan: StepPlan = policy.at(0)
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        return [self.plan.learning_rate] * len(self.optimizer.param_groups)

    def step(self, epoch: None = None) -> None:
        """Move on by one step of the optimizer."""
        if self.last_epoch >= 0:  # the first call is that of LRScheduler itself, before the first step
            after = self.plan.samples_seen + self.plan.global_batch
            if after < self._policy.total_samples:
                self.plan = self._policy.at(after)
        super().step()

    def state_dict(self) -> dict[str, Any]:
        """Where the run is; the policy itself is given anew."""
        return {"samples_seen": self.plan.samples_seen, "last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there.

        Raises:
            ValueError: the policy has no step there.
        """
        self.plan = self._policy.at(state_dict["samples_seen"])
        self.last_epoch = state_dict["last_epoch"]
        self._last_lr = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate
