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
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from miaobi.core import machine
from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data.dataset import Dataset, Located
from miaobi.nn.objective import Batch, Loss, Objective, Phase, prepared
from miaobi.train import processes
from miaobi.train.config import TrainConfig
from miaobi.train.optimizers import optimizers_for
from miaobi.train.schedules import multiplier

Hook = tuple[int, Callable[["State"], None]]
EMA_EVERY = 8
"""Steps between updates of the averaged weights: each costs a pass over them."""
LISTED_EXAMPLES = 8
"""Examples of a bad batch that an error lists."""


@dataclass
class State:
    """What a run continues from (see train/checkpoint.py), and what the hooks read."""

    objective: Objective
    config: TrainConfig
    optimizers: dict[str, list[torch.optim.Optimizer]]
    average: dict[str, Tensor]
    """Averaged weights by name; empty when train.ema is 0."""
    step: int = 0
    """Steps completed."""
    batches: int = 0
    """Microbatches used so far, by all processes: where the data goes on."""
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
    threads: list[tuple[int, int]] = field(default_factory=list)
    """Numbers of threads computed with, each as (the step from which on, number)."""
    pace: float = 0.0
    """Seconds of a step since the last choice of threads, at its quickest; 0 if unknown."""

    @property
    def train(self) -> dict[str, float]:
        """Metrics of the last step, by name; "phase/loss" where there are several phases."""
        metrics = dict[str, float]()
        for phase, loss in self.last.items():
            prefix = f"{phase}/" if len(self.optimizers) > 1 else ""
            sums = {"loss": loss.total, **loss.metrics}
            for name, value in sums.items():
                metrics[f"{prefix}{name}"] = value.item() / max(loss.count, 1)
        return metrics

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
    average = dict[str, Tensor]()
    if config.ema:
        for name, parameter in objective.named_parameters():
            if parameter.requires_grad:
                average[name] = parameter.detach().clone()
    return State(objective, config, optimizers, average)


def train_step(state: State, batches: Sequence[Batch]) -> None:
    """Take one step of every phase that is due, on this process's microbatches.

    Raises NotFinite, with the weights as they were, where a loss or a gradient is no number.
    """
    objective, config = state.objective, state.config
    objective.progress = state.step / config.max_steps
    objective.before_step()
    batches = [prepared(objective, batch) for batch in batches]
    rate = multiplier(config, state.step)
    for index, phase in enumerate(objective.phases()):
        due = state.step % phase.every == 0 and objective.progress >= phase.begins
        if not due:
            continue
        with training_only(objective, phase.module):
            loss = _step(phase, batches, state.optimizers[phase.name], config, rate)
        state.last[phase.name] = loss
        if index == 0:
            state.seen += loss.count
    state.step += 1
    state.batches += config.microbatches
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
    """Take one optimiser step of a phase.

    Gradients are summed over microbatches and processes, divided by the global count
    and clipped. `rate` multiplies the optimisers' peak rates.
    """
    parameters = [item for item in phase.module.parameters() if item.requires_grad]
    device = parameters[0].device.type
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    losses = [_backward(phase, batch, config, device) for batch in batches]
    processes.sum_gradients(parameters)
    loss = processes.sum_losses(losses)
    count = max(loss.count, 1)
    norm = scale_and_clip(parameters, 1 / count, config.clip)
    if not (torch.isfinite(loss.total) and math.isfinite(norm)):
        microbatches = [
            index for index, item in enumerate(losses) if not torch.isfinite(item.total)
        ]
        raise NotFinite(phase.name, loss.total.item() / count, norm, microbatches)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate
        optimizer.step()
    return loss


def _backward(phase: Phase, batch: Batch, config: TrainConfig, device: str) -> Loss:
    """Add the gradients of one microbatch; return its loss, detached."""
    precision: AbstractContextManager[object] = nullcontext()
    if config.precision == "bfloat16":
        precision = torch.autocast(device, torch.bfloat16)
    with precision:
        loss = phase.loss(batch)
    torch.autograd.backward(loss.total)
    metrics = {name: value.detach() for name, value in loss.metrics.items()}
    return Loss(loss.total.detach(), loss.count, metrics)


