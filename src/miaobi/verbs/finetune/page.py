"""The report of a fine-tuning run as one HTML page, drawn from report.json alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from miaobi.core.config import plain
from miaobi.core.language import in_each, say
from miaobi.core.quantities import format_duration
from miaobi.data.survey import counted
from miaobi.evaluate.compare import Difference
from miaobi.evaluate.page import (
    Block,
    Page,
    facts,
    highlighted_text,
    loss_chart,
    prose,
    score_table,
    steps,
    table,
)
from miaobi.evaluate.score import Score
from miaobi.tune import mixing
from miaobi.tune.config import TuneConfig
from miaobi.verbs.readable import CELL_CHARACTERS, readable


def page(report: Mapping[str, Any], log: Sequence[Mapping[str, Any]]) -> Page:
    """Return the page of a run.

    Args:
        report: what finetune/report.py returns, or the content of report.json
        log: the records of log.jsonl, for the curve of the loss
    """
    drawn = _titled(report)
    drawn.add(
        say("1 · Base model and labelled data", "1 · 基础模型与标注数据"),
        facts(_base_and_data(report["1 base and data"])),
    )
    drawn.add(
        say("2 · Task, head and loss", "2 · 任务、输出头与损失"),
        *_task_and_head(report["2 task and head"]),
    )
    drawn.add(
        say("3 · How it is changed", "3 · 微调方式与超参数"),
        facts(_method(report)),
        _derived(report["3 how it is changed"]["derived"]),
    )
    drawn.add(
        say("4 · Training", "4 · 训练"),
        facts(_training(report)),
        loss_chart(log),
    )
    drawn.add(
        say("5 · Test against the base", "5 · 与基础模型对比测试"), *_test(report)
    )
    if report["5 test"]["tuned"]:
        drawn.generated_by(report["model"])
    advice = [(item["why"], item["command"]) for item in report["what next"]]
    drawn.add(say("What to try next", "下一步"), steps(*advice))
    return drawn


def _titled(report: Mapping[str, Any]) -> Page:
    """Return the page with nothing but its title and what was tuned on what."""
    model = report["model"]
    if not report["finished"]:
        step = report["4 training"]["steps"]
        model = say(f"{model}, stopped at step {step}", f"{model}，停在第 {step} 步")
    base = report["1 base and data"]["base"]
    source = report["1 base and data"]["source"]
    task = report["2 task and head"]["task"]
    return Page(
        say(f"Fine-tuning of {model}", f"微调：{model}"),
        say(
            f"{base} on {source}, task {task}",
            f"{base} · {source} · 任务 {task}",
        ),
    )


def _base_and_data(step: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rows of step 1."""
    data = step["data"]
    train = f"{data['splits']['train']:,}"
    validation = f"{data['splits']['validation']:,}"
    test = f"{data['splits']['test']:,}"
    duplicates = f"{data['duplicates']:,}"
    unusable = f"{data['problems']['count']:,}"
    left_out = len(step["left_out"])
    rows: dict[str, Any] = {
        say("Base", "基础模型"): f"{step['base']} · {step['hash'][:16]}",
        say("Data", "数据"): step["source"],
        say("Examples", "样本"): say(
            f"{train} to train on, {validation} to validate, {test} to test",
            f"训练 {train}，验证 {validation}，测试 {test}",
        ),
        say("Left out", "略去"): say(
            f"{duplicates} duplicates, {unusable} unusable, {left_out} with a label of their own or beyond the base",
            f"重复 {duplicates}，不可用 {unusable}，标签仅出现一次或基础模型无法学习 {left_out}",
        ),
        say("Questions with several answers", "答案不一的提问"): data["contradictions"],
    }
    if data.get("unused"):
        rows[say("Keys not used", "未用的键")] = counted(data["unused"])
    if data.get("replayed"):
        rows[say("Replayed from before", "重放的旧样本")] = f"{data['replayed']:,}"
    for name, summary in mixing.describe(data).items():
        rows[say(f"Mixed in from {name}", f"混入 {name}")] = summary
    if step["lengths"]["longest"]:
        rows[say("Tokens", "词元数")] = _lengths(step["lengths"])
    return rows


def _lengths(lengths: Mapping[str, int]) -> str:
    """Return in words how long the examples are, in tokens."""
    median, p95 = lengths["median"], lengths["p95"]
    longest, cut = lengths["longest"], lengths["cut"]
    limit = lengths["max_length"]
    return say(
        f"median {median}, 95th percentile {p95}, longest {longest}; {cut} longer than {limit}",
        f"中位 {median}，95% 分位 {p95}，最长 {longest}；超过 {limit} 的有 {cut} 条",
    )


