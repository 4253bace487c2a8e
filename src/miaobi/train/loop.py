"""The one training loop. It knows objectives and phases, not families.

A step walks the phases of the objective. For each: zero the gradients of its module,
add up those of every microbatch (losses are sums), divide by the global count, clip,
step. What happens between steps (validation, checkpoints, samples, logging) is a list
of (interval, function) pairs.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data.dataset import Dataset, Located
from miaobi.nn.objective import Batch, Loss, Objective, Phase
from miaobi.train import processes
from miaobi.train.config import TrainConfig
from miaobi.train.optimizers import optimizers_for
from miaobi.train.schedules import multiplier

Hook = tuple[int, Callable[["State"], None]]
EMA_EVERY = (
    8  # steps between updates of the averaged weights: each costs a pass over them
)


@dataclass
class State:
    """Everything a run can be continued from (see train/checkpoint.py), and what the hooks read."""

    objective: Objective
    config: TrainConfig
    optimizers: dict[str, list[torch.optim.Optimizer]]
    average: dict[str, Tensor]
    """Averaged weights by name; empty when train.ema is 0."""
    step: int = 0
    """Steps completed."""
    seen: int = 0
    """Terms of the first phase's loss so far (tokens, pictures)."""
    best: float = float("inf")
    best_step: int = 0
    stale: int = 0
    """Validations since the best one."""
    last: dict[str, Loss] = field(default_factory=dict)
    """Each phase's loss at its last step."""
    validation: float | None = None
    finished: bool = False
    """Set to end the run after this step (early stopping)."""
    seconds: float = 0.0
    """Spent in steps so far, over all resumes."""

    @property
    def train(self) -> dict[str, float]:
        """Figures of the last step, by name; "phase/loss" where there are several phases."""
        figures = dict[str, float]()
        for name, loss in self.last.items():
            prefix = f"{name}/" if len(self.optimizers) > 1 else ""
            figures |= {
                f"{prefix}{key}": value.item() / max(loss.count, 1)
                for key, value in {"loss": loss.total, **loss.metrics}.items()
            }
        return figures

    @property
    def device(self) -> torch.device:
        return next(self.objective.parameters()).device


def start(objective: Objective, config: TrainConfig) -> State:
    """Move the objective to its device and make its optimisers."""
    objective.to(processes.pick_device(config.device))
    processes.broadcast_tensors([*objective.parameters(), *objective.buffers()])
    phases = objective.phases()
    if len({phase.name for phase in phases}) < len(phases):
        raise ValueError(
            f"phases need distinct names, got {[phase.name for phase in phases]}"
        )
    # A phase over the module of an earlier one (a lazy penalty) shares its optimiser.
    optimizers = dict[str, list[torch.optim.Optimizer]]()
    owners = dict[int, str]()
    for phase in phases:
        owner = owners.setdefault(id(phase.module), phase.name)
        optimizers[phase.name] = (
            optimizers[owner] if owner in optimizers else optimizers_for(phase, config)
        )
    average = (
        {
            name: parameter.detach().clone()
            for name, parameter in objective.named_parameters()
            if parameter.requires_grad
        }
        if config.ema
        else {}
    )
    return State(objective, config, optimizers, average)


def train_step(state: State, batches: Sequence[Batch]) -> None:
    """One step of every phase that is due, on this process's microbatches. Raises
    NotFinite, with the weights as they were, where a loss or a gradient is no number.
    """
    objective, config = state.objective, state.config
    objective.progress = state.step / config.max_steps
    objective.before_step()
    with torch.no_grad():
        batches = [objective.prepare(moved(batch, state.device)) for batch in batches]
    rate = multiplier(config, state.step)
    for place, phase in enumerate(objective.phases()):
        if state.step % phase.every == 0 and objective.progress >= phase.begins:
            with only(objective, phase.module):
                loss = _step(phase, batches, state.optimizers[phase.name], config, rate)
            state.last[phase.name] = loss
            state.seen += loss.count if place == 0 else 0
    state.step += 1
    objective.after_step(state.step, config.max_steps)
    if state.average and state.step % EMA_EVERY == 0:
        _update_average(state)