@contextmanager
def training_only(objective: Objective, module: nn.Module) -> Iterator[None]:
    """Within: only the parameters of `module` get gradients, though these flow through
    all of the objective.
    """
    own = {id(parameter) for parameter in module.parameters()}
    trainable = [item for item in objective.parameters() if item.requires_grad]
    others = [item for item in trainable if id(item) not in own]
    try:
        for parameter in others:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


def scale_and_clip(parameters: Sequence[Tensor], scale: float, limit: float) -> float:
    """Multiply the gradients by `scale`, then clip their joint norm to `limit`.

    Args:
        parameters: those without a gradient are passed over.
        scale: 1 / the number of terms in the loss.
        limit: the largest norm; 0 for no limit.

    Returns the norm before clipping; 0 where there is no gradient.
    """
    gradients = [item.grad for item in parameters if item.grad is not None]
    if not gradients:
        return 0.0
    norm = torch.nn.utils.get_total_norm(gradients) * scale
    factor = torch.tensor(scale, device=gradients[0].device)
    if limit:
        factor = factor * (limit / (norm + 1e-6)).clamp(max=1)
    torch._foreach_mul_(gradients, factor)
    return norm.item()


def _update_average(state: State) -> None:
    """average += (1 - d)(weights - average), d such that a weight's share halves in
    `ema` of the run.
    """
    decay = 0.5 ** (EMA_EVERY / (state.config.ema * state.config.max_steps))
    parameters = dict(state.objective.named_parameters())
    weights: list[Tensor] = [parameters[name] for name in state.average]
    with torch.no_grad():
        torch._foreach_lerp_(list(state.average.values()), weights, 1 - decay)


@contextmanager
def averaged(state: State) -> Iterator[None]:
    """Within: the objective is as it will be used, in evaluation mode and with its
    averaged weights, where the run has them.
    """
    training = state.objective.training
    state.objective.eval()
    parameters = {
        name: parameter
        for name, parameter in state.objective.named_parameters()
        if name in state.average
    }
    own = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    try:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(state.average[name])
        yield
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(own[name])
        state.objective.train(training)


@torch.no_grad()
def validate(state: State, dataset: Dataset, batches: int = 0) -> float | None:
    """Return the mean validation loss, with the averaged weights where there are any;
    None where there is nothing to validate on.

    Randomness inside the loss (noise, times) is drawn from a fixed seed, so that
    validations can be compared, and the run's own random state is left as it was.

    Args:
        state: the objective, its device and its averaged weights.
        dataset: its validation split is used.
        batches: how many of its batches; 0 for all.
    """
    objective = state.objective
    losses = list[Loss]()
    with averaged(state), torch.random.fork_rng():
        torch.manual_seed(0)
        every = dataset.batches("validation", state.config.batch_size)
        for index, batch in enumerate(every):
            if batches and index >= batches:
                break
            if index % processes.world_size() == processes.rank():
                losses.append(objective.validate(prepared(objective, batch)))
    loss = processes.sum_losses(losses)
    return loss.total.item() / loss.count if loss.count else None


def has_validation(dataset: Dataset) -> bool:
    """Return whether the data set holds any validation example."""
    return next(iter(dataset.batches("validation", 1)), None) is not None


