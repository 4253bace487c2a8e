"""Where the metrics of a run are written: its own log always, TensorBoard by default,
others by name.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from miaobi.core.artifacts import Artifact
from miaobi.core.errors import MissingPart
from miaobi.core.language import say
from miaobi.core.registry import Registry

if TYPE_CHECKING:
    import numpy as np


class Tracker(Protocol):
    """Opened as `Tracker(run_folder, resolved_config)`."""

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None: ...

    def log_samples(self, step: int, samples: Sequence[Artifact]) -> None:
        """Log those that it can show; all of them lie in the run's samples/."""
        ...

    def close(self) -> None: ...


trackers: Registry[Callable[[Path, Mapping[str, Any]], Tracker]] = Registry(
    "trackers",
    {
        "tensorboard": "miaobi.train.tracking:TensorBoard",
        "wandb": "miaobi.train.tracking:WandB",
    },
)


class Log:
    """log.jsonl in the run's folder: one line a record, kept across resumes."""

    def __init__(self, run: Path, from_step: int = 0) -> None:
        self.path = run / "log.jsonl"
        # A run that goes on from an older checkpoint drops what came after it.
        rows = [row for row in read_log(run) if row["step"] <= from_step]
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        self.path.write_text("".join(lines), encoding="utf-8")

    def log_metrics(self, step: int, values: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}, ensure_ascii=False) + "\n")

    def log_samples(self, step: int, samples: Sequence[Artifact]) -> None:
        if texts := texts_of(samples):
            self.log_metrics(step, texts)

    def close(self) -> None:
        """Every line is on disk already."""


def texts_of(samples: Sequence[Artifact]) -> dict[str, str]:
    """Return the texts among the samples, by the names that trackers give them."""
    texts = [sample.as_text() for sample in samples]
    return {
        f"sample/{number}": text
        for number, text in enumerate(texts)
        if text is not None
    }


def images_of(samples: Sequence[Artifact]) -> dict[str, np.ndarray]:
    """Return the pixels of the images among the samples, uint8 [H, W, C], by name; a
    single one is called "samples".
    """
    forms = [sample.as_pixels() for sample in samples]
    images = [pixels for pixels in forms if pixels is not None]
    if len(images) == 1:
        return {"samples": images[0]}
    return {f"samples/{number}": pixels for number, pixels in enumerate(images)}


def read_log(run: Path) -> list[dict[str, Any]]:
    """Return the records of a run; a last line that was cut off is left out."""
    path = run / "log.jsonl"
    if not path.exists():
        return []
    rows = list[dict[str, Any]]()
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


class TensorBoard:
    """Event files in the run's tensorboard/."""

    def __init__(self, run: Path, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(run / "tensorboard"))
        self.writer.add_text(
            "config",
            f"```json\n{json.dumps(config, ensure_ascii=False, indent=1)}\n```",
        )

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def log_samples(self, step: int, samples: Sequence[Artifact]) -> None:
        for name, text in texts_of(samples).items():
            self.writer.add_text(name, text, step)
        for name, pixels in images_of(samples).items():
            self.writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


class WandB:
    """Offline where WANDB_MODE says so or no key is set; `wandb sync` sends it later."""

    def __init__(self, run: Path, config: Mapping[str, Any]) -> None:
        if importlib.util.find_spec("wandb") is None:
            raise MissingPart(
                say("Weights & Biases is not installed.", "未安装 Weights & Biases。"),
                "pip install 'miaobi[wandb]'",
            )
        import wandb

        default = "online" if os.environ.get("WANDB_API_KEY") else "offline"
        mode: Any = os.environ.get("WANDB_MODE") or default  # wandb checks its value
        self.run = wandb.init(
            project="miaobi",
            name=run.name,
            dir=str(run),
            config=dict(config),
            mode=mode,
            resume="allow",
            id=run.name,
        )

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def log_samples(self, step: int, samples: Sequence[Artifact]) -> None:
        import wandb

        pages = dict[str, Any]()
        for name, text in texts_of(samples).items():
            pages[name] = wandb.Html(f"<pre>{text}</pre>")
        for name, pixels in images_of(samples).items():
            pages[name] = wandb.Image(pixels)
        self.run.log(pages, step=step)

    def close(self) -> None:
        self.run.finish()


def open_trackers(
    names: list[str] | None, run: Path, config: Mapping[str, Any]
) -> list[Tracker]:
    """Open trackers by name; None means TensorBoard where it is installed."""
    if names is None:
        names = ["tensorboard"] if importlib.util.find_spec("tensorboard") else []
    return [trackers.get(name)(run, config) for name in names]
