"""A search so far: report.json, one page, and the best recipe; written after every trial."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from optuna.trial import FrozenTrial, TrialState

from miaobi.core.config import plain
from miaobi.core.files import write_text
from miaobi.core.language import say
from miaobi.evaluate.page import (
    Block,
    Page,
    Series,
    bars,
    facts,
    format_number,
    line_chart,
    prose,
    steps,
    table,
)
from miaobi.train.search import Search, Trial, best, finished, importances
from miaobi.verbs.search.job import Job
from miaobi.verbs.search.result import Searched
from miaobi.verbs.search.space import set_key

INTERNAL_FACTS = ("process", "continues")
"""Of a trial, for the search itself."""
RUN_FACTS = ("steps", "seconds", "mixed_in", "run", "error")
"""Of a trial, as the page lists them."""


def conclude(job: Job, search: Search, folder: Path) -> Searched:
    """Write the report and the best recipe, and return the search as it stands."""
    trials = search.trials
    ended = [trial for trial in trials if trial.state.is_finished()]
    result = _result(job, search, folder, ended)
    content = {
        "result": result,
        "direction": job.rules.direction,
        "seed": job.rules.seed,
        "space": {item.key: str(item) for item in search.space},
        "importance": importances(search.study, search.space),
        "trials": [_row(trial) for trial in ended],
    }
    chosen = best(trials, job.rules.direction)
    if chosen is not None:
        write_text(folder / "best.yaml", best_recipe(job, chosen))
    write_text(
        folder / "report.json", json.dumps(plain(content), ensure_ascii=False, indent=1)
    )
    page(job, result, content, trials).write(folder / "report.html")
    return result


def _result(
    job: Job, search: Search, folder: Path, ended: Sequence[FrozenTrial]
) -> Searched:
    chosen = best(search.trials, job.rules.direction)
    recipe = folder / "best.yaml"
    states = [trial.state for trial in ended]
    return Searched(
        name=job.name,
        folder=folder,
        metric=job.metric,
        value=chosen.value if chosen else None,
        first=_value_of_recipe(job, ended),
        settings=dict(chosen.params) if chosen else {},
        trials=len(ended),
        stopped_early=states.count(TrialState.PRUNED),
        failed=states.count(TrialState.FAIL),
        ended=search.end_reason(),
        report=folder / "report.html",
        best=recipe if chosen else None,
        command=f"miaobi {job.kind} {recipe}",
    )


def _value_of_recipe(job: Job, trials: Sequence[FrozenTrial]) -> float | None:
    """Return the value of the trial that has the recipe's own settings."""
    for trial in trials:
        own = all(job.fixed.get(key) == value for key, value in trial.params.items())
        if own and trial.state == TrialState.COMPLETE:
            return trial.value
    return None


def _row(trial: FrozenTrial) -> dict[str, Any]:
    public_facts = {
        key: value
        for key, value in trial.user_attrs.items()
        if key not in INTERNAL_FACTS
    }
    along_the_way = {
        str(percent): value for percent, value in trial.intermediate_values.items()
    }
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "value": trial.value,
        "settings": trial.params,
        **public_facts,
        "along_the_way": along_the_way,
    }


def best_recipe(job: Job, trial: FrozenTrial) -> str:
    """Return the recipe with the best settings as YAML, at the recipe's own length.

    With another batch, it has as many steps as see the same number of examples.
    """
    tree = job.recipe_with(trial.params)
    if job.whole is not None:
        set_key(tree, "train.max_steps", job.steps_for(job.whole, trial.params))
    text: str = yaml.safe_dump(tree, allow_unicode=True, sort_keys=False)
    return (
        f"# From miaobi search: trial {trial.number} of {job.name}, {job.metric} "
        f"{trial.value:.6g} on the validation data.\n{text}"
    )


def trial_summary(job: Job, search: Search, trial: Trial) -> str:
    """Return one line about a trial that just ended."""
    ended = next(item for item in search.trials if item.number == trial.number)
    settings = [_setting(key, value) for key, value in trial.values.items()]
    return (
        f"{trial.number + 1}/{job.rules.trials}  {job.metric} {_end_of(ended)}  "
        f"({_leader(job, search)})  {', '.join(settings)}"
    )


def _end_of(trial: FrozenTrial) -> str:
    if trial.state == TrialState.FAIL:
        error = trial.user_attrs["error"].splitlines()[0]
        return say("failed: ", "失败：") + str(error)
    if trial.value is None or trial.state == TrialState.PRUNED:
        return say("stopped early", "提前停止")
    return format_number(trial.value)


def _setting(key: str, value: Any) -> str:
    name = key.partition(".")[2] or key
    return f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"


def _leader(job: Job, search: Search) -> str:
    leader = best(search.trials, job.rules.direction)
    if leader is None or leader.value is None:
        return "–"
    value = format_number(leader.value)
    return say(
        f"best {value}, trial {leader.number}",
        f"最佳 {value}，第 {leader.number} 次",
    )


