"""From nothing to an answer, a trained poet, its poems, its scores, and one page that shows them.

Every stage is skipped where an earlier run left its result.
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
    from miaobi.verbs.evaluate import Evaluation
    from miaobi.verbs.train import Settings

LLM, POET = "smollm2", "quickstart-poet"
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
    page: Path
    answer: str
    poems: tuple[str, ...]
    poet: str
    seconds: float

    def __str__(self) -> str:
        shown = "\n".join(f"  {poem}" for poem in self.poems)
        return "\n".join(
            [
                "",
                QUESTION,
                f"  {self.answer}",
                "",
                say(
                    f"{self.poet}, trained here, writes:",
                    f"刚刚训练的 {self.poet} 写道：",
                ),
                shown,
                "",
                say(
                    f"All of it on one page: {self.page.resolve()}",
                    f"全部结果见：{self.page.resolve()}",
                ),
                say(
                    "Next: .venv/bin/miaobi chat --model smollm2",
                    "下一步：.venv/bin/miaobi chat --model smollm2",
                ),
            ]
        )


def quickstart(*, runs: Path = Path("runs")) -> Quickstart:
    """From nothing to an answer, a trained poet and a report, in a few minutes on two cores.

    Args:
        runs: Where the run and the page go.
    """
    from miaobi.data import packs

    began = time.monotonic()
    with stage(
        1,
        say(
            "fetch a small language model and real poems", "获取小型语言模型与真实诗歌"
        ),
    ):
        packs.path(LLM)
        poems = poem_pack()
        packs.path(poems)
    with stage(2, say("ask the language model", "向语言模型提问")):
        answers = ask()
    with stage(3, say("train a poet on two cores, from scratch", "从零训练一位诗人")):
        version, run = poet(poems, runs)
    with stage(4, say("let it write", "让它写诗")):
        written = write(version)
    with stage(5, say("judge it", "评估")):
        from miaobi.verbs.evaluate import evaluate

        judged = evaluate(
            str(version), samples=8, limit=60, out=runs / "quickstart" / "evaluation"
        )
    path = page(
        answers,
        version,
        run,
        written,
        judged,
        runs / "quickstart" / "index.html",
        time.monotonic() - began,
    )
    return Quickstart(
        path,
        str(answers[0]).strip(),
        tuple(written),
        str(version),
        round(time.monotonic() - began, 1),
    )


@contextmanager
def stage(number: int, what: str) -> Iterator[None]:
    print(f"[{number}/5] {what} ...", file=sys.stderr, flush=True)
    began = time.monotonic()
    yield
    print(f"      {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def poem_pack() -> str:
    """All Tang poems where npm is installed, otherwise the pack that pip alone can fetch."""
    return "chinese-poetry" if shutil.which("npm") else "tang-poems"


def ask() -> list[Text]:
    from miaobi.engines.load import load

    with load(LLM) as model:
        return model.generate(QUESTION, max_new_tokens=96, temperature=0.3, seed=1)


def poet(pack: str, runs: Path) -> tuple[Version, Path]:
    """The poet of an earlier quickstart with the very same recipe, or a new one; and its run."""
    from miaobi.verbs import train

    settings = train.settle({**RECIPE, "data": {**RECIPE["data"], "pack": pack}})
    try:
        known = Store().resolve(f"{POET}@latest")
        run = newest_run(runs, settings)
        if run and plain(bundle.read(known.path).recipe) == plain(settings.values):
            return known, run
    except NotFound:
        pass
    trained = train.train(
        {**RECIPE, "data": {**RECIPE["data"], "pack": pack}}, runs=runs
    )
    return Store().resolve(trained.model), trained.run


def newest_run(runs: Path, settings: Settings) -> Path | None:
    """The newest finished run of these settings, whose log the page draws."""
    from miaobi.core.config import read_yaml

    found = [
        path.parent.parent
        for path in runs.glob(f"{POET}-*/bundle/miaobi.json")
        if read_yaml(path.parent.parent / "config.yaml") == plain(settings.values)
    ]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def write(version: Version) -> list[str]:
    from miaobi.engines.load import load

    with load(str(version)) as model:
        return [
            beginning
            + str(
                model.generate(
                    beginning,
                    max_new_tokens=56,
                    temperature=0.8,
                    top_p=0.95,
                    seed=number,
                )[0]
            )
            for number, beginning in enumerate(BEGINNINGS)
        ]


def page(
    answers: list[Text],
    version: Version,
    run: Path,
    written: list[str],
    judged: Evaluation,
    path: Path,
    seconds: float,
) -> Path:
    """The one page of the quickstart; opens from disk."""
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

    manifest = bundle.read(version.path)
    made = Page(
        say("Miaobi quickstart", "妙笔快速开始"),
        say(
            "A pretrained model answered, and a poet was trained from scratch "
            f"on this machine: {seconds:.0f} s in all.",
            f"预训练模型回答了问题，并在本机从零训练了一位诗人：共 {seconds:.0f} 秒。",
        ),
    )
    made.add(
        say("A packaged language model answers", "现成的语言模型回答"),
        quotes([Quote(str(answers[0]).strip(), caption=QUESTION)]),
    )
    made.add(
        say("The poet that was trained here", "在这里训练的诗人"),
        quotes(Quote(poem) for poem in written),
        prose(
            say(
                "After a minute it knows the shape of a line and which characters go together, and not much more. "
                "The full recipe goes on for longer.",
                "训练一分钟后，它学会了诗句的形式与常见搭配，仅此而已；完整配方会训练更久。",
            )
        ),
    )
    made.add(
        say("How it learned", "学习过程"),
        loss_chart(read_log(run)),
        facts(
            {
                say("Steps", "步数"): manifest.metrics["steps"],
                say(
                    "Validation loss, nats per token", "验证损失（奈特/词元）"
                ): f"{manifest.metrics['validation_loss']:.3f}",
                say("Seconds of training", "训练秒数"): manifest.metrics["seconds"],
                say("Data", "数据"): manifest.data["source"],
            }
        ),
    )
    made.add(say("How good it is", "评估"), score_table({str(version): judged.scores}))
    made.add(
        say("What to do next", "下一步"),
        steps(
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
                    "Take a model to llama.cpp or LM Studio:",
                    "导出到 llama.cpp 或 LM Studio：",
                ),
                f".venv/bin/miaobi export {POET} --to gguf",
            ),
        ),
    )
    return made.generated_by(LLM).generated_by(str(version)).write(path)