def run(state: State, dataset: Dataset, hooks: Sequence[Hook]) -> None:
    """Take steps until max_steps, until a hook sets `state.finished`, or until a signal.

    Ctrl-C or SIGTERM raises Interrupted between two steps, in all processes after the
    same step, so that what is in `state` is whole.
    """
    config = state.config
    state.objective.train()
    with stop_signals() as stopped:
        while state.step < config.max_steps and not state.finished:
            began = time.perf_counter()
            indices = _batch_indices(state)
            batches = [
                dataset.batch("train", index, config.batch_size, config.seed)
                for index in indices
            ]
            try:
                train_step(state, batches)
            except NotFinite as error:
                raise _explain(error, state, dataset, indices) from None
            state.seconds += time.perf_counter() - began
            for interval, hook in hooks:
                if state.step % interval == 0 or state.step == config.max_steps:
                    hook(state)
            interrupted = processes.largest(stopped.is_set())
            if interrupted and state.step < config.max_steps:
                raise Interrupted


def _batch_indices(state: State) -> list[int]:
    """The numbers of this process's microbatches of the coming step."""
    first = state.batches + processes.rank()
    end = state.batches + state.config.microbatches
    return list(range(first, end, processes.world_size()))


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop and did so between two steps."""


class NotFinite(ArithmeticError):
    """A loss or a gradient overflowed or is no number; no optimiser has moved for it.

    Args:
        phase: the phase's name.
        loss: the mean loss.
        norm: the gradient's norm.
        microbatches: those of this process whose loss is not finite; none where the
            gradient overflowed, or in another process.
    """

    def __init__(
        self, phase: str, loss: float, norm: float, microbatches: Sequence[int]
    ) -> None:
        super().__init__(f"{phase}: loss {loss}, gradient norm {norm}")
        self.phase = phase
        self.loss = loss
        self.norm = norm
        self.microbatches = microbatches


def _explain(
    error: NotFinite, state: State, dataset: Dataset, indices: Sequence[int]
) -> BadInput:
    """The error for the user: the step, the value, the examples where the data records
    their locations, and the remedy.
    """
    if math.isfinite(error.loss):
        problem = say(
            f"the gradient's norm became {error.norm}", f"梯度范数变成了 {error.norm}"
        )
    else:
        problem = say(f"the loss became {error.loss}", f"损失变成了 {error.loss}")
    batches = [indices[index] for index in error.microbatches] or list(indices)
    english = ", ".join(map(str, batches))
    chinese = "、".join(map(str, batches))
    examples = _list_examples(state, dataset, batches)
    return BadInput(
        say(
            f"Step {state.step + 1} ({error.phase}, batch {english}): ",
            f"第 {state.step + 1} 步（{error.phase}，第 {chinese} 批）：",
        )
        + problem
        + say(".", "。")
        + examples
        + say(" Nothing of this step was kept.", "该步未保留任何内容。"),
        say(
            "Look at these examples; otherwise lower train.learning_rate, or "
            "raise train.warmup; then resume from the last checkpoint.",
            "请检查这些样本；否则请调小 train.learning_rate 或调大 train.warmup，再从上一个检查点继续。",
        ),
    )


def _list_examples(state: State, dataset: Dataset, batches: Sequence[int]) -> str:
    """A sentence with the locations of these batches' examples; empty where the data
    records none.
    """
    if not isinstance(dataset, Located):
        return ""
    size, seed = state.config.batch_size, state.config.seed
    locations = list[str]()
    for index in batches:
        locations += dataset.locations("train", index, size, seed)
    if not locations:
        return ""
    listed = ", ".join(locations[:LISTED_EXAMPLES])
    if len(locations) > LISTED_EXAMPLES:
        listed += " ..."
    return say(f" Its examples: {listed}.", f" 该批样本：{listed}。")


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """The first Ctrl-C or SIGTERM sets the event; the second Ctrl-C raises
    KeyboardInterrupt at once.
    """
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped  # only the main thread handles signals
        return

    def handle(number: int, frame: object) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    handlers = {
        number: signal.signal(number, handle) for number in machine.STOP_SIGNALS
    }
    try:
        yield stopped
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def check_finite(state: State) -> None:
    """Raise BadInput when a metric is not finite. The losses themselves are checked in
    every step.
    """
    for name, value in state.train.items():
        if not math.isfinite(value):
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
