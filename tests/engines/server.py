"""A small real server of OpenAI's completions in front of any engine, to test `remote`
over a real socket.
"""

from __future__ import annotations

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from miaobi.core.engine import Chunk, Engine
from miaobi.core.errors import MiaobiError
from miaobi.core.requests import TextRequest

PLAIN = ("n", "seed", "temperature", "top_p", "presence_penalty", "frequency_penalty")


def request_of(body: dict[str, Any]) -> TextRequest:
    controls = {name: body[name] for name in PLAIN if name in body}
    schema = body.get("response_format", {}).get("json_schema", {}).get("schema")
    logprobs = body.get("logprobs")
    if logprobs is True:
        logprobs = body.get("top_logprobs")
    if "messages" in body:
        controls["messages"] = tuple(body["messages"])
    else:
        is_text = isinstance(body["prompt"], str)
        prompt = body["prompt"] if is_text else tuple(body["prompt"])
        controls["prompt" if is_text else "prompt_ids"] = prompt
    return TextRequest(
        **controls,
        max_new_tokens=body["max_tokens"],
        stop=tuple(body.get("stop", ())),
        logprobs=logprobs,
        json_schema=schema,
        logit_bias={
            int(key): value for key, value in body.get("logit_bias", {}).items()
        },
    )


def choice_of(chunk: Chunk, chat: bool) -> dict[str, Any]:
    choice: dict[str, Any] = {
        "index": chunk.index,
        "finish_reason": chunk.finish,
        "logprobs": None,
    }
    if chat:
        choice["delta"] = {"content": chunk.text}
        if chunk.logprobs:
            choice["logprobs"] = {
                "content": [
                    {
                        "token": item.token,
                        "logprob": item.logprob,
                        "top_logprobs": [
                            {"token": other.token, "logprob": other.logprob}
                            for other in item.top_logprobs
                        ],
                    }
                    for item in chunk.logprobs
                ]
            }
        return choice
    choice["text"] = chunk.text
    if chunk.logprobs:
        choice["logprobs"] = {
            "tokens": [item.token for item in chunk.logprobs],
            "token_logprobs": [item.logprob for item in chunk.logprobs],
            "top_logprobs": [
                {other.token: other.logprob for other in item.top_logprobs}
                for item in chunk.logprobs
            ],
        }
    return choice


class CompletionServer:
    """`with CompletionServer(engine) as server: server.url`.

    `bodies` holds every request's body, `keys` every Authorization.
    """

    def __init__(
        self, engine: Engine, key: str = "", models: tuple[str, ...] = ("small",)
    ) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                """Quiet."""

            def do_GET(self) -> None:
                self._json(200, {"data": [{"id": name} for name in models]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                owner.bodies.append(body)
                owner.keys.append(self.headers.get("Authorization"))
                if key and self.headers.get("Authorization") != f"Bearer {key}":
                    self._json(401, {"error": {"message": "bad key"}})
                    return
                asyncio.run(self._stream(body))

            async def _stream(self, body: dict[str, Any]) -> None:
                started, answers, usage = (
                    False,
                    None,
                    {"prompt_tokens": 0, "completion_tokens": 0},
                )
                try:
                    answers = engine.generate(request_of(body))
                    async for chunk in answers:
                        if not started:
                            self._begin()
                            started = True
                        usage["prompt_tokens"] += chunk.prompt_tokens
                        usage["completion_tokens"] += chunk.tokens
                        self._event({"choices": [choice_of(chunk, "messages" in body)]})
                    if body.get("stream_options", {}).get("include_usage"):
                        self._event({"choices": [], "usage": usage})
                    self.wfile.write(b"data: [DONE]\n\n")
                except MiaobiError as error:
                    self._json(400, {"error": {"message": str(error)}})
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True
                finally:
                    if answers is not None:
                        await answers.aclose()  # type: ignore[attr-defined]

            def _begin(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")
                self.end_headers()
                self.close_connection = True

            def _event(self, event: dict[str, Any]) -> None:
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
                self.wfile.flush()

            def _json(self, status: int, body: dict[str, Any]) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> CompletionServer:
        threading.Thread(
            target=self._server.serve_forever, daemon=True, name="completion-server"
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