def _step(
    phase: Phase,
    batches: Sequence[Batch],
    optimizers: Sequence[torch.optim.Optimizer],
    config: TrainConfig,
    rate: float,
) -> Loss:
    """Gradients summed over microbatches and processes, divided by the global count,
    clipped; one optimiser step.
    """
    parameters = [
        parameter for parameter in phase.module.parameters() if parameter.requires_grad
    ]
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    losses = [
        _backward(phase, batch, config, parameters[0].device.type) for batch in batches
    ]
    processes.sum_gradients(parameters)
    loss = processes.sum_losses(losses)
    norm = scale_and_clip(parameters, 1 / max(loss.count, 1), config.clip)
    if not (torch.isfinite(loss.total) and math.isfinite(norm)):
        raise NotFinite(
            phase.name,
            loss.total.item() / max(loss.count, 1),
            norm,
            [
                place
                for place, found in enumerate(losses)
                if not torch.isfinite(found.total)
            ],
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate
        optimizer.step()
    return loss


def _backward(phase: Phase, batch: Batch, config: TrainConfig, device: str) -> Loss:
    with (
        torch.autocast(device, torch.bfloat16)
        if config.precision == "bfloat16"
        else nullcontext()
    ):
        loss = phase.loss(batch)
    loss.total.backward()
    return Loss(
        loss.total.detach(),
        loss.count,
        {name: value.detach() for name, value in loss.metrics.items()},
    )


@contextmanager
def only(objective: Objective, module: nn.Module) -> Iterator[None]:
    """Within: gradients reach the parameters of `module` alone, though they flow
    through all of the objective.
    """
    own = {id(parameter) for parameter in module.parameters()}
    others = [
        item
        for item in objective.parameters()
        if item.requires_grad and id(item) not in own
    ]
    try:
        for parameter in others:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


def scale_and_clip(parameters: Sequence[Tensor], scale: float, limit: float) -> float:
    """Multiply the gradients by `scale`, and further so that their joint norm is at
    most `limit` (0: no limit).

    Returns the norm before clipping; 0 where there is no gradient.
    """
    gradients = [
        parameter.grad for parameter in parameters if parameter.grad is not None
    ]
    if not gradients:
        return 0.0
    norm = torch.nn.utils.get_total_norm(gradients) * scale
    factor = torch.tensor(scale, device=gradients[0].device)
    torch._foreach_mul_(
        gradients, factor * (limit / (norm + 1e-6)).clamp(max=1) if limit else factor
    )
    return norm.item()


def moved(batch: Batch, device: torch.device) -> Batch:
    return (
        batch
        if device.type == "cpu"
        else {
            name: value.to(device, non_blocking=True) for name, value in batch.items()
        }
    )


def _update_average(state: State) -> None:
    """average += (1 - d)(weights - average), d such that a weight's share halves in
    `ema` of the run.
    """
    keep = 0.5 ** (EMA_EVERY / (state.config.ema * state.config.max_steps))
    named = dict(state.objective.named_parameters())
    with torch.no_grad():
        torch._foreach_lerp_(
            list(state.average.values()),
            [named[name] for name in state.average],
            1 - keep,
        )


@contextmanager
def averaged(state: State) -> Iterator[None]:
    """Within: the objective is as it will be asked, at rest (no dropout) and with its
    averaged weights, where the run keeps them.
    """
    training = state.objective.training
    state.objective.eval()
    named = {
        name: parameter
        for name, parameter in state.objective.named_parameters()
        if name in state.average
    }
    own = {name: parameter.detach().clone() for name, parameter in named.items()}
    try:
        with torch.no_grad():
            for name, parameter in named.items():
                parameter.copy_(state.average[name])
        yield
    finally:
        with torch.no_grad():
            for name, parameter in named.items():
                parameter.copy_(own[name])
        state.objective.train(training)


@torch.no_grad()
def validate(state: State, dataset: Dataset, batches: int = 0) -> float:
    """Mean validation loss over `batches` batches (0: the whole set), with the averaged
    weights where there are any.

    Randomness inside the loss (noise, times) is drawn from a fixed seed, so that
    validations can be compared, and the run's own random state is left as it was.
    """
    objective, losses = state.objective, list[Loss]()
    with averaged(state), torch.random.fork_rng():
        torch.manual_seed(0)
        for place, batch in enumerate(
            dataset.batches("validation", state.config.batch_size)
        ):
            if batches and place >= batches:
                break
            if place % processes.world_size() == processes.rank():
                losses.append(
                    objective.validate(objective.prepare(moved(batch, state.device)))
                )
    loss = processes.sum_losses(losses)
    return loss.total.item() / max(loss.count, 1)


def run(state: State, dataset: Dataset, hooks: Sequence[Hook]) -> None:
    """Steps until max_steps, until a hook sets `state.finished`, or until Ctrl-C or
    SIGTERM (then Interrupted is raised, between two steps, so that what is in `state`
    is whole).
    """
    config = state.config
    state.objective.train()
    with stop_signals() as stopped:
        while state.step < config.max_steps and not state.finished:
            began = time.perf_counter()
            indices = [
                (state.step * config.accumulation + micro) * processes.world_size()
                + processes.rank()
                for micro in range(config.accumulation)
            ]
            batches = [
                dataset.batch("train", index, config.batch_size, config.seed)
                for index in indices
            ]
            try:
                train_step(state, batches)
            except NotFinite as error:
                raise _explained(error, state, dataset, indices) from None
            state.seconds += time.perf_counter() - began
            for interval, hook in hooks:
                if state.step % interval == 0 or state.step == config.max_steps:
                    hook(state)
            if stopped.is_set() and state.step < config.max_steps:
                raise Interrupted


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop and did so between two steps."""


class NotFinite(ArithmeticError):
    """A loss or a gradient overflowed or is no number; no optimiser has moved for it."""

    def __init__(
        self, phase: str, loss: float, norm: float, microbatches: Sequence[int]
    ) -> None:
        super().__init__(f"{phase}: loss {loss}, gradient norm {norm}")
        self.phase, self.loss, self.norm, self.microbatches = (
            phase,
            loss,
            norm,
            microbatches,
        )
        """microbatches: those of this process whose loss is to blame; none where the
        gradient overflowed, or in another process.
        """


NAMED = 8  # examples of a bad batch that an error lists


def _explained(
    error: NotFinite, state: State, dataset: Dataset, indices: Sequence[int]
) -> BadInput:
    """What a person is told: the step, the figure, the examples where the data can
    tell, and what to do.
    """
    finite = math.isfinite(error.loss)
    figure = (
        say(f"the gradient's norm became {error.norm}", f"梯度范数变成了 {error.norm}")
        if finite
        else say(f"the loss became {error.loss}", f"损失变成了 {error.loss}")
    )
    blamed = [indices[place] for place in error.microbatches] or indices
    locations = (
        [
            location
            for index in blamed
            for location in dataset.locations(
                "train", index, state.config.batch_size, state.config.seed
            )
        ]
        if isinstance(dataset, Located)
        else []
    )
    listed = ", ".join(locations[:NAMED]) + (" ..." if len(locations) > NAMED else "")
    named = say(
        f" Its examples: {listed}." if locations else "",
        f" 该批样本：{listed}。" if locations else "",
    )
    return BadInput(
        say(
            f"Step {state.step + 1} ({error.phase}, batch "
            f"{', '.join(map(str, blamed))}): {figure}.{named} Nothing of this "
            "step was kept.",
            f"第 {state.step + 1} 步（{error.phase}，第 "
            f"{'、'.join(map(str, blamed))} 批）：{figure}。"
            f"{named}该步未保留任何内容。",
        ),
        say(
            "Look at these examples; otherwise lower train.learning_rate, or "
            "raise train.warmup; then resume from the last checkpoint.",
            "请检查这些样本；否则请调小 train.learning_rate 或调大 train.warmup，再从上一个检查点继续。",
        ),
    )


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """The first Ctrl-C or SIGTERM sets the event; the second Ctrl-C raises
    KeyboardInterrupt at once.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def handle(number: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {
        number: signal.signal(number, handle)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_finite(state: State) -> None:
    """A hook. Raises BadInput when a figure beside the loss is no longer a number (the
    loss itself is looked at in every step).
    """
    for name, value in state.train.items():
        if value != value or value in (float("inf"), float("-inf")):
            raise BadInput(
                say(
                    f"{name} became {value} at step {state.step}.",
                    f"第 {state.step} 步时 {name} 变成了 {value}。",
                ),
                say(
                    "Lower train.learning_rate, or raise train.warmup; then resume from the last checkpoint.",
                    "请调小 train.learning_rate 或调大 train.warmup，再从上一个检查点继续。",
                ),
            )
