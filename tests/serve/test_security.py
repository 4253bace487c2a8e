"""Every row of the two lists of holes (shared/SERVING.md: behaviour, others' CVEs) is a
test, here or where ROWS says.
"""

from __future__ import annotations

import ast
import base64
import json
import os
import pickle
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from tests.serve.conftest import Echo, Grey, toy_pool
from tests.serve.live import live

import miaobi
from miaobi.core.errors import MiaobiError
from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.opening import build_pool
from miaobi.serve.services import Services
from miaobi.serve.sessions import Sessions
from miaobi.serve.settings import Settings

TESTS = Path(__file__).parents[1]

ROWS = {
    "keys on every route": "serve/test_guard.py::test_every_route_demands_a_key",
    "limits": "serve/test_security.py::test_caps",
    "limits of bodies": (
        "serve/test_bodies.py"
        "::test_bodies_are_counted_whatever_their_length_is_said_to_be"
    ),
    "rates and budgets": (
        "serve/test_admission.py::test_budgets_survive_a_restart_and_usage_is_reported"
    ),
    "a bounded queue": (
        "serve/test_admission.py"
        "::test_ten_times_the_capacity_is_refused_and_nothing_stays_behind"
    ),
    "drain": "serve/test_draining.py::test_a_running_answer_is_completed",
    "a client that goes away": (
        "serve/test_admission.py::test_a_client_that_leaves_frees_its_slot_at_once"
    ),
    "ids are made here, resolved and contained": (
        "serve/test_files.py::test_a_link_in_the_folder_is_not_followed"
    ),
    "nothing is fetched": "serve/test_security.py::test_no_address_is_ever_fetched",
    "safetensors and GGUF only": (
        "serve/test_security.py::test_a_poisoned_checkpoint_does_not_run"
    ),
    "chat templates in a sandbox": (
        "models/test_chat.py::test_a_hostile_template_gets_nowhere"
    ),
    "errors show no paths": (
        "serve/test_security.py::test_errors_show_nothing_of_the_machine"
    ),
    "forms are refused": (
        "serve/test_bodies.py::test_types_that_a_form_can_send_are_refused"
    ),
    "crafted Host (vLLM 2026-48746)": (
        "serve/test_guard.py::test_malformed_and_foreign_hosts_reach_nothing"
    ),
    "SSRF (vLLM 2025-6242, 2026-25960; LLaMA-Factory 2025-61784)": (
        "serve/test_security.py::test_no_address_is_ever_fetched"
    ),
    "decoder error leaked addresses (vLLM 2026-22778)": (
        "serve/test_images.py::test_hostile_pictures_are_refused"
    ),
    "header floods (vLLM 2025-48956)": (
        "serve/test_guard.py::test_floods_of_headers_are_refused"
    ),
    "unbounded n (vLLM 2026-5497, 2026-34756)": "serve/test_security.py::test_caps",
    "request-supplied templates (vLLM 2025-61620, 2025-62426)": (
        "serve/test_security.py"
        "::test_no_request_brings_a_template_or_an_option_of_the_tokenizer"
    ),
    "grammar nesting (xgrammar 2026-25048)": (
        "serve/test_security.py::test_grammars_are_capped"
    ),
    "pickle in the sources": (
        "surface/test_layers.py::test_nothing_dangerous_or_unfinished"
    ),
    "pickle in checkpoints (torch 2025-32434, transformers 2026-1839)": (
        "serve/test_security.py::test_a_poisoned_checkpoint_does_not_run"
    ),
    "remote code by a config (vLLM 2025-66448, transformers 2026-5241)": (
        "engines/test_load.py::test_a_transformers_folder_is_recognised_by_its_config"
    ),
    "Jinja in a model (SGLang 2026-5760, llama-cpp-python 2024-34359)": (
        "serve/test_security.py::test_a_model_whose_template_attacks_answers_an_error"
    ),
    "GGUF headers that lie (Ollama 2026-7482)": (
        "core/test_gguf.py::test_a_false_header_costs_no_more_than_its_size"
    ),
    "paths in names (Ollama 2024-37032)": (
        "serve/test_security.py::test_names_that_are_paths_lead_nowhere"
    ),
    "page components that read files (Gradio 2024-1561, 2024-4325)": (
        "studio/rooms/test_mount.py::test_only_what_the_page_needs_of_gradio_is_reachable"
    ),
    "CRLF into config (ComfyUI 2026-22777)": (
        "serve/test_security.py::test_newlines_begin_no_header_and_no_row"
    ),
    "unauthenticated jobs (Ray 2023-48022)": (
        "serve/test_guard.py::test_every_route_demands_a_key"
    ),
    "tokens that stand for others (RAGFlow 2025-69286)": (
        "serve/test_security.py::test_no_token_stands_for_another"
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_every_row_is_a_test(row: str) -> None:
    file, _, name = ROWS[row].partition("::")
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    assert name in {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }, ROWS[row]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of toys on a socket, without a key."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIAOBI_HOME", str(tmp_path_factory.mktemp("served")))
        settings = Settings(studio=False, workers=0)
        with live(
            create_app(
                Services(
                    settings,
                    toy_pool(settings, echo=Echo(), grey=Grey()),
                    Admission(settings),
                )
            )
        ) as at:
            yield at


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=30) as client:
        yield client


