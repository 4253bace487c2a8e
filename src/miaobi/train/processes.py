"""One process or many: who we are, and sums over all.

Under torchrun each process takes its share of the microbatches. Gradients and counts
are summed once a step, after the last microbatch, so that N processes give what one
process with N times the accumulation gives.
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


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the other processes of a torchrun launch; nothing to do outside one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def pick_device(name: str) -> torch.device:
    """ "auto": this process's CUDA device, else Apple's, else the CPU."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def sum_losses(losses: Sequence[Loss]) -> Loss:
    """The losses of all microbatches of all processes as one."""
    names = list(losses[0].metrics) if losses else []
    sums = [sum((loss.total for loss in losses), torch.zeros(()))]
    sums += [
        sum((loss.metrics[name] for loss in losses), torch.zeros(())) for name in names
    ]
    count = sum(loss.count for loss in losses)
    if world_size() > 1:
        packed = torch.tensor(
            [count, *(item.item() for item in sums)], dtype=torch.float64
        )
        dist.all_reduce(packed)
        count, sums = int(packed[0]), list(packed[1:])
    return Loss(sums[0], count, dict(zip(names, sums[1:])))


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace every gradient by its sum over the processes, in one exchange."""
    if world_size() == 1:
        return
    gradients = [
        parameter.grad for parameter in parameters if parameter.grad is not None
    ]
    whole = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(whole)
    for gradient, part in zip(
        gradients, whole.split([item.numel() for item in gradients]), strict=True
    ):
        gradient.copy_(part.view_as(gradient))


def broadcast_int(value: int) -> int:
    """The first process's value, for all."""
    if world_size() == 1:
        return value
    shared = torch.tensor(value, dtype=torch.int64)
    dist.broadcast(shared, src=0)
    return int(shared)


def broadcast_json(value: Any) -> Any:
    """The first process's value, for all: anything that JSON can hold."""
    if world_size() == 1:
        return value
    words = json.dumps(value).encode() if rank() == 0 else b""
    shared = torch.zeros(broadcast_int(len(words)), dtype=torch.uint8)
    if rank() == 0:
        shared.copy_(torch.frombuffer(bytearray(words), dtype=torch.uint8))
    dist.broadcast(shared, src=0)
    return json.loads(bytes(shared.tolist()))


@torch.no_grad()
def broadcast_tensors(tensors: Iterable[Tensor]) -> None:
    """Give every process the first one's values."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)
