"""What a search found: report.json, one page, and the best recipe; written after every trial."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from optuna.trial import FrozenTrial, TrialState

from miaobi.core.config import plain
from miaobi.core.files import write_text
from miaobi.core.language import say
from miaobi.evaluate.page import (
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
from miaobi.verbs.search import Searched
from miaobi.verbs.search.space import set_in
from miaobi.verbs.search.trial import Job


def conclude(job: Job, study: Search, folder: Path) -> Searched:
    """Write what is known so far."""
    trials = study.trials
    chosen = best(trials, job.rules.direction)
    recipe = folder / "best.yaml"
    command = f"miaobi {job.kind} {recipe}"
    if chosen is not None:
        write_text(recipe, best_recipe(job, chosen))
    first = next(
        (
            trial.value
            for trial in trials
            if trial.state == TrialState.COMPLETE
            and all(job.fixed.get(key) == value for key, value in trial.params.items())
        ),
        None,
    )
    over = [trial for trial in trials if trial.state.is_finished()]
    result = Searched(
        job.name,
        folder,
        job.metric,
        chosen.value if chosen else None,
        first,
        dict(chosen.params) if chosen else {},
        len(over),
        sum(trial.state == TrialState.PRUNED for trial in over),
        sum(trial.state == TrialState.FAIL for trial in over),
        study.end_reason(),
        folder / "report.html",
        recipe if chosen else None,
        command,
    )
    found = {
        "result": result,
        "direction": job.rules.direction,
        "seed": job.rules.seed,
        "space": {item.key: str(item) for item in study.space},
        "importance": importances(study.study, study.space),
        "trials": [_row(trial) for trial in over],
    }
    write_text(
        folder / "report.json", json.dumps(plain(found), ensure_ascii=False, indent=1)
    )
    page(job, result, found, trials).write(folder / "report.html")
    return result


def _row(trial: FrozenTrial) -> dict[str, Any]:
    own = {
        key: value
        for key, value in trial.user_attrs.items()
        if key not in ("process", "continues")
    }
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "value": trial.value,
        "settings": trial.params,
        **own,
        "along_the_way": {
            str(percent): value for percent, value in trial.intermediate_values.items()
        },
    }


def best_recipe(job: Job, trial: FrozenTrial) -> str:
    """The recipe with the best settings, at the length of the recipe: as many examples
    as before, where the batch is another.
    """
    tree = job.recipe_with(trial.params)
    if job.whole is not None:
        set_in(tree, "train.max_steps", job.steps_for(job.whole, trial.params))
    spelled: str = yaml.safe_dump(tree, allow_unicode=True, sort_keys=False)
    return (
        f"# From miaobi search: trial {trial.number} of {job.name}, {job.metric} "
        f"{trial.value:.6g} on the validation data.\n{spelled}"
    )


def line(job: Job, study: Search, trial: Trial) -> str:
    """One line about a trial that just ended."""
    known = next(item for item in study.trials if item.number == trial.number)
    chosen = best(study.trials, job.rules.direction)
    if known.state == TrialState.FAIL:
        what = say("failed: ", "失败：") + known.user_attrs["error"].splitlines()[0]
    else:
        what = (
            say("stopped early", "提前停止")
            if known.value is None or known.state == TrialState.PRUNED
            else format_number(known.value)
        )
    settings = ", ".join(
        f"{key.partition('.')[2] or key} {value:.3g}"
        if isinstance(value, float)
        else f"{key.partition('.')[2] or key} {value}"
        for key, value in trial.values.items()
    )
    leading = (
        say(
            f"best {format_number(chosen.value)}, trial {chosen.number}",
            f"最佳 {format_number(chosen.value)}，第 {chosen.number} 次",
        )
        if chosen and chosen.value is not None
        else "–"
    )
    return f"{trial.number + 1}/{job.rules.trials}  {job.metric} {what}  ({leading})  {settings}"


def page(
    job: Job, result: Searched, found: Mapping[str, Any], trials: list[FrozenTrial]
) -> Page:
    made = Page(
        say(f"Search: {job.name}", f"搜索：{job.name}"),
        say(
            f"{result.trials} trials, {result.stopped_early} stopped early, {result.failed} failed"
            + (f"; {result.ended}" if result.ended else ""),
            f"{result.trials} 次试验，提前停止 {result.stopped_early}，失败 {result.failed}"
            + (f"；{result.ended}" if result.ended else ""),
        ),
    )
    if result.value is not None:
        own = (
            {say("The recipe's own", "原配方"): format_number(result.first)}
            if result.first is not None
            else {}
        )
        made.add(
            say("Best settings", "最佳设置"),
            facts({job.metric: format_number(result.value), **own, **result.settings}),
            prose(
                say(
                    "Chosen for its figure on the validation data, the best of "
                    "many: it flatters a little. The test, which no trial has "
                    "seen, tells the truth:",
                    "按验证集指标从多次试验中选出，数值略偏乐观。未参与搜索的测试集才是公正的：",
                )
            ),
            steps((say("Train it whole", "完整训练"), result.command)),
        )
    made.add(say("History", "过程"), _history(job, trials))
    made.add(say("What mattered", "哪些设置重要"), *_importance(found["importance"]))
    made.add(say("The space", "搜索空间"), facts(found["space"]))
    made.add(say("Trials, best first", "各次试验（最佳在前）"), _table(job, trials))
    return made


def _history(job: Job, trials: list[FrozenTrial]) -> str:
    """Each trial's figure by its number, and the best so far."""
    over = sorted(finished(trials), key=lambda trial: trial.number)
    points = [(float(trial.number), float(trial.value or 0)) for trial in over]
    pick = min if job.rules.direction == "minimize" else max
    so_far = [
        (number, pick(value for _, value in points[: place + 1]))
        for place, (number, _) in enumerate(points)
    ]
    return line_chart(
        [
            Series(say("best so far", "至今最佳"), so_far),
            Series(say("each trial", "各次试验"), points, dotted=True, joined=False),
        ],
        say("trial", "试验"),
        job.metric,
    )