class Canary:
    """A server that counts who comes."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.came = 0
        Thread(target=self._count, daemon=True).start()

    def _count(self) -> None:
        while True:
            try:
                self.socket.accept()[0].close()
            except OSError:
                return
            self.came += 1


@pytest.fixture
def canary() -> Iterator[Canary]:
    new = Canary()
    yield new
    new.socket.close()


def addresses(port: int) -> list[str]:
    """Ways to name what is to be asked: this machine, the cloud's metadata, files,
    other schemes.
    """
    hosts = [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f000001",
        "017700000001",
        "127.1",
        "0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "127.0.0.1.nip.io",
        "①②⑦.⓪.⓪.①",
    ]
    return [
        *(f"http://{host}:{port}/a.png" for host in hosts),
        f"http://127.0.0.1:{port}\\@evil.example/a.png",
        f"http://evil.example@127.0.0.1:{port}/a.png",
        f"//127.0.0.1:{port}/a.png",
        f"HTTP://127.0.0.1:{port}/a.png",
        f"http:\\\\127.0.0.1:{port}\\a.png",
        f" http://127.0.0.1:{port}/",
        f"ftp://127.0.0.1:{port}/",
        f"gopher://127.0.0.1:{port}/_x",
        "http://169.254.169.254/latest/meta-data",
        "http://metadata.google.internal/",
        "https://example.org/a.png",
        "file:///etc/passwd",
        "file://localhost/etc/passwd",
        "/etc/passwd",
        "data:,x",
        "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg'/>",
        "jar:x!/",
        "\x00",
    ]


def test_no_address_is_ever_fetched(client: httpx.Client, canary: Canary) -> None:
    """Fetching does not exist here: every address is refused, and nobody is called."""
    for at, url in enumerate(addresses(canary.port)):
        part = {"type": "image_url", "image_url": {"url": url}}
        requests = [
            (
                "/v1/chat/completions",
                {
                    "model": "echo",
                    "messages": [
                        {
                            "role": "user",
                            "content": [{"type": "text", "text": "what"}, part],
                        }
                    ],
                },
            ),
            ("/v1/moderations", {"input": [part]}),
            ("/v1/images/generations", {"model": "grey", "prompt": "x", "image": url}),
            ("/v1/images/variations", {"model": "grey", "image": url}),
            ("/v1/embeddings", {"model": url, "input": "x"}),
            (
                "/v1/chat/completions",
                {"model": url, "messages": [{"role": "user", "content": "x"}]},
            ),
            ("/v1/fine_tuning/jobs", {"model": url, "training_file": url}),
        ]
        for path, body in requests if at % 10 == 0 else requests[:2]:
            answer = client.post(path, json=body)
            assert answer.status_code in (400, 404, 415), (path, url, answer.text)
        for path in (
            ("/v1/images/edits", "/v1/images/variations") if at % 10 == 0 else ()
        ):
            assert client.post(
                path,
                data={"model": "grey", "prompt": "x", "image": url},
                files={"x": b""},
            ).status_code in (400, 404), (path, url)
    assert canary.came == 0


LOCAL_DETAILS = re.compile(
    r"/home|/root|/tmp|/usr|/work|/nowhere|\.py\b|0x[0-9a-f]{4}|object "
    r"at|Traceback|site-packages|<class|<function|sqlite|sqlalchemy|pydantic",
    re.IGNORECASE,
)

NONSENSE: list[Any] = [
    None,
    0,
    -1,
    1e308,
    True,
    "",
    "\x00",
    "a" * 5000,
    [],
    {},
    [[]],
    {"a": {}},
    "\ud800",
    "%00",
    "../../etc/passwd",
    "{{ 7*7 }}",
    "${jndi:x}",
]


def test_errors_show_nothing_of_the_machine(client: httpx.Client, address: str) -> None:
    """Every operation, with nonsense in the place of its body and in its fields: an
    answer in OpenAI's shape that names no place.
    """
    described = client.get("/openapi.json").json()
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {})
            if "application/json" not in content:
                continue
            schema = content["application/json"].get("schema", {})
            whole = described["components"]["schemas"].get(
                schema.get("$ref", "").rsplit("/", 1)[-1], schema
            )
            fields = list(whole.get("properties", {}))
            bodies = [
                *NONSENSE[::3],
                *(
                    {name: NONSENSE[at % len(NONSENSE)]}
                    for at, name in enumerate(fields)
                ),
            ]
            for body in bodies:
                sent = json.dumps(body).encode("utf-8", "surrogatepass")
                answer = client.request(
                    method,
                    re.sub(r"\{[^}]*\}", "x", path),
                    content=sent,
                    headers={"content-type": "application/json"},
                )
                assert answer.status_code < 500 or answer.status_code == 501, (
                    path,
                    body,
                    answer.text,
                )
                if answer.status_code < 400:
                    continue
                error = answer.json()["error"]
                assert (
                    set(error) == {"message", "type", "param", "code"}
                    and answer.headers["x-request-id"]
                )
                assert not LOCAL_DETAILS.search(
                    error["message"].replace(repr(body), "")
                ), (
                    path,
                    body,
                    error,
                )


def said(**more: Any) -> dict[str, Any]:
    return {"model": "echo", "messages": [{"role": "user", "content": "x"}], **more}


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/chat/completions", said(n=17), "n"),
        ("/v1/chat/completions", said(n=2**31), "n"),
        ("/v1/chat/completions", said(max_tokens=40_000), "max_tokens"),
        ("/v1/chat/completions", said(max_completion_tokens=10**9), "max_"),
        ("/v1/chat/completions", said(stop=["x"] * 17), "stop"),
        ("/v1/chat/completions", said(top_logprobs=21, logprobs=True), "top_logprobs"),
        (
            "/v1/chat/completions",
            said(messages=[{"role": "user", "content": "x"}] * 2049),
            "messages",
        ),
        (
            "/v1/chat/completions",
            said(
                tools=[
                    {"type": "function", "function": {"name": f"f{at}"}}
                    for at in range(129)
                ]
            ),
            "tools",
        ),
        (
            "/v1/chat/completions",
            said(logit_bias={str(at): 1 for at in range(2_000)}),
            "logit_bias",
        ),
        ("/v1/completions", {"model": "echo", "prompt": ["x"] * 17}, "prompt"),
        ("/v1/completions", {"model": "echo", "prompt": "x", "n": 17}, "n"),
        ("/v1/embeddings", {"model": "echo", "input": ["x"] * 2049}, "input"),
        ("/v1/moderations", {"input": ["x"] * 2049}, "input"),
        ("/v1/images/generations", {"model": "grey", "prompt": "x", "n": 17}, "n"),
        (
            "/v1/images/generations",
            {"model": "grey", "prompt": "x", "size": "16384x16384"},
            "size",
        ),
        (
            "/v1/images/generations",
            {"model": "grey", "prompt": "x", "num_inference_steps": 10**6},
            "num_inference_steps",
        ),
    ],
)
def test_caps(
    client: httpx.Client, path: str, body: dict[str, Any], field: str
) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == 400 and field in answer.json()["error"]["message"], (
        answer.text
    )


@pytest.mark.parametrize(
    "field",
    [
        "chat_template",
        "chat_template_kwargs",
        "tokenizer",
        "tokenizer_kwargs",
        "add_generation_prompt",
        "documents",
        "guided_regex",
        "guided_json",
        "mm_processor_kwargs",
        "trust_remote_code",
        "adapter",
        "extra_body",
        "image",
        "json_schema",
        "structured_outputs",
    ],
)
def test_no_request_brings_a_template_or_an_option_of_the_tokenizer(
    client: httpx.Client, field: str
) -> None:
    for path, body in (
        ("/v1/chat/completions", said()),
        ("/v1/completions", {"model": "echo", "prompt": "x"}),
        ("/v1/embeddings", {"model": "echo", "input": "x"}),
    ):
        answer = client.post(path, json={**body, field: "{{ 7*7 }}"})
        assert (
            answer.status_code == 400 and field in answer.json()["error"]["message"]
        ), (path, answer.text)


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    "schema",
    [deep(20_000), deep(201), deep(40), {"type": "string", "enum": ["x" * 9000]}],
    ids=["20000", "201", "40", "9 KB"],
)
def test_grammars_are_capped(client: httpx.Client, schema: dict[str, Any]) -> None:
    body = b"[" * 0
    if schema["type"] == "array":
        levels = 0
        inner = schema
        while inner["type"] == "array":
            inner = inner["items"]
            levels = levels + 1
        body = (
            b'{"type":"array","items":' * levels + b'{"type":"string"}' + b"}" * levels
        )
    else:
        body = json.dumps(schema).encode()
    for content in (
        b'{"model":"echo","messages":[{"role":"user","content":"x"}],'
        b'"response_format":{"type":"json_schema","json_schema":{"name":"a","schema":%s}}}',
        b'{"model":"echo","messages":[{"role":"user","content":"x"}],'
        b'"tools":[{"type":"function","function":{"name":"a","parameters":%s}}],'
        b'"tool_choice":"required"}',
    ):
        answer = client.post(
            "/v1/chat/completions",
            content=content % body,
            headers={"content-type": "application/json"},
        )
        assert answer.status_code == 400, answer.text


class Payload:
    """Pickled, it makes a folder when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_a_poisoned_checkpoint_does_not_run(tmp_path: Path) -> None:
    """Whatever a pickle is called, and wherever in a model's folder it lies, nothing of
    it runs; nor does a config call for code.
    """
    mark = tmp_path / "ran"
    poison = pickle.dumps(Payload(mark))
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "vocab_size": 8,
        "intermediate_size": 8,
    }
    for at, name in enumerate(
        [
            "pytorch_model.bin",
            "model.safetensors",
            "model.gguf",
            "adapter_model.bin",
            "model.pt",
            "diffusion_pytorch_model.bin",
            "weights.npz",
            "tokenizer.json",
            "training_args.bin",
            "model.safetensors.index.json",
            "miaobi.json",
            "config.json",
        ]
    ):
        folder = tmp_path / str(at)
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        (folder / name).write_bytes(poison)
        for target in (folder, folder / name):
            with pytest.raises(MiaobiError):
                miaobi.load(target)
    for at, more in enumerate(
        [
            {"auto_map": {"AutoModelForCausalLM": "evil.Model"}},
            {"auto_map": {"AutoConfig": "x--y.Z"}, "trust_remote_code": True},
        ]
    ):
        folder = tmp_path / f"config{at}"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config | more))
        (folder / "evil.py").write_text(f"import os; os.mkdir({str(mark)!r})")
        with pytest.raises(MiaobiError, match="auto_map"):
            miaobi.load(folder)
    assert not mark.exists()


