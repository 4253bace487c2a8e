"""Checkpoints: all resumable state as one dict, tensors in safetensors, the rest in
JSON, written beside then renamed.

    checkpoints/step-00000100/{tensors.safetensors, state.json}
    checkpoints/best          -> the same, of the best validation

Frozen weights are left out: they come from the base again. The data's order is a pure
function of the microbatches used so far, and every process gets back its own random
states, so a resumed run goes on exactly as the unbroken one would have. With another
number of processes it sees the same batches, each once.

Saving is done by all processes together; the first one writes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from miaobi.core.bundle import check_safetensors
from miaobi.core.errors import Damaged, NotFound
from miaobi.core.files import write_beside
from miaobi.core.language import say
from miaobi.train import processes
from miaobi.train.loop import State

PLAIN = (
    "step",
    "batches",
    "seen",
    "best",
    "best_step",
    "stale",
    "validation",
    "finished",
    "seconds",
    "threads",
    "pace",
)


def state_dict(state: State) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the (tensors, plain values) that determine how the run goes on.

    All processes call it together: each adds its random states.
    """
    tensors = dict[str, Tensor]()
    for name, value in _trained(state).items():
        tensors[f"objective.{name}"] = value.detach()
    for name, value in state.average.items():
        tensors[f"average.{name}"] = value
    tensors["random.cpu"] = processes.gather(torch.get_rng_state())
    if state.device.type == "cuda":
        own = torch.cuda.get_rng_state(state.device)
        tensors["random.cuda"] = processes.gather(own)
    plain: dict[str, Any] = {name: getattr(state, name) for name in PLAIN}
    plain["optimizers"] = {}
    for key, optimizer in _optimizers(state):
        for index, values in optimizer.state_dict()["state"].items():
            for name, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"{key}.{index}.{name}"] = value
                else:
                    plain["optimizers"][f"{key}.{index}.{name}"] = value
    return tensors, plain


def load_state_dict(
    state: State, tensors: dict[str, Tensor], plain: dict[str, Any]
) -> None:
    """Bring a new `state` of the same configuration to where `state_dict` was taken.

    Raises ValueError, KeyError or RuntimeError where they do not belong together.
    """
    weights = _under(tensors, "objective.")
    unmatched = _trained(state).keys() ^ weights.keys()
    if unmatched:
        raise ValueError(
            f"{len(unmatched)} weights are in one and not in the other, such as {min(unmatched)}"
        )
    state.objective.load_state_dict(weights, strict=False)
    for name, value in _under(tensors, "average.").items():
        state.average[name].copy_(value)
    for key, optimizer in _optimizers(state):
        values = _under(tensors, f"{key}.") | _under(plain["optimizers"], f"{key}.")
        _load_optimizer(optimizer, values)
    values_by_name = {**_added_later(plain, state), **plain}
    for name in PLAIN:
        setattr(state, name, values_by_name[name])
    state.threads = [(step, count) for step, count in state.threads]
    _load_random_states(state, tensors)


def _added_later(plain: Mapping[str, Any], state: State) -> dict[str, Any]:
    """What checkpoints of 0.1.0 lack: all their steps had as many microbatches, and the
    number of threads never changed.
    """
    batches = plain["step"] * state.config.microbatches
    return {"batches": batches, "threads": [], "pace": 0.0}


def _load_random_states(state: State, tensors: Mapping[str, Tensor]) -> None:
    """Give this process its own random states; one that was not there when they were
    saved begins with new ones.
    """
    cpu = _rows(tensors["random.cpu"])
    rank = processes.rank()
    if rank >= len(cpu):
        world_size = processes.world_size()
        torch.manual_seed(state.config.seed + state.step * world_size + rank)
        return
    torch.set_rng_state(cpu[rank].clone())  # torch reads from the storage's beginning
    if "random.cuda" in tensors:
        cuda = _rows(tensors["random.cuda"])
        torch.cuda.set_rng_state(cuda[rank].clone(), state.device)


def _rows(states: Tensor) -> Tensor:
    """Random states as rows, by rank; 0.1.0 kept one only, not as a row."""
    return states if states.dim() == 2 else states[None]


