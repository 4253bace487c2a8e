"""/openapi.json says what the server does: schemathesis asks by it, and finds nothing.
/docs shows it without anything from outside.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode, checks
from schemathesis.config import SchemathesisConfig
from tests.serve.conftest import Echo, Grey, toy_pool
from tests.serve.live import live

from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.services import Services
from miaobi.serve.settings import Limits, Settings

SETTINGS = Settings(studio=False, workers=0, limits=Limits(pixels=64 * 64))


def toy_app() -> FastAPI:
    return create_app(
        Services(
            SETTINGS, toy_pool(SETTINGS, echo=Echo(), grey=Grey()), Admission(SETTINGS)
        )
    )


def cases() -> list[Any]:
    """Every operation well; badly too, where there is anything to be wrong about."""
    params = list[Any]()
    for path, methods in sorted(toy_app().openapi()["paths"].items()):
        for method, operation in methods.items():
            takes = "requestBody" in operation or any(
                item["in"] == "query" for item in operation.get("parameters", ())
            )
            for mode in MODES if takes else MODES[:1]:
                params.append(
                    pytest.param(
                        method.upper(), path, mode, id=f"{method}{path}-{mode.value}"
                    )
                )
    return params


MODES = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]
CASES = cases()


def test_every_operation_lists_its_errors_and_has_an_id_of_its_own() -> None:
    described = toy_app().openapi()
    operations = [
        operation
        for methods in described["paths"].values()
        for operation in methods.values()
    ]
    assert all(
        {"4XX", "5XX"} <= set(operation["responses"])
        and "422" not in operation["responses"]
        for operation in operations
    )
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)
    assert described["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert (
        described["paths"]["/health"]["get"]["security"] == []
        and "security" not in described["paths"]["/metrics"]["get"]
    )


def test_the_page_names_every_path_and_loads_nothing() -> None:
    app = toy_app()
    with TestClient(app, base_url="http://localhost") as client:
        answer = client.get("/docs")
        described = client.get("/openapi.json").json()
    assert (
        answer.status_code == 200
        and "default-src 'none'" in answer.headers["content-security-policy"]
    )
    for path in described["paths"]:
        assert f"<code>{path}</code>" in answer.text
    assert not re.search(r"<script|<link|<img|@import|url\(|https?://", answer.text)


def test_the_page_escapes_what_it_shows() -> None:
    from miaobi.serve.routes.docs import page

    html = page(
        {
            "paths": {
                "/<x>": {
                    "get": {
                        "tags": ["<script>"],
                        "description": "<script>alert(1)</script>",
                        "parameters": [
                            {"name": "<i>", "schema": {"type": "<b>", "default": "<u>"}}
                        ],
                    }
                }
            }
        }
    )
    assert not re.search(r"<script|<i>|<u>|<x>", html)


REFUSED = {
    "checks": {
        "negative_data_rejection": {
            "expected-statuses": [
                400,
                401,
                403,
                404,
                405,
                409,
                413,
                415,
                422,
                429,
                "5xx",
            ]
        }
    }
}
"""What says no. Schemathesis leaves out 413, which a body that breaks the description
by its size alone is answered with.
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server of toys on a socket, as schemathesis sees it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIAOBI_HOME", str(tmp_path_factory.mktemp("served")))
        with live(toy_app()) as address:
            yield schemathesis.openapi.from_url(
                f"{address}/openapi.json", config=SchemathesisConfig.from_dict(REFUSED)
            )


ALWAYS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.unsupported_method,
    checks.allow_header_conformance,
]


def check(
    served: Any, method: str, path: str, mode: GenerationMode, examples: int
) -> None:
    """Ask this operation `examples` times, within its description or outside it. Models
    are named so that most requests reach one.
    """

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(served[path][method].as_strategy(mode))
    def ask(case: Any) -> None:
        if (
            isinstance(case.body, dict)
            and isinstance(case.body.get("model"), str)
            and 0 < len(case.body["model"]) <= 100
        ):
            case.body["model"] = "grey" if "images" in path else "echo"
        answer = case.call(timeout=60)
        never = answer.status_code in (501, 503) or answer.status_code < 500
        assert never, (case.as_curl_command(), answer.text)
        case.validate_response(
            answer,
            checks=ALWAYS
            + (
                [checks.negative_data_rejection]
                if mode is GenerationMode.NEGATIVE
                else []
            ),
        )
        if answer.status_code >= 400:
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

    ask()


@pytest.mark.parametrize(("method", "path", "mode"), CASES)
def test_schemathesis_finds_nothing(
    served: Any, method: str, path: str, mode: GenerationMode
) -> None:
    check(served, method, path, mode, 6)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("method", "path", "mode"), CASES)
def test_schemathesis_finds_nothing_in_a_long_search(
    served: Any, method: str, path: str, mode: GenerationMode
) -> None:
    check(served, method, path, mode, 400)