@pytest.mark.parametrize(
    "payload",
    [
        "{{ cycler.__init__.__globals__.os.mkdir('MARK') }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% for i in range(999999999) %}x{% endfor %}",
        "{{ messages[0].update({'a': 1}) }}",
        "{{ self.__init__.__globals__ }}",
    ],
)
def test_a_model_whose_template_attacks_answers_an_error(
    tmp_path: Path, payload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The template of a model that is served, in the engine's own way of asking."""
    from miaobi.models.chat import ChatTemplate

    template = ChatTemplate(payload.replace("MARK", str(tmp_path / "ran")))

    class Attacked(Echo):
        async def generate(self, request: Any) -> Any:
            template.render(request.messages)
            async for chunk in super().generate(request):
                yield chunk

    settings = Settings(hosts=("testserver",), studio=False)
    with TestClient(
        create_app(
            Services(settings, toy_pool(settings, echo=Attacked()), Admission(settings))
        )
    ) as client:
        for stream in (False, True):
            answer = client.post("/v1/chat/completions", json=said(stream=stream))
            assert answer.status_code == 400 and not LOCAL_DETAILS.search(
                answer.json()["error"]["message"]
            ), answer.text
    assert not (tmp_path / "ran").exists()


TRAVERSALS = [
    "../../../etc/passwd",
    "..",
    "/etc/passwd",
    "~/x",
    "file:///etc/passwd",
    "https://evil.example/model",
    "org/name",
    "poet/../../x",
    "C:\\x",
    "poet@../x",
    "poet@-1",
    "\x00",
    "sha256:" + "g" * 64,
    "sha256:../" + "0" * 61,
    "..%2f..%2fetc%2fpasswd",
    ".hidden",
    "a" * 300,
    "poet\n",
    "пoet",
]


def test_names_that_are_paths_lead_nowhere(tmp_path: Path) -> None:
    """Names from outside, asked of the real pool: each is unknown, nothing is opened
    and nothing is fetched.
    """
    (tmp_path / "secret.gguf").write_bytes(b"GGUF")
    settings = Settings(hosts=("testserver",), studio=False, workers=0)
    with TestClient(
        create_app(Services(settings, build_pool(settings), Admission(settings)))
    ) as client:
        for name in [*TRAVERSALS, str(tmp_path / "secret.gguf"), str(tmp_path)]:
            for path, body in (
                (
                    "/v1/chat/completions",
                    {"model": name, "messages": [{"role": "user", "content": "x"}]},
                ),
                ("/v1/completions", {"model": name, "prompt": "x"}),
                ("/v1/embeddings", {"model": name, "input": "x"}),
                ("/v1/images/generations", {"model": name, "prompt": "x"}),
            ):
                answer = client.post(path, json=body)
                assert answer.status_code in (400, 404), (path, name, answer.text)
            quoted = "".join(f"%{byte:02x}" for byte in name.encode())
            for path in (
                "/v1/models/{}",
                "/v1/files/{}",
                "/v1/files/{}/content",
                "/v1/images/files/{}",
                "/v1/batches/{}",
                "/v1/fine_tuning/jobs/{}",
                "/v1/store/models/{}",
            ):
                answer = client.get(path.format(quoted))
                assert (
                    answer.status_code in (400, 401, 404, 405)
                    and "root:" not in answer.text
                ), (path, name, answer.text)


def test_newlines_begin_no_header_and_no_row(client: httpx.Client) -> None:
    """CR and LF in what people name come back as no header, no event and no line of a table."""
    evil = 'a\r\nSet-Cookie: x=1\r\n\r\n<script>\u2028"; filename=b'
    row = (
        json.dumps(
            {
                "custom_id": evil,
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": said(),
            }
        ).encode()
        + b"\n"
    )
    quoted = evil.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")
    form = (
        (
            b"--x\r\nContent-Disposition: form-data; "
            b'name="purpose"\r\n\r\nbatch\r\n--x\r\nContent-Disposition: '
            b'form-data; name="file"; filename="'
        )
        + quoted.encode()
        + b'"\r\nContent-Type: application/jsonl\r\n\r\n'
        + row
        + b"\r\n--x--\r\n"
    )
    new = client.post(
        "/v1/files",
        content=form,
        headers={"content-type": "multipart/form-data; boundary=x"},
    )
    if new.status_code == 200:
        for answer in (
            new,
            client.get(f"/v1/files/{new.json()['id']}/content"),
            client.get("/v1/files"),
        ):
            assert answer.status_code == 200 and "set-cookie" not in answer.headers
            assert not re.search(
                r"[\r\n]", answer.headers.get("content-disposition", "")
            )
    else:
        assert new.status_code == 400
    with client.stream(
        "POST",
        "/v1/chat/completions",
        json={
            **said(stream=True),
            "messages": [
                {
                    "role": "user",
                    "content": "data: [DONE]\n\nevent: evil\r\n\r\ndata: {}",
                }
            ],
        },
    ) as answer:
        events = answer.read().decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    parts = [
        json.loads(event.removeprefix("data: "))["choices"] for event in events[:-2]
    ]
    assert (
        "".join(
            choice["delta"].get("content") or ""
            for choices in parts
            for choice in choices
        )
        == "data: [DONE]\n\nevent: evil\r\n\r\ndata: {}"
    )


def test_no_token_stands_for_another() -> None:
    """A studio session is no key, a key is no session, and neither can be made from the other."""
    settings = Settings(hosts=("testserver",), studio=False, api_keys=("mb-test",))
    services = Services(settings, toy_pool(settings, echo=Echo()), Admission(settings))
    with TestClient(create_app(services)) as client:
        token = services.sessions.begin("mb-test")
        assert (
            client.get(
                "/v1/models", headers={"authorization": f"Bearer {token}"}
            ).status_code
            == 401
        )
        assert (
            client.get(
                "/v1/models", headers={"cookie": f"miaobi_session={token}"}
            ).status_code
            == 401
        )
        assert (
            client.get(
                "/studio/x", headers={"cookie": "miaobi_session=mb-test"}
            ).status_code
            == 401
        )
        assert (
            client.get(
                "/studio/x", headers={"cookie": f"miaobi_session={token}"}
            ).status_code
            == 404
        )
        assert (
            client.get(
                "/studiox", headers={"cookie": f"miaobi_session={token}"}
            ).status_code
            == 401
        )
        services.sessions.end(token)
        assert (
            client.get(
                "/studio/x", headers={"cookie": f"miaobi_session={token}"}
            ).status_code
            == 401
        )
    sessions = Sessions()
    tokens = {sessions.begin("mb-test") for _ in range(1000)}
    assert len(tokens) == 1000 and all(
        len(token) >= 43 and "mb-test" not in token for token in tokens
    )
    assert len({base64.urlsafe_b64decode(token + "=")[:4] for token in tokens}) > 990
