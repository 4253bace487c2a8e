"""The report of a fine-tuning run: the five steps filled in, as JSON and as one page;
written even when the run is interrupted.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from miaobi.core.config import plain
from miaobi.core.files import write_text
from miaobi.core.language import say
from miaobi.evaluate import tuned
from miaobi.evaluate.compare import Difference, differences, scores, worst
from miaobi.evaluate.page import Page, facts, loss_chart, marked, prose, steps, table
from miaobi.evaluate.page import scores as scores_block
from miaobi.evaluate.score import Score
from miaobi.tune import mixing
from miaobi.tune.examples import Example
from miaobi.tune.learner import Evaluation, Metric
from miaobi.verbs.finetune.work import Work

WATTS = 65
"""Of a busy desktop processor, for the estimate of energy."""
SHOWN = 600
"""Characters of a cell."""


class Report:
    """Gathers what a run shows, step by step."""

    def __init__(self, work: Work, folder: Path, known: Any) -> None:
        self.work, self.folder, self.known = work, folder, known
        self.seconds, self.model, self.steps = 0.0, "", 0
        self.base: list[Evaluation] = []
        self.tuned: list[Evaluation] = []
        self.base_answers: dict[int, Any] = {}
        self.answers: dict[int, Any] = {}
        self.general: dict[str, list[Evaluation]] = {}
        self.trained: list[Evaluation] = []

    @property
    def figures(self) -> Sequence[Metric]:
        return self.work.learner.metrics()

    @property
    def tuned_scores(self) -> list[Score]:
        return scores(self.figures, self.tuned)

    @property
    def differences(self) -> list[Difference]:
        return differences(self.figures, self.base, self.tuned)

    # Step 4: while training.

    def sample(self, state: Any, outputs: Sequence[Any]) -> None:
        """Answers to the first validation examples, to the run's folder and the trackers."""
        found = self.work.data.examples("validation")[:2]
        if not found or self.work.settings.task.MAKES != "text":
            return
        with tuned.at_rest(self.work.learner):
            made = [
                f"{spelled(example.parts)}\n→ {spelled(self.work.learner.answer(example.parts))}"
                for example in found
            ]
        for output in outputs:
            output.log_texts(
                state.step, {f"sample/{at}": text for at, text in enumerate(made)}
            )
        write_text(
            self.folder / "samples" / f"step-{state.step:08d}.txt",
            "\n\n".join(made) + "\n",
        )

    @property
    def watch(self) -> Any:
        """What early stopping goes by: None for the loss, else a figure over the
        validation split.
        """
        name = self.work.settings.train.watch
        if name == "loss":
            return None
        figure = self._named(name)
        work = self.work
        return lambda state: tuned.watched(
            figure,
            tuned.evaluate(
                work.learner,
                tuned.first(work.data, "validation", work.settings.report.limit),
                work.settings.train.batch_size,
            ),
        )

    def _named(self, name: str) -> Metric:
        from miaobi.core.errors import BadInput, nearest

        found = {figure.name: figure for figure in self.figures}
        if name not in found:
            raise BadInput(
                say(
                    f"train.watch is {name!r}, which {self.work.settings.task.NAME} does not measure.",
                    f"train.watch 为 {name!r}，任务 {self.work.settings.task.NAME} 没有这个指标。",
                ),
                nearest(name, ["loss", *found]),
            )
        return found[name]

    # Step 5: base and tuned on the same test.

    def evaluate_base(self, state: Any) -> None:
        """Before the first step; kept in base.json for a run that is resumed."""
        path = self.folder / "base.json"
        if path.exists():
            read = json.loads(path.read_text(encoding="utf-8"))
            self.base, self.general["base"] = (
                tuned.read(read["judged"]),
                tuned.read(read["general"]),
            )
            self.base_answers = {
                int(place): answer for place, answer in read["answers"].items()
            }
            return
        self.base = self._evaluate("test", say("judging the base", "评估基础模型"))
        self.base_answers = self._answers(self.base)
        self.general["base"] = self._general()
        write_text(
            path,
            json.dumps(
                {
                    "judged": tuned.written(self.base),
                    "general": tuned.written(self.general["base"]),
                    "answers": self.base_answers,
                },
                ensure_ascii=False,
            ),
        )

    def evaluate_tuned(self, state: Any) -> None:
        self.steps = state.step
        self.tuned = self._evaluate(
            "test", say("judging the tuned model", "评估微调后的模型")
        )
        self.answers = self._answers(self.tuned)
        self.general["tuned"] = self._general()
        if self.work.settings.report.memorisation:
            self.trained = self._evaluate(
                "train", say("looking for memorisation", "检查记忆程度")
            )

    def _evaluate(self, split: str, what: str) -> list[Evaluation]:
        from miaobi.data.progress import bar

        work = self.work
        with bar() as shown:
            return tuned.evaluate(
                work.learner,
                tuned.first(work.data, split, work.settings.report.limit),
                work.settings.train.batch_size,
                lambda share: shown(what, share, 1),
            )

    def _answers(self, judged: Sequence[Evaluation]) -> dict[int, Any]:
        """Of the examples that are shown. Where judging asked for no answer, the first
        few are asked now.
        """
        count = min(self.work.settings.report.answers, len(judged))
        if judged and judged[0].answer is not None:
            return {place: item.answer for place, item in enumerate(judged)}
        if not judged or self.work.settings.task.MAKES != "text":
            return {}
        found = self.work.data.examples("test")
        with tuned.at_rest(self.work.learner):
            return {
                place: self.work.learner.answer(found[place].parts)
                for place in range(count)
            }

    def _general(self) -> list[Evaluation]:
        learner = self.work.learner
        if (
            not self.work.settings.report.forgetting
            or learner.adapter_kind != "CAUSAL_LM"
        ):
            return []
        return tuned.general(learner, self.work.base.tokenizer)

    # The report itself.

    def side_by_side(self) -> list[tuple[Example, float, Any, Any]]:
        """(example, loss, the base's answer, the tuned model's) of the worst examples
        that were answered, worst first.
        """
        found = self.work.data.examples("test")
        order = [
            place
            for place in worst(self.tuned, len(self.tuned))
            if place in self.answers
        ]
        return [
            (
                found[place],
                self.tuned[place].loss,
                self.base_answers.get(place),
                self.answers[place],
            )
            for place in order[: self.work.settings.report.answers]
        ]

    def contents(self, state: Any) -> dict[str, Any]:
        """The five steps as JSON."""
        work, settings = self.work, self.work.settings
        trainable, whole = sizes(work.learner)
        watt_hours = WATTS * state.seconds / 3600
        return plain(
            {
                "model": self.model or settings.name,
                "finished": bool(self.model),
                "run": str(self.folder),
                "1 base and data": {
                    "base": work.base.name,
                    "parameters": whole,
                    "hash": work.base.identity,
                    "again_from": str(work.before or ""),
                    "data": dict(work.data.spec),
                    "left_out": sorted(work.data.left_out),
                    "lengths": work.lengths,
                },
                "2 task and head": {
                    "task": settings.task.NAME,
                    "head": settings.head,
                    "spec": dict(work.spec),
                    "preview": work.preview(),
                },
                "3 how it is changed": {
                    "tune": settings.tune,
                    "trainable": trainable,
                    "train": settings.train,
                    "derived": [
                        {"key": item.key, "value": item.value, "reason": item.reason}
                        for item in work.reasons
                    ],
                },
                "4 training": {
                    "steps": state.step,
                    "best_step": state.best_step,
                    "validation_loss": state.validation,
                    "seconds": round(state.seconds, 1),
                    "memory_gb": round(
                        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2
                    ),
                    "energy_wh": round(watt_hours, 2),
                    "energy_is": f"{WATTS} W over the training time, assumed",
                },
                "5 test": {
                    "base": scores(self.figures, self.base),
                    "tuned": self.tuned_scores,
                    "differences": self.differences,
                    "answers": [
                        {
                            "place": example.location,
                            "asked": example.parts,
                            "wanted": answered(example),
                            "loss": loss,
                            "base": before,
                            "tuned": after,
                        }
                        for example, loss, before, after in self.side_by_side()
                    ],
                    "forgetting": self.forgetting(),
                    "on_training_examples": scores(self.figures, self.trained),
                },
                "what next": [
                    {"why": why, "command": command}
                    for why, command in self.advice(state)
                ],
            }
        )

    def forgetting(self) -> list[Difference]:
        return differences(
            [tuned.GENERAL], self.general.get("base", []), self.general.get("tuned", [])
        )

    def write(self, state: Any) -> None:
        """report.json and report.html, with what is known so far."""
        found = self.contents(state)
        write_text(
            self.folder / "report.json", json.dumps(found, ensure_ascii=False, indent=1)
        )
        self.page(found, state).write(self.folder / "report.html")

    def page(self, found: Mapping[str, Any], state: Any) -> Page:
        from miaobi.train.tracking import read_log

        work = self.work
        state_of = (
            found["model"]
            if found["finished"]
            else say(
                f"{found['model']}, stopped at step {state.step}",
                f"{found['model']}，停在第 {state.step} 步",
            )
        )
        page = Page(
            say(f"Fine-tuning of {state_of}", f"微调：{state_of}"),
            say(
                f"{work.base.name} on "
                f"{work.settings.data.pack or work.settings.data.path}, task "
                f"{work.settings.task.NAME}",
                f"{work.base.name} · "
                f"{work.settings.data.pack or work.settings.data.path} · 任务 "
                f"{work.settings.task.NAME}",
            ),
        )
        page.add(
            say("1 · Base model and labelled data", "1 · 基础模型与标注数据"),
            facts(self._first_step()),
        )
        page.add(
            say("2 · Task, head and loss", "2 · 任务、输出头与损失"),
            facts(
                flat(
                    {
                        key: found["2 task and head"][key]
                        for key in ("task", "head", "spec")
                    }
                )
            ),
            prose(
                say(
                    "As the model sees them; what it is taught is coloured.",
                    "模型实际看到的样本；着色部分为学习目标。",
                )
            ),
            *(
                marked([(f"{place}\n", False), *pieces])
                for place, pieces in work.preview()
                if pieces
            ),
        )
        page.add(
            say("3 · How it is changed", "3 · 微调方式与超参数"),
            facts(self._third_step()),
            table(
                [say("Setting", "设置"), say("Value", "取值"), say("Why", "原因")],
                [
                    [f"train.{item.key}", plain(item.value), item.reason]
                    for item in work.reasons
                ],
            ),
        )
        page.add(
            say("4 · Training", "4 · 训练"),
            facts(self._fourth_step(found["4 training"])),
            loss_chart(read_log(self.folder)),
        )
        page.add(
            say("5 · Test against the base", "5 · 与基础模型对比测试"), *self._tested()
        )
        if self.tuned:
            page.generated_by(found["model"])
        page.add(say("What to try next", "下一步"), steps(*self.advice(state)))
        return page

    def _first_step(self) -> dict[str, Any]:
        data, lengths, given = (
            self.work.data.spec,
            self.work.lengths,
            self.work.settings.data,
        )
        counts = data["splits"]
        found = {
            say(
                "Base", "基础模型"
            ): f"{self.work.base.name} · {self.work.base.identity[:16]}",
            say("Data", "数据"): given.pack or given.path,
            say("Examples", "样本"): say(
                f"{counts['train']:,} to train on, {counts['validation']:,} to validate, {counts['test']:,} to test",
                f"训练 {counts['train']:,}，验证 {counts['validation']:,}，测试 {counts['test']:,}",
            ),
            say("Left out", "略去"): say(
                f"{data['duplicates']:,} duplicates, "
                f"{data['problems']['count']:,} unusable, "
                f"{len(self.work.data.left_out)} with a label of their own",
                f"重复 {data['duplicates']:,}，不可用 "
                f"{data['problems']['count']:,}，标签仅出现一次 "
                f"{len(self.work.data.left_out)}",
            ),
            say("Questions with several answers", "答案不一的提问"): data[
                "contradictions"
            ],
        }
        if data.get("replayed"):
            found[say("Replayed from before", "重放的旧样本")] = f"{data['replayed']:,}"
        for name, said in mixing.describe(data).items():
            found[say(f"Mixed in from {name}", f"混入 {name}")] = said
        if lengths.longest:
            found[say("Tokens", "词元数")] = say(
                f"{lengths.median} in the middle, {lengths.p95} at 95 %, "
                f"{lengths.longest} at most; {lengths.cut} longer than "
                f"{lengths.max_length}",
                f"中位 {lengths.median}，95% 分位 {lengths.p95}，最长 "
                f"{lengths.longest}；超过 {lengths.max_length} 的有 "
                f"{lengths.cut} 条",
            )
        return found

    def _third_step(self) -> dict[str, Any]:
        """The method, what of its settings is not as usual, and how much is trained."""
        tune, usual = self.work.settings.tune, type(self.work.settings.tune)()
        trainable, whole = sizes(self.work.learner)
        changed = {
            f"tune.{key}": value
            for key, value in plain(tune).items()
            if value != getattr(usual, key) and key != "method"
        }
        return {
            say("Method", "方式"): tune.method,
            say(
                "Trained", "可训练参数"
            ): f"{trainable:,} / {whole:,} ({trainable / whole:.2%})",
            **changed,
            say("Optimiser", "优化器"): (
                f"{self.work.settings.train.optimizer}, "
                f"{self.work.settings.train.learning_rate:g}, "
                f"{self.work.settings.train.schedule}"
            ),
        }

    def _fourth_step(self, found: Mapping[str, Any]) -> dict[str, Any]:
        from miaobi.train.estimate import format_duration

        loss = found["validation_loss"]
        return {
            say(
                "Steps", "步数"
            ): f"{found['steps']} / {self.work.settings.train.max_steps}",
            say("Best at step", "最佳步"): found["best_step"],
            say("Validation loss", "验证损失"): "–" if loss is None else f"{loss:.4f}",
            say("Time in steps", "训练用时"): format_duration(found["seconds"]),
            say("Memory at most", "内存峰值"): f"{found['memory_gb']} GB",
            say("Energy", "能耗"): say(
                f"about {found['energy_wh']} Wh, at {WATTS} W assumed",
                f"约 {found['energy_wh']} Wh（按 {WATTS} W 估算）",
            ),
        }

    def _tested(self) -> list[str]:
        if not self.tuned:
            return [
                prose(
                    say(
                        "The run has not ended yet, so nothing was tested.",
                        "训练尚未结束，没有测试结果。",
                    )
                )
            ]
        named = {
            str(self.work.before or self.work.base.name): scores(
                self.figures, self.base
            ),
            self.model or self.work.settings.name: self.tuned_scores,
        }
        fresh = self.work.learner.fresh and not self.work.before
        beside = (
            [
                prose(
                    say(
                        "The base stands here with a head that has learned nothing: its figures are what chance gives.",
                        "基础模型的输出头尚未训练，其得分相当于随机水平。",
                    )
                )
            ]
            if fresh
            else []
        )
        blocks = [
            scores_block(named),
            *beside,
            prose(*map(str, [*self.differences, *self.forgetting()])),
        ]
        if self.trained:
            blocks.append(
                prose(
                    say(
                        "On training examples, to tell learning from learning by heart: ",
                        "在训练样本上的表现（用于判断是否死记）：",
                    )
                    + "; ".join(
                        f"{item.label} {item.value:.4g}"
                        for item in scores(self.figures, self.trained)
                    )
                )
            )
        rows = [
            [
                spelled(example.parts),
                spelled(answered(example)),
                spelled(before),
                spelled(after),
            ]
            for example, _, before, after in self.side_by_side()
        ]
        if rows:
            blocks.append(
                table(
                    [
                        say("Asked (worst first)", "提问（最差在前）"),
                        say("Wanted", "期望"),
                        say("Base", "基础模型"),
                        say("Tuned", "微调后"),
                    ],
                    rows,
                )
            )
        return blocks

    def advice(self, state: Any) -> list[tuple[str, str]]:
        """What to try next, from what was seen."""
        settings, name, tips = (
            self.work.settings,
            self.model or self.work.settings.name,
            list[tuple[str, str]](),
        )
        if not self.model:
            return [
                (
                    say("Go on with this run:", "继续这次训练："),
                    f"miaobi finetune --resume {self.folder}",
                )
            ]
        first = self.differences[0] if self.differences else None
        if first is not None and first.better is not True:
            tips.append(
                (
                    say(
                        "The test shows no gain yet. More or cleaner examples "
                        "help most; then more steps or a higher learning rate.",
                        "测试未显示提升。更多、更干净的样本最有效；其次是更多步数或更高学习率。",
                    ),
                    f"--train.max_steps {2 * settings.train.max_steps}",
                )
            )
        if state.best_step == settings.train.max_steps:
            tips.append(
                (
                    say(
                        "Validation was still improving at the end: train longer.",
                        "训练结束时验证损失仍在下降：可以训练更久。",
                    ),
                    f"--train.max_steps {2 * settings.train.max_steps}",
                )
            )
        if self.work.lengths.cut:
            tips.append(
                (
                    say(
                        f"{self.work.lengths.cut} examples were longer than data.max_length.",
                        f"有 {self.work.lengths.cut} 条样本超过 data.max_length。",
                    ),
                    f"--data.max_length {self.work.lengths.longest}",
                )
            )
        if self.work.data.spec.get("contradictions"):
            tips.append(
                (
                    say(
                        f"{self.work.data.spec['contradictions']} questions "
                        "have more than one answer: mend them if they should "
                        "not.",
                        f"有 {self.work.data.spec['contradictions']} 个提问存在多个答案，如非本意请修正。",
                    ),
                    "",
                )
            )
        forgot = self.forgetting()
        if forgot and forgot[0].better is False:
            tips.append(
                (
                    say(
                        "A general text became less likely: mix general "
                        "examples in, or take a lower learning rate or rank.",
                        "通用文本的概率下降：可混入通用样本，或降低学习率与秩。",
                    ),
                    "",
                )
            )
        return [
            *tips,
            (
                say("Put it into production:", "设为正式版："),
                f"miaobi models promote {name}",
            ),
            (
                say("Tune it again when new data comes:", "有新数据时再次微调："),
                f"miaobi finetune --continue {name.split('@')[0]} --data new.jsonl",
            ),
        ]


