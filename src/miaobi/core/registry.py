"""The whole plug-in contract: a name leads to an object in a module that is imported
when first asked for.

What is built in and what other packages bring use the same door. A package adds an
entry to one of these tables with, in its pyproject.toml,

    [project.entry-points."miaobi.families"]
    diffusion_lm = "their_package.diffusion_lm"
"""

import signal
import threading
from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from miaobi.core.errors import NotFound, nearest
from miaobi.core.language import say


def loaded(entry: EntryPoint) -> Any:
    """The object an entry point names. Ctrl-C waits until its modules are whole: an
    interrupt inside the first import of PyTorch or NumPy is swallowed there, or aborts
    the process, and what was half imported fails later, somewhere else.
    """
    if threading.current_thread() is not threading.main_thread():
        return entry.load()
    met = list[int]()
    before = (
        signal.signal(signal.SIGINT, lambda number, frame: met.append(number))
        or signal.SIG_DFL
    )
    try:
        return entry.load()
    finally:
        signal.signal(signal.SIGINT, before)
        if met:
            signal.raise_signal(signal.SIGINT)


class Registry:
    """Names of one kind of thing. Values are entry points: "module" or "module:object"."""

    def __init__(self, kind: str, built_in: Mapping[str, str]) -> None:
        self.kind, self.group = kind, f"miaobi.{kind}"
        self._built_in = [
            EntryPoint(name, value, self.group) for name, value in built_in.items()
        ]

    @cached_property
    def _entries(self) -> dict[str, EntryPoint]:
        """Built-in names come last so that no other package can replace them unseen."""
        return {
            entry.name: entry
            for entry in [*entry_points(group=self.group), *self._built_in]
        }

    def names(self) -> list[str]:
        return sorted(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def get(self, name: str) -> Any:
        """The object registered under `name`. Raises NotFound with the nearest names."""
        if name not in self._entries:
            raise NotFound(
                say(
                    f"There is no {name!r} among the {self.kind}.",
                    f"{self.kind} 中没有 {name!r}。",
                ),
                nearest(name, self._entries),
            )
        return loaded(self._entries[name])


families = Registry(
    "families",
    {
        "gpt": "miaobi.families.gpt",
        "lstm": "miaobi.families.lstm",
        "vae": "miaobi.families.vae",
        "vq": "miaobi.families.vq",
        "gan": "miaobi.families.gan",
        "pix2pix": "miaobi.families.pix2pix",
    },
)

datasets = Registry(
    "datasets",
    {
        "pictures": "miaobi.data.image.prepared",
        "tokens": "miaobi.data.text.tokens",
    },
)

sources = Registry(
    "sources",
    {
        "files": "miaobi.data.text.files:read",
        "pack": "miaobi.data.packs:read",
    },
)

readers = Registry(
    "readers",
    {
        "texts": "miaobi.data.labelled.texts:texts",
        "tagged": "miaobi.data.labelled.tagged:read",
        "squad": "miaobi.data.labelled.squad:read",
        "pictures": "miaobi.data.labelled.images:pictures",
        "boxes": "miaobi.data.labelled.boxes:boxes",
        "masks": "miaobi.data.labelled.masks:masks",
    },
)

tasks = Registry(
    "tasks",
    {
        "causal": "miaobi.tune.tasks.causal",
        "chat": "miaobi.tune.tasks.chat",
        "text-classification": "miaobi.tune.tasks.text_classification",
        "token-classification": "miaobi.tune.tasks.token_classification",
        "extractive-questions": "miaobi.tune.tasks.extractive_questions",
        "embedding": "miaobi.tune.tasks.embedding",
        "seq2seq": "miaobi.tune.tasks.seq2seq",
        "preference": "miaobi.tune.tasks.preference",
        "distillation": "miaobi.tune.tasks.distillation",
        "image-classification": "miaobi.tune.tasks.image_classification",
        "object-detection": "miaobi.tune.tasks.detection",
        "image-segmentation": "miaobi.tune.tasks.segmentation",
        "image-captioning": "miaobi.tune.tasks.captioning",
        "diffusion": "miaobi.tune.tasks.diffusion",
    },
)

picture_sources = Registry(
    "picture_sources",
    {
        "folder": "miaobi.data.image.folders:read",
        "pairs": "miaobi.data.image.folders:pairs",
        "tables": "miaobi.data.image.tables:read",
        "idx": "miaobi.data.image.idx:read",
    },
)

engines = Registry(
    "engines",
    {
        "native": "miaobi.engines.native",
        "openvino": "miaobi.engines.openvino",
        "llamacpp": "miaobi.engines.llamacpp",
        "remote": "miaobi.engines.remote",
        "pictures": "miaobi.engines.families",
        "diffusers": "miaobi.engines.diffusers",
        "embedding": "miaobi.engines.embedding",
        "styletransfer": "miaobi.engines.styletransfer",
        "tuned": "miaobi.engines.tuned",
        "upscaler": "miaobi.engines.upscaler",
    },
)

metrics = Registry(
    "metrics",
    {
        "likelihood": "miaobi.evaluate.text.likelihood",
        "diversity": "miaobi.evaluate.text.diversity",
        "memorisation": "miaobi.evaluate.text.memorisation",
        "frechet": "miaobi.evaluate.image.frechet",
        "kernel_distance": "miaobi.evaluate.image.kernel_distance",
        "coverage": "miaobi.evaluate.image.coverage",
        "picture_diversity": "miaobi.evaluate.image.diversity",
        "picture_memorisation": "miaobi.evaluate.image.memorisation",
        "picture_likelihood": "miaobi.evaluate.image.likelihood",
        "reconstruction": "miaobi.evaluate.image.reconstruction",
    },
)

trackers = Registry(
    "trackers",
    {
        "tensorboard": "miaobi.train.tracking:TensorBoard",
        "wandb": "miaobi.train.tracking:WandB",
    },
)

routes = Registry(
    "routes",
    {
        "images": "miaobi.serve.routes.images",
        "models": "miaobi.serve.routes.models",
        "moderations": "miaobi.serve.routes.moderations",
        "chat": "miaobi.serve.routes.chat",
        "completions": "miaobi.serve.routes.completions",
        "embeddings": "miaobi.serve.routes.embeddings",
        "operations": "miaobi.serve.routes.operations",
        "absent": "miaobi.serve.routes.absent",
        "docs": "miaobi.serve.routes.docs",
        "store": "miaobi.serve.routes.store",
        "feedback": "miaobi.serve.routes.feedback",
        "files": "miaobi.serve.routes.files",
        "batches": "miaobi.serve.routes.batches",
        "fine_tuning": "miaobi.serve.routes.fine_tuning",
        "training": "miaobi.serve.routes.training",
    },
)
"""Groups of HTTP endpoints: each module offers `router`, a fastapi.APIRouter."""

pages = Registry(
    "pages",
    {
        "studio": "miaobi.studio.door:Door",
    },
)
"""ASGI applications mounted at /NAME: called with the server's app, closed with it."""

rooms = Registry(
    "rooms",
    {
        "chat": "miaobi.studio.rooms.chat",
        "compare": "miaobi.studio.rooms.compare",
        "pictures": "miaobi.studio.rooms.pictures",
        "train": "miaobi.studio.rooms.train",
        "tune": "miaobi.studio.rooms.tune",
        "feedback": "miaobi.studio.rooms.feedback",
        "jobs": "miaobi.studio.rooms.jobs",
        "models": "miaobi.studio.rooms.models",
    },
)
"""Rooms of the studio, one file each (studio/room.py)."""

work = Registry(
    "work",
    {
        "fine_tuning": "miaobi.serve.jobs.work.fine_tuning:run",
        "estimate": "miaobi.serve.jobs.work.fine_tuning:estimate",
        "training": "miaobi.serve.jobs.work.training:run",
        "training_estimate": "miaobi.serve.jobs.work.training:estimate",
        "batch": "miaobi.serve.jobs.work.batch:run",
    },
)
"""What the server's jobs do, by kind, each in a process of its own: `run(task)`
(serve/jobs/work/task.py).
"""
