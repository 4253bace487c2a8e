"""Records of any shape, as uploaded files and as bodies: an error that names its line or
field, or a right reading; never a 500.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.serve.conftest import Echo, Grey, toy_pool

from miaobi.core.errors import MiaobiError
from miaobi.data.progress import silent
from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.jobs import batches
from miaobi.serve.jobs.work import fine_tuning as work
from miaobi.serve.services import Services
from miaobi.serve.settings import Settings
from miaobi.tune.config import DataConfig
from miaobi.tune.examples import records
from miaobi.tune.tasks import tasks

CHOSEN = Settings(hosts=("testserver",), studio=False, workers=0)
SOUND = [
    {"prompt": "Where is the kettle?", "completion": "In the hall."},
    {"text": "fine", "label": ["unhashable"]},
    {"text": "fine", "label": {"a": 1}},
    {"messages": [{"role": "user", "content": "hi"}]},
    {"messages": [[{"role": "user"}], None, 3]},
    {"messages": json.dumps([{"role": "user", "content": "nested text"}])},
    {"text": ["nested", ["text"]]},
    {"input": {"messages": 3}, "preferred_output": [], "non_preferred_output": None},
    {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {}},
    {"custom_id": ["1"], "method": None, "url": {}, "body": []},
]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from((0, -1, 0.5, 2**70, float("nan"), float("inf"))),
    st.sampled_from(("", "a", "好", "\ud800", "a\udfff", "\0", "echo", "user")),
)


def values(keys: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    """Any JSON whose objects have such keys."""
    return st.recursive(
        SCALARS,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=4)
        ),
        max_leaves=6,
    )


ROWS = st.lists(
    st.sampled_from(SOUND)
    | values(st.sampled_from(("messages", "text", "label", "custom_id", "\ud800"))),
    min_size=1,
    max_size=4,
)
FORMS: dict[str, Callable[[list[Any]], str]] = {
    "lines": lambda rows: "".join(f"{json.dumps(row)}\n" for row in rows),
    "lines with gaps": lambda rows: "\n\n".join(map(json.dumps, rows)),
    "an array": lambda rows: json.dumps(rows, indent=1),
    "nested text": lambda rows: "".join(
        f"{json.dumps(json.dumps(row))}\n" for row in rows
    ),
    "cut off": lambda rows: json.dumps(rows[0])[:-1],
}


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[TestClient, Services]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIAOBI_HOME", str(tmp_path_factory.mktemp("served")))
        pool = toy_pool(CHOSEN, echo=Echo(), grey=Grey())
        services = Services(CHOSEN, pool, Admission(CHOSEN))
        with TestClient(create_app(services), raise_server_exceptions=False) as client:
            yield client, services


@given(
    rows=ROWS,
    form=st.sampled_from(list(FORMS)),
    purpose=st.sampled_from(("fine-tune", "batch")),
)
@example(rows=[{"text": "cut in \ud83d"}], form="lines", purpose="fine-tune")
@example(rows=SOUND, form="lines with gaps", purpose="fine-tune")
@example(rows=SOUND, form="lines", purpose="batch")
@settings(max_examples=50)
def test_any_file(
    served: tuple[TestClient, Services],
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[Any],
    form: str,
    purpose: str,
) -> None:
    client, services = served
    answer = client.post(
        "/v1/files",
        files={"file": ("a.jsonl", FORMS[form](rows).encode())},
        data={"purpose": purpose},
    )
    if answer.status_code != 200:
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, "file")
        assert error["message"].startswith("Line ")
        return
    id = answer.json()["id"]
    if purpose == "batch":
        check_batch(client, services, id)
    else:
        check_job(client, services, id, tmp_path_factory.mktemp("job"), rows)


def check_batch(client: TestClient, services: Services, id: str) -> None:
    """A batch is taken, and each request that cannot be used is named by its line."""
    endpoint = "/v1/chat/completions"
    fields = {"input_file_id": id, "endpoint": endpoint, "completion_window": "24h"}
    answer = client.post("/v1/batches", json=fields)
    assert answer.status_code == 200, answer.text
    _, errors = batches.read(services.files.path(id), endpoint)
    for error in errors:
        assert error["line"] >= 1
        assert error["message"]
    json.dumps(errors).encode()


def check_job(
    client: TestClient, services: Services, id: str, folder: Path, rows: list[Any]
) -> None:
    """A job is taken, and its examples are those of the file, or refused by line."""
    fields = {"model": "echo", "training_file": id, "validation_file": id}
    answer = client.post("/v1/fine_tuning/jobs", json={**fields, "seed": 1})
    assert answer.status_code == 200, answer.text
    request = {**fields, "seed": 1, "miaobi": None, "kind": "supervised"}
    request["hyperparameters"] = {"n_epochs": 1, "batch_size": "auto"}
    task: Any = SimpleNamespace(
        job=SimpleNamespace(request=request), files=services.files, folder=folder
    )
    settings = work._settings(task)
    assert settings["train.max_steps"] >= 1
    examples = Path(settings["data.validation_path"])
    written = [json.loads(line) for line in examples.read_text().splitlines() if line]
    assert len(written) == len(rows)
    chat = tasks.get("chat")
    for strict in (True, False):
        config = DataConfig(path=str(examples), strict=strict)
        try:
            read = records.read(config, chat, chat.Config(), silent)
        except MiaobiError as error:
            assert f"{examples}" in str(error)  # noqa: PT017 - they may also be read
            continue
        assert len(read.examples) + read.problem_count == len(rows)


def json_routes() -> dict[str, tuple[str, list[str]]]:
    """(path, names of its body's fields) of all routes that take JSON, by their name."""
    pool = toy_pool(CHOSEN, echo=Echo())
    described = create_app(Services(CHOSEN, pool, Admission(CHOSEN))).openapi()
    routes = dict[str, tuple[str, list[str]]]()
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {})
            if "application/json" not in content:
                continue
            reference = content["application/json"]["schema"].get("$ref", "")
            shape = described["components"]["schemas"].get(
                reference.rpartition("/")[2], {}
            )
            names = list(shape.get("properties", {"model": None}))
            routes[f"{method} {path}"] = (path, names)
    return routes