def _importance(shares: Mapping[str, float]) -> list[str]:
    if not shares:
        return [
            prose(
                say(
                    "Too few trials came to a figure to tell.",
                    "完成的试验太少，尚无法判断。",
                )
            )
        ]
    return [
        bars(shares),
        prose(
            say(
                "Share of the variance between finished trials that each "
                "setting explains (functional ANOVA). A setting that only some "
                "trials have is judged among those. With few trials this is a hint, no more.",
                "各设置能解释的试验间差异比例（功能方差分析）。"
                "只在部分试验中出现的设置按这部分试验计算。试验较少时仅供参考。",
            )
        ),
    ]


def _table(job: Job, trials: list[FrozenTrial]) -> str:
    sign = 1 if job.rules.direction == "minimize" else -1
    over = sorted(
        (trial for trial in trials if trial.state.is_finished()),
        key=lambda trial: (
            trial.value is None or trial.state != TrialState.COMPLETE,
            sign * (trial.value or 0),
            trial.number,
        ),
    )
    named = {
        TrialState.PRUNED: say("stopped early", "提前停止"),
        TrialState.FAIL: say("failed", "失败"),
    }
    rows = [
        [
            trial.number,
            _value(trial) if trial.state == TrialState.COMPLETE else named[trial.state],
            "\n".join(
                f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}"
                for key, value in trial.params.items()
            ),
            "\n".join(
                f"{key}: {trial.user_attrs[key]}"
                for key in ("steps", "seconds", "mixed_in", "run", "error")
                if key in trial.user_attrs
            ),
        ]
        for trial in over
    ]
    return table(
        [say("Trial", "试验"), job.metric, say("Settings", "设置"), say("Run", "训练")],
        rows,
    )


def _value(trial: FrozenTrial) -> str:
    """The figure with its interval, where there is one."""
    assert trial.value is not None
    told = trial.user_attrs
    return format_number(trial.value) + (
        f"\n({format_number(told['low'])} – {format_number(told['high'])}, n = {told['n']})"
        if "low" in told
        else ""
    )