def _load_optimizer(
    optimizer: torch.optim.Optimizer, values: Mapping[str, Any]
) -> None:
    """Set an optimiser's state from values by "INDEX.NAME", index of the parameter."""
    parameters = _parameters(optimizer)
    states = dict[int, dict[str, Any]]()
    for key, value in values.items():
        index, _, name = key.partition(".")
        parameter = parameters[int(index)]
        states.setdefault(int(index), {})[name] = with_layout_of(parameter, value)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})


def with_layout_of(parameter: Tensor, value: Any) -> Any:
    """Return a tensor of the parameter's shape with the parameter's memory layout
    (channels last or not), on which fused optimisers rely; other values as they are.
    """
    if isinstance(value, Tensor) and value.shape == parameter.shape:
        return torch.empty_like(parameter).copy_(value)
    return value


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [item for group in optimizer.param_groups for item in group["params"]]


def _trained(state: State) -> dict[str, Tensor]:
    """The objective's state by name, without the weights that no step moves. Those of
    an optimiser count although they may be frozen for now.
    """
    optimized = set[int]()
    for _, optimizer in _optimizers(state):
        optimized |= {id(item) for item in _parameters(optimizer)}
    return {
        name: value
        for name, value in state.objective.state_dict(keep_vars=True).items()
        if not isinstance(value, nn.Parameter)
        or value.requires_grad
        or id(value) in optimized
    }


def _optimizers(state: State) -> Iterator[tuple[str, torch.optim.Optimizer]]:
    """Each optimiser once, under a name that stays the same from run to run."""
    seen = set[int]()
    for phase, optimizers in state.optimizers.items():
        for index, optimizer in enumerate(optimizers):
            if id(optimizer) not in seen:
                seen.add(id(optimizer))
                yield f"optimizer.{phase}.{index}", optimizer


def _under(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The values whose names begin with `prefix`, by the rest of their names."""
    return {
        name.removeprefix(prefix): value
        for name, value in values.items()
        if name.startswith(prefix)
    }


def save(state: State, folder: Path, keep: int) -> Path:
    """Write a checkpoint of this step under `folder`; delete all but the newest `keep`.

    All processes call it together, and return when it is written.
    """
    path = write(state, folder / f"step-{state.step:08d}")
    if processes.rank() == 0:
        for old in list_checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    return path


def write(state: State, path: Path) -> Path:
    """Write a checkpoint to the folder `path`, in place of one that is there.

    All processes call it together, and return when it is written.
    """
    tensors, plain = state_dict(state)
    if processes.rank() == 0:
        _write_files(tensors, plain, path)
    processes.wait_for_all()
    return path


def _write_files(tensors: dict[str, Tensor], plain: dict[str, Any], path: Path) -> None:
    with write_beside(path) as draft:
        draft.mkdir()
        save_file(_unshared(tensors), draft / "tensors.safetensors")
        (draft / "state.json").write_text(json.dumps(plain, indent=1))
        if path.exists():  # a folder cannot be renamed over a full one
            path.rename(path.with_name(f".{path.name}.old"))
    shutil.rmtree(path.with_name(f".{path.name}.old"), ignore_errors=True)


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy tied weights: safetensors stores no two names for one memory."""
    addresses = set[int]()
    unshared = dict[str, Tensor]()
    for name, value in tensors.items():
        value = value.detach().contiguous()
        unshared[name] = value.clone() if value.data_ptr() in addresses else value
        addresses.add(value.data_ptr())
    return unshared


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints under `folder`, oldest first."""
    folders = folder.glob("step-*")
    return sorted(path for path in folders if (path / "state.json").exists())


def restore(state: State, path: Path) -> None:
    """Continue from a checkpoint folder. Raises NotFound or Damaged."""
    if not (path / "state.json").exists():
        raise NotFound(
            say(f"There is no checkpoint at {path}.", f"{path} 处没有检查点。"),
            say("Start the run again without --resume.", "请去掉 --resume 重新训练。"),
        )
    check_safetensors(path / "tensors.safetensors")
    try:
        load_state_dict(
            state,
            load_file(path / "tensors.safetensors"),
            json.loads((path / "state.json").read_text()),
        )
    except (KeyError, RuntimeError, ValueError) as error:
        raise Damaged(
            say(
                f"{path} does not belong to this configuration: {error}",
                f"{path} 与当前配置不符：{error}",
            ),
            say(
                "Resume with the configuration the run was started with.",
                "请使用该次训练开始时的配置继续。",
            ),
        ) from None
