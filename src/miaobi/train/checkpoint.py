"""Checkpoints: all resumable state as one dict, tensors in safetensors, the rest in
JSON, written beside then renamed.

    checkpoints/step-00000100/{tensors.safetensors, state.json}
    checkpoints/best          -> the same, of the best validation

Frozen weights are left out: they come from the base again. The data's order is a pure
    function of the step, so a resumed run goes on exactly as the unbroken one would
    have.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from miaobi.core.bundle import check_safetensors
from miaobi.core.errors import Damaged, NotFound
from miaobi.core.files import write_beside
from miaobi.core.language import say
from miaobi.train.loop import State

PLAIN = (
    "step",
    "seen",
    "best",
    "best_step",
    "stale",
    "validation",
    "finished",
    "seconds",
)


def state_dict(state: State) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, plain values) that determine how the run goes on."""
    tensors = {
        f"objective.{name}": value.detach() for name, value in _moving(state).items()
    }
    tensors |= {f"average.{name}": value for name, value in state.average.items()}
    tensors["random.cpu"] = torch.get_rng_state()
    if state.device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(state.device)
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
    """Bring `state`, made afresh for the same configuration, to where `state_dict` found it."""
    own = _under(tensors, "objective.")
    wrong = _moving(state).keys() ^ own.keys()
    if wrong:
        raise ValueError(
            f"{len(wrong)} weights are in one and not in the other, such as {min(wrong)}"
        )
    state.objective.load_state_dict(own, strict=False)
    for name, value in _under(tensors, "average.").items():
        state.average[name].copy_(value)
    for key, optimizer in _optimizers(state):
        values = dict[int, dict[str, Any]]()
        parameters = [
            parameter
            for group in optimizer.param_groups
            for parameter in group["params"]
        ]
        for name, value in {
            **_under(tensors, f"{key}."),
            **_under(plain["optimizers"], f"{key}."),
        }.items():
            index, _, leaf = name.partition(".")
            values.setdefault(int(index), {})[leaf] = laid_out(
                value, parameters[int(index)]
            )
        optimizer.load_state_dict({**optimizer.state_dict(), "state": values})
    for name in PLAIN:
        setattr(state, name, plain[name])
    torch.set_rng_state(tensors["random.cpu"].cpu())
    if "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"].cpu(), state.device)


def laid_out(value: Any, parameter: Tensor) -> Any:
    """A tensor of the parameter's shape in the order its memory has (channels last or
    not), on which fused optimisers rely.
    """
    if isinstance(value, Tensor) and value.shape == parameter.shape:
        return torch.empty_like(parameter).copy_(value)
    return value


def _moving(state: State) -> dict[str, Tensor]:
    """The objective's state by name but for weights that no step moves. Those of an
    optimiser count although they may not have thawed yet.
    """
    moved = {
        id(item)
        for _, optimizer in _optimizers(state)
        for group in optimizer.param_groups
        for item in group["params"]
    }
    return {
        name: value
        for name, value in state.objective.state_dict(keep_vars=True).items()
        if not isinstance(value, nn.Parameter)
        or value.requires_grad
        or id(value) in moved
    }


def _optimizers(state: State) -> Iterator[tuple[str, torch.optim.Optimizer]]:
    """Each optimiser once, under a name that stays the same from run to run."""
    met = set[int]()
    for phase, optimizers in state.optimizers.items():
        for place, optimizer in enumerate(optimizers):
            if id(optimizer) not in met:
                met.add(id(optimizer))
                yield f"optimizer.{phase}.{place}", optimizer


def _under(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): value
        for name, value in values.items()
        if name.startswith(prefix)
    }


def save(state: State, folder: Path, keep: int) -> Path:
    """Write a checkpoint of the present step under `folder` and drop all but the newest `keep`."""
    path = write(state, folder / f"step-{state.step:08d}")
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return path


def write(state: State, path: Path) -> Path:
    tensors, plain = state_dict(state)
    with write_beside(path) as draft:
        draft.mkdir()
        save_file(_unshared(tensors), draft / "tensors.safetensors")
        (draft / "state.json").write_text(json.dumps(plain, indent=1))
        if path.exists():  # a folder cannot be renamed over a full one
            path.rename(path.with_name(f".{path.name}.old"))
    shutil.rmtree(path.with_name(f".{path.name}.old"), ignore_errors=True)
    return path


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """safetensors stores no two names for one memory: tied weights are written twice."""
    met, whole = set[int](), dict[str, Tensor]()
    for name, value in tensors.items():
        value = value.detach().contiguous()
        whole[name] = value.clone() if value.data_ptr() in met else value
        met.add(value.data_ptr())
    return whole


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints under `folder`, oldest first."""
    return sorted(
        path for path in folder.glob("step-*") if (path / "state.json").exists()
    )


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
