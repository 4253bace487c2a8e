"""One process or many: rank, world size, and sums over all processes.

Under torchrun each process takes its share of the microbatches. Gradients and counts
are summed once a step, after the last microbatch, so that N processes give what one
process with the same microbatches gives.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from miaobi.nn.objective import Loss
from miaobi.train.config import launched_processes


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Within: this process is in the group of its torchrun launch, if there is one."""
    if launched_processes() == 1 or dist.is_initialized():
        yield
        return
    # Sums of losses and random states are on the CPU, gradients on the device.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def pick_device(name: str) -> torch.device:
    """Return the device of that name; "auto" is this process's CUDA device, else
    Apple's, else the CPU.
    """
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def sum_losses(losses: Sequence[Loss]) -> Loss:
    """Return the losses of all microbatches of all processes as one."""
    names = list(losses[0].metrics) if losses else []
    zero = torch.zeros(())
    sums = [sum((loss.total for loss in losses), zero)]
    for name in names:
        sums.append(sum((loss.metrics[name] for loss in losses), zero))
    count = sum(loss.count for loss in losses)
    if world_size() > 1:
        values = [count, *(item.item() for item in sums)]
        packed = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(packed)
        count = int(packed[0])
        sums = list(packed[1:])
    return Loss(sums[0], count, dict(zip(names, sums[1:], strict=True)))


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace every gradient by its sum over the processes, in one exchange."""
    if world_size() == 1:
        return
    gradients = [item.grad for item in parameters if item.grad is not None]
    sizes = [gradient.numel() for gradient in gradients]
    packed = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(packed)
    parts = torch.split(packed, sizes)
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def largest(value: float) -> float:
    """Return the largest of the processes' values."""
    if world_size() == 1:
        return value
    shared = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return shared.item()


def gather(tensor: Tensor) -> Tensor:
    """Return the processes' tensors of one shape as the rows of a tensor, by rank."""
    if world_size() == 1:
        return tensor[None]
    rows = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(rows, tensor)
    return torch.stack(rows)


def wait_for_all() -> None:
    """Return when every process has come here."""
    if world_size() > 1:
        dist.barrier()


def broadcast_int(value: int) -> int:
    """Return the first process's value."""
    if world_size() == 1:
        return value
    shared = torch.tensor(value, dtype=torch.int64)
    dist.broadcast(shared, src=0)
    return int(shared)


def broadcast_json(value: Any) -> Any:
    """Return the first process's value: anything that JSON can hold."""
    if world_size() == 1:
        return value
    content = json.dumps(value).encode() if rank() == 0 else b""
    shared = torch.zeros(broadcast_int(len(content)), dtype=torch.uint8)
    if rank() == 0:
        shared.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    dist.broadcast(shared, src=0)
    return json.loads(bytes(shared.tolist()))


@torch.no_grad()
def broadcast_tensors(tensors: Iterable[Tensor]) -> None:
    """Give the tensors of every process the first process's values."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)