ROUTES = json_routes()
WHOLE: dict[str, Any] = {
    "model": "echo",
    "messages": [{"role": "user", "content": "hi"}],
    "input": "hi",
    "max_tokens": 3,
    "kind": "rating",
    "label": True,
    "input_file_id": "file-1",
    "endpoint": "/v1/chat/completions",
    "completion_window": "24h",
    "training_file": "file-1",
    "recipe": "poems",
    "tokens": [1],
    "filename": "a.jsonl",
    "purpose": "batch",
    "bytes": 3,
    "mime_type": "text/jsonl",
    "part_ids": [],
    "version": 1,
}
"""Fields with which most routes answer."""


@pytest.mark.parametrize("name", ROUTES)
@given(data=st.data())
@settings(max_examples=20)
def test_any_body(
    served: tuple[TestClient, Services], name: str, data: st.DataObject
) -> None:
    client, _ = served
    path, fields = ROUTES[name]
    inner = values(st.sampled_from((*fields, "role", "content", "type", "text")))
    body: Any = {key: WHOLE[key] for key in fields if key in WHOLE}
    if "prompt" in fields and "messages" not in fields:
        body["prompt"] = "hi"
    changed = st.dictionaries(st.sampled_from(fields), inner, max_size=3)
    body = data.draw(st.one_of(changed.map(lambda some: {**body, **some}), inner))
    answer = client.post(
        path.replace("{name}", "echo").replace("{upload_id}", "upload-1"),
        content=json.dumps(body),
        headers={"content-type": "application/json"},
    )
    if answer.status_code == 200:
        return
    assert answer.status_code in (400, 403, 404, 501), (body, answer.text)
    error = answer.json()["error"]
    if answer.status_code == 400:
        assert error["param"] or error["code"], (body, error)
