"""lm-eval scores a model over HTTP on a task of its own format, and finds what Python
finds.

Needs EleutherAI's lm-eval (`pip install "lm-eval[api]"`, best in a virtual environment
of its own): its program on the PATH, or named by LM_EVAL.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.engines.small import small_bundle
from tests.serve.live import live

from miaobi.core.engine import Weights
from miaobi.core.requests import TextRequest
from miaobi.engines.load import open_engine
from miaobi.engines.model import Model
from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.opening import open_scorer
from miaobi.serve.pool import Pool
from miaobi.serve.services import Services
from miaobi.serve.settings import Settings

LM_EVAL = os.environ.get("LM_EVAL") or shutil.which("lm_eval")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(LM_EVAL is None, reason='pip install "lm-eval[api]"'),
]
DOCUMENTS = [
    {"question": "春江潮水", "choices": ["连海平", "似霰", "🌙"], "label": 0},
    {"question": "海上明月", "choices": ["不觉飞", "共潮生"], "label": 1},
    {"question": "The moon", "choices": [" rises", " by the sea", " 无月"], "label": 0},
    {"question": "a flower by", "choices": [" spring", " the sea"], "label": 1},
]
CHOICES = """\
task: small_choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: label
target_delimiter: ""
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
ROLLING = """\
task: small_rolling
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{question}}}}{{{{choices[label]}}}}"
metric_list: [{{metric: word_perplexity}}]
"""


@pytest.fixture(params=["native", "llamacpp"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Model]:
    path = small_bundle(tmp_path / "bundle")
    weights = Weights("bundle", str(path), "small", family="gpt")
    engine = open_engine(weights, request.param, 2, {})
    return Model(weights, request.param, engine, open_scorer(weights))


def run(url: str, folder: Path, batch: int) -> list[dict[str, Any]]:
    """Run lm-eval on both tasks; return what it logged of each document."""
    data = folder / "data.jsonl"
    rows = [json.dumps(document, ensure_ascii=False) for document in DOCUMENTS]
    data.write_text("\n".join(rows), encoding="utf-8")
    for name, task in (("choices", CHOICES), ("rolling", ROLLING)):
        text = task.format(data=json.dumps(str(data)))
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    settings = f"model=small,base_url={url}/v1/completions,max_retries=1"
    assert LM_EVAL is not None
    done = subprocess.run(
        [
            LM_EVAL,
            *("--model", "local-completions", "--model_args", settings),
            *("--batch_size", str(batch)),
            *("--tasks", "small_choices,small_rolling", "--include_path", str(folder)),
            *("--output_path", str(folder / "out"), "--log_samples"),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HOME": str(folder / "home"), "PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    logged = list[dict[str, Any]]()
    for file in sorted((folder / "out").rglob("samples_*.jsonl")):
        text = file.read_text(encoding="utf-8")
        logged += [{**json.loads(row), "task": file.name} for row in text.splitlines()]
    return logged


def scored(model: Model, context: str, continuation: str) -> tuple[float, bool]:
    """The log-likelihood of a continuation, and whether it is the greedy one."""

    def ids_of(text: str) -> list[int]:
        return model.tokenizer.tokenize(TextRequest(prompt=text), special=False)

    begins = ids_of(context) if context else ids_of(str(model.tokenizer.eos_token))
    ids = ids_of(context + continuation) if context else begins + ids_of(continuation)
    entries = model.scorer().score(ids, 1)[len(begins) :]
    greedy = all(entry.logprob == entry.top_logprobs[0].logprob for entry in entries)
    return math.fsum(entry.logprob for entry in entries), greedy


@pytest.mark.parametrize("batch", [1, 4])
def test_its_scores_are_pythons(model: Model, tmp_path: Path, batch: int) -> None:
    settings = Settings(hosts=("127.0.0.1",), studio=False)
    pool = Pool(
        settings, lambda name: model.weights, lambda: ["small"], lambda weights: model
    )
    with live(create_app(Services(settings, pool, Admission(settings)))) as url:
        logged = run(url, tmp_path, batch)
        choices = [row for row in logged if "small_choices" in row["task"]]
        assert len(choices) == len(DOCUMENTS)
        right = 0
        for row in choices:
            document = row["doc"]
            ours = [
                scored(model, document["question"], choice)
                for choice in document["choices"]
            ]
            theirs = [response[0] for response in row["resps"]]
            assert [float(value) for value, _ in theirs] == pytest.approx(
                [value for value, _ in ours], abs=1e-4
            )
            assert [str(greedy) for _, greedy in theirs] == [
                str(greedy) for _, greedy in ours
            ]
            values = [value for value, _ in ours]
            is_right = values.index(max(values)) == document["label"]
            assert row["acc"] == float(is_right)
            right += is_right
        assert right >= 2
        rolling = [row for row in logged if "small_rolling" in row["task"]]
        assert len(rolling) == len(DOCUMENTS)
        for row in rolling:
            document = row["doc"]
            text = document["question"] + document["choices"][document["label"]]
            ours, _ = scored(model, "", text)
            assert float(row["resps"][0][0]) == pytest.approx(ours, abs=1e-4)