def _task_and_head(step: Mapping[str, Any]) -> list[Block]:
    """Return the facts of step 2, and the preview with what is learned in colour."""
    blocks = [
        facts(_dotted({key: step[key] for key in ("task", "head", "spec")})),
        prose(
            say(
                "As the model sees them; what it is taught is coloured.",
                "模型实际看到的样本；着色部分为学习目标。",
            )
        ),
    ]
    for location, pieces in step["preview"]:
        if pieces:
            texts = [(text, learned) for text, learned in pieces]
            blocks.append(highlighted_text([(f"{location}\n", False), *texts]))
    return blocks


def _dotted(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested facts under dotted names, without the empty ones."""
    rows = dict[str, Any]()
    for key, value in tree.items():
        if isinstance(value, Mapping):
            rows |= _dotted(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value:
            text = json.dumps(value, ensure_ascii=False)
            rows[f"{prefix}{key}"] = text[:CELL_CHARACTERS]
        elif value not in (None, "", [], 0):
            rows[f"{prefix}{key}"] = value
    return rows


def _method(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the method, its settings that are not the defaults, and how much is trained."""
    step = report["3 how it is changed"]
    tune = step["tune"]
    train = step["train"]
    defaults = plain(TuneConfig())
    changed = {
        f"tune.{key}": value
        for key, value in tune.items()
        if key != "method" and value != defaults[key]
    }
    trainable = step["trainable"]
    parameters = report["1 base and data"]["parameters"]
    return {
        say("Method", "方式"): tune["method"],
        say("Trained", "可训练参数"): (
            f"{trainable:,} / {parameters:,} ({trainable / parameters:.2%})"
        ),
        **changed,
        say("Optimiser", "优化器"): (
            f"{train['optimizer']}, {train['learning_rate']:g}, {train['schedule']}"
        ),
    }


def _derived(rows: Sequence[Mapping[str, Any]]) -> Block:
    """Return a table of the settings that follow from base and data."""
    return table(
        [say("Setting", "设置"), say("Value", "取值"), say("Why", "原因")],
        [[f"train.{row['key']}", row["value"], row["reason"]] for row in rows],
    )


def _training(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rows of step 4."""
    step = report["4 training"]
    max_steps = report["3 how it is changed"]["train"]["max_steps"]
    loss = step["validation_loss"]
    missing = say("no validation", "无验证") if report["finished"] else "–"
    return {
        say("Steps", "步数"): f"{step['steps']} / {max_steps}",
        say("Best at step", "最佳步"): step["best_step"] or "–",
        say("Validation loss", "验证损失"): (
            missing if loss is None else f"{loss:.4f}"
        ),
        say("Time in steps", "训练用时"): format_duration(step["seconds"]),
        say("Peak memory", "内存峰值"): f"{step['memory_gb']} GB",
    }


def _test(report: Mapping[str, Any]) -> list[Block]:
    """Return scores, differences and answers of base and tuned model."""
    test = report["5 test"]
    if not test["tuned"]:
        sentence = say(
            "The run has not ended yet, so nothing was tested.",
            "训练尚未结束，没有测试结果。",
        )
        return [prose(sentence)]
    origin = report["1 base and data"]
    by_model = {
        origin["again_from"] or origin["base"]: _scores(test["base"]),
        report["model"]: _scores(test["tuned"]),
    }
    blocks = [score_table(by_model)]
    if report["2 task and head"]["new_modules"] and not origin["again_from"]:
        blocks.append(
            prose(
                say(
                    "The base stands here with an untrained head: its scores are what chance gives.",
                    "基础模型的输出头尚未训练，其得分相当于随机水平。",
                )
            )
        )
    changes = [*test["differences"], *test["forgetting"]]
    blocks.append(prose(*(str(Difference(**row)) for row in changes)))
    if test["on_training_examples"]:
        blocks.append(_on_training(_scores(test["on_training_examples"])))
    if test["answers"]:
        blocks.append(_answers(test["answers"]))
    return blocks


def _scores(rows: Sequence[Mapping[str, Any]]) -> list[Score]:
    return [Score(**row) for row in rows]


def _on_training(rows: Sequence[Score]) -> Block:
    listed = "; ".join(f"{score.label} {score.value:.4g}" for score in rows)
    return prose(
        in_each(
            lambda: say(
                f"On training examples, to distinguish learning from learning by heart: {listed}",
                f"在训练样本上的表现（用于判断是否死记）：{listed}",
            )
        )
    )


def _answers(rows: Sequence[Mapping[str, Any]]) -> Block:
    """Return a table of test examples with both answers."""
    columns = [
        say("Question (worst first)", "提问（最差在前）"),
        say("Expected", "期望"),
        say("Base", "基础模型"),
        say("Tuned", "微调后"),
    ]
    keys = ("asked", "wanted", "base", "tuned")
    return table(columns, [[readable(row[key]) for key in keys] for row in rows])