def sizes(learner: Any) -> tuple[int, int]:
    """(parameters that are trained, all)."""
    found = list(learner.net.parameters())
    return sum(item.numel() for item in found if item.requires_grad), sum(
        item.numel() for item in found
    )


def answered(example: Example) -> Any:
    """The columns of the answer."""
    found = dict[str, Any]()
    for key, value in example.columns.items():
        asked = example.parts.get(key)
        if (
            isinstance(value, list)
            and isinstance(asked, list)
            and value[: len(asked)] == asked
        ):
            value = value[len(asked) :]  # a dialogue: what was said after the question
        if value != asked and value != []:
            found[key] = value
    return next(iter(found.values())) if len(found) == 1 else found


def spelled(value: Any) -> str:
    """A value for people: text as it is, one column without its name, the rest as JSON;
    cut to SHOWN characters.
    """
    if isinstance(value, Mapping):
        value = {
            key: item
            for key, item in value.items()
            if key not in ("digest", "width", "height")
        }
        value = (
            Path(str(value["image"])).name
            if set(value) == {"image"}
            else next(iter(value.values()))
            if len(value) == 1
            else value
        )
    if (
        isinstance(value, list)
        and value
        and all(isinstance(turn, Mapping) and "role" in turn for turn in value)
    ):
        said = [str(turn.get("content") or "") for turn in value]
        value = (
            said[0]
            if len(said) == 1
            else "\n".join(f"{turn['role']}: {text}" for turn, text in zip(value, said))
        )
    text = (
        value
        if isinstance(value, str)
        else "–"
        if value is None
        else json.dumps(plain(value), ensure_ascii=False)
    )
    return text if len(text) <= SHOWN else text[:SHOWN] + " …"


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested facts under dotted names, without what is empty."""
    found = dict[str, Any]()
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        elif value not in (None, "", [], 0):
            found[f"{prefix}{key}"] = (
                value
                if not isinstance(value, list)
                else json.dumps(value, ensure_ascii=False)[:SHOWN]
            )
    return found