def page(
    job: Job,
    result: Searched,
    content: Mapping[str, Any],
    trials: Sequence[FrozenTrial],
) -> Page:
    """Return the page of a search.

    Args:
        job: the search
        result: the search as it stands
        content: of report.json
        trials: all trials
    """
    counts = say(
        f"{result.trials} trials, {result.stopped_early} stopped early, {result.failed} failed",
        f"{result.trials} 次试验，提前停止 {result.stopped_early}，失败 {result.failed}",
    )
    if result.ended:
        counts += say("; ", "；") + result.ended
    drawn = Page(say(f"Search: {job.name}", f"搜索：{job.name}"), counts)
    if result.value is not None:
        drawn.add(say("Best settings", "最佳设置"), *_best(job, result, result.value))
    drawn.add(say("History", "过程"), _history(job, trials))
    drawn.add(say("What mattered", "哪些设置重要"), *_importance(content["importance"]))
    drawn.add(say("The space", "搜索空间"), facts(content["space"]))
    drawn.add(say("Trials, best first", "各次试验（最佳在前）"), _table(job, trials))
    return drawn


def _best(job: Job, result: Searched, value: float) -> list[Block]:
    rows = {job.metric: format_number(value)}
    if result.first is not None:
        rows[say("The recipe's own", "原配方")] = format_number(result.first)
    return [
        facts({**rows, **result.settings}),
        prose(
            say(
                "Chosen for its value on the validation data, the best of "
                "many: it is a little too good. The test, which no trial has "
                "seen, gives the fair value:",
                "按验证集指标从多次试验中选出，数值略偏乐观。未参与搜索的测试集才是公正的：",
            )
        ),
        steps((say("Train at full length", "完整训练"), result.command)),
    ]


def _history(job: Job, trials: Sequence[FrozenTrial]) -> Block:
    """Return a chart of each trial's value by its number, and of the best so far."""
    ended = sorted(finished(trials), key=lambda trial: trial.number)
    points = [(float(trial.number), float(trial.value or 0)) for trial in ended]
    better = min if job.rules.direction == "minimize" else max
    best_so_far = list[tuple[float, float]]()
    for number, value in points:
        leader = better(value, best_so_far[-1][1]) if best_so_far else value
        best_so_far.append((number, leader))
    return line_chart(
        [
            Series(say("best so far", "至今最佳"), best_so_far),
            Series(say("each trial", "各次试验"), points, dotted=True, joined=False),
        ],
        say("trial", "试验"),
        job.metric,
    )


def _importance(shares: Mapping[str, float]) -> list[Block]:
    if not shares:
        sentence = say(
            "Too few trials have finished to estimate it.",
            "完成的试验太少，尚无法判断。",
        )
        return [prose(sentence)]
    return [
        bars(shares),
        prose(
            say(
                "Share of the variance between finished trials that each "
                "setting explains (functional ANOVA). A setting that only some "
                "trials have is compared among those. With few trials this is a hint, no more.",
                "各设置能解释的试验间差异比例（功能方差分析）。"
                "只在部分试验中出现的设置按这部分试验计算。试验较少时仅供参考。",
            )
        ),
    ]


def _table(job: Job, trials: Sequence[FrozenTrial]) -> Block:
    sign = 1 if job.rules.direction == "minimize" else -1

    def order(trial: FrozenTrial) -> tuple[bool, float, int]:
        unfinished = trial.value is None or trial.state != TrialState.COMPLETE
        return unfinished, sign * (trial.value or 0), trial.number

    ended = [trial for trial in trials if trial.state.is_finished()]
    columns = [
        say("Trial", "试验"),
        job.metric,
        say("Settings", "设置"),
        say("Run", "训练"),
    ]
    return table(columns, [_cells(trial) for trial in sorted(ended, key=order)])


def _cells(trial: FrozenTrial) -> list[Any]:
    settings = [
        f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}"
        for key, value in trial.params.items()
    ]
    run = [
        f"{key}: {trial.user_attrs[key]}"
        for key in RUN_FACTS
        if key in trial.user_attrs
    ]
    return [trial.number, _value(trial), "\n".join(settings), "\n".join(run)]


def _value(trial: FrozenTrial) -> str:
    """Return the value, with its interval where it was estimated, or how the trial ended."""
    if trial.state == TrialState.PRUNED:
        return say("stopped early", "提前停止")
    if trial.state == TrialState.FAIL:
        return say("failed", "失败")
    assert trial.value is not None
    attributes = trial.user_attrs
    if "low" not in attributes:
        return format_number(trial.value)
    interval = f"{format_number(attributes['low'])} – {format_number(attributes['high'])}, n = {attributes['n']}"
    return f"{format_number(trial.value)}\n({interval})"
