"""A server with toy engines, as a process of its own: python -m tests.studio.server
[KEY ...]. Prints its port; /v1/toys tells who was answered and who left early.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import uvicorn
from tests.serve.conftest import Echo, Grey, toy_pool
from tests.studio.conftest import make_model

from miaobi.core.engine import Abilities, Chunk
from miaobi.core.language import say
from miaobi.core.requests import ImageRequest, Request, TextRequest
from miaobi.data import packs
from miaobi.data.packs import Pack, fetching
from miaobi.data.progress import Bar
from miaobi.models.weights import find
from miaobi.serve import services as service_parts
from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.files import Files
from miaobi.serve.jobs import Lost, Queue, new_holder
from miaobi.serve.records import Job
from miaobi.serve.routes import exports
from miaobi.serve.services import Services
from miaobi.serve.settings import Settings
from miaobi.verbs.export.offers import Offer


class Writer(Echo):
    """Goes on with texts, and knows no dialogue."""

    chats = False
    abilities = Abilities(Echo.abilities.controls - {"image"})


MARKDOWN = """# Three ways

| method | memory |
|---|---:|
| LoRA | 1.4 GB |

```python
print("<b>hello</b>")
```

<script>document.title = "taken"</script> [here](javascript:alert(1)) and
[there](https://example.org/) ![a picture](https://example.org/x.png)

- one
- two
"""


class Talker(Echo):
    """Writes what the first word of a message asks for: `count 30` numbers up to 30,
    `markdown`, `call` of the first tool, and `json`. Goes on with an answer that was
    stopped. Everything else it says again.
    """

    def __init__(self) -> None:
        super().__init__(0.02)

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        assert isinstance(request, TextRequest) and request.messages
        said = [item for item in request.messages if item["role"] != "assistant"][-1]
        first, _, rest = str(said["content"]).partition(" ")
        written = (
            request.messages[-1]["content"] if request.continue_final_message else ""
        )
        if first == "count":
            numbers = [f"number-{at}" for at in range(1, int(rest) + 1)]
            text = " ".join(numbers[len(written.split()) :])
            text = f" {text}" if written and not written.endswith(" ") else text
        elif first == "call":
            called = {
                "name": request.tools[0]["function"]["name"],
                "arguments": {"of": 1},
            }
            text = f"<tool_call>{json.dumps(called)}</tool_call>"
        elif request.json_schema is not None:
            text = '{"colour": "red"}'
        else:
            text = MARKDOWN if first == "markdown" else f"You said: {said['content']}"
        answer = replace(
            request,
            messages=({"role": "user", "content": text},),
            continue_final_message=False,
        )
        async for chunk in super().generate(answer):
            yield chunk


class Painter(Grey):
    """Remembers what it was last given to start from."""

    given: dict[str, Any] = {}  # noqa: RUF012

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        assert isinstance(request, ImageRequest)
        mask = None if request.mask is None else np.asarray(request.mask)
        self.given = {
            "image": None if request.image is None else list(np.shape(request.image)),
            "repainted": None if mask is None else float((mask > 127).mean()),
            "strength": request.strength,
        }
        async for chunk in super().generate(request):
            yield chunk


FETCHED = set[str]()


def fetch(pack: Pack, progress: Bar | None = None) -> None:
    """Instead of a package client: two seconds; one pack cannot be had."""
    assert progress is not None
    for part in range(1, 41):
        time.sleep(0.05)
        progress(pack.name, pack.megabytes * part / 40, pack.megabytes)
        if pack.name == "esrgan-slim":
            raise packs.Unreachable(
                say("The registry did not answer.", "软件源没有应答。"),
                say("Check the network.", "请检查网络。"),
            )
    FETCHED.add(pack.name)


class Workshop:
    """Instead of the supervisor and its processes: jobs that are quickly done, step by
    step, and go on where they were.
    """

    def __init__(self, settings: Settings, queue: Queue) -> None:
        self.queue, self.ending = queue, threading.Event()
        self.settings = settings
        self.thread = threading.Thread(target=self.work, daemon=True)

    async def start(self) -> None:
        self.thread.start()

    async def stop(self) -> None:
        self.ending.set()
        self.thread.join()

    def work(self) -> None:
        while not self.ending.wait(0.05):
            holder = new_holder()
            job = self.queue.claim(holder)
            if job is not None:
                with suppress(Lost):
                    self.do(job, holder)

    def do(self, job: Job, holder: str) -> None:
        if job.kind.endswith("estimate"):
            self.queue.end(
                job.id,
                holder,
                "succeeded",
                "",
                {"message": "Expected: 3 min, 1.2 GB of memory."},
            )
            return
        if job.kind == "export":
            self.export(job, holder)
            return
        pause = 0.0 if job.request["suffix"] == "quick" else 0.05
        for step in range(job.result.get("step", 0) + 1, 61):
            self.ending.wait(pause)
            self.queue.progress(job.id, holder, {"step": step, "steps": 60})
            self.queue.record_event(
                job.id,
                holder,
                "metrics",
                f"Step {step}",
                {
                    "step": step,
                    "train_loss": 3 - step / 30,
                    "seconds": step / 20,
                    "memory_bytes": 1_000_000_000 + step * 1_000_000,
                },
            )
        self.queue.record_event(
            job.id,
            holder,
            "message",
            "AI-generated / 由AI生成: sample/0: a <b>sample</b>",
            {"step": 60},
        )
        made = "trained_model" if job.kind == "training" else "fine_tuned_model"
        make_model(job.request[made])
        done = say("Done: it answers now.", "完成：现在可以使用。")
        self.queue.end(job.id, holder, "succeeded", done, {made: job.request[made]})

    def export(self, job: Job, holder: str) -> None:
        files = Files.of(self.queue.records, self.settings)
        source = self.settings.folder / "export"
        source.write_text("weights")
        file = job.request["file"]
        files.put(source, file, job.key_id, "poet.gguf", "export")
        result = {"file": file, "filename": "poet.gguf", "bytes": 7, "compared": []}
        self.queue.end(job.id, holder, "succeeded", "Done.", result)


def main(keys: list[str]) -> None:
    service_parts.Supervisor = Workshop  # type: ignore[assignment,misc]
    packs.installed = FETCHED.__contains__  # type: ignore[assignment]
    fetching.fetch = fetch
    exports.offers = lambda weights: [Offer("gguf", dtypes=("f16", "q8_0"))]
    settings = Settings(
        api_keys=tuple(keys), port=int(os.environ.get("MIAOBI_TEST_PORT", "0"))
    )
    engines: dict[str, Any] = {
        "echo": Echo(),
        "slow": Echo(0.2),
        "talker": Talker(),
        "writer": Writer(),
        "grey": Painter(),
    }
    pool = toy_pool(settings, **engines)
    toy = pool.find
    pool.find = lambda name: toy(name) if name in engines else find(name)

    def facts(name: str) -> dict[str, Any]:
        if name not in engines:
            return {"id": name, "object": "model", "modality": find(name).modality}
        chats = getattr(engines[name], "chats", False)
        modality = engines[name].takes.makes
        return {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "miaobi",
            "modality": modality,
            "chats": chats,
            "inputs": ["text"],
        }

    pool.facts = facts
    app = create_app(Services(settings, pool, Admission(settings)))
    app.add_api_route(
        "/v1/toys",
        lambda: {
            "grey": engines["grey"].given,
            **{
                name: {
                    "running": engines[name].running,
                    "left": engines[name].left_early,
                }
                for name in ("echo", "slow")
            },
        },
    )
    app.router.routes.insert(0, app.router.routes.pop())
    with socket.create_server((settings.host, settings.port)) as at:
        print(at.getsockname()[1], flush=True)
        uvicorn.Server(
            uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1)
        ).run(sockets=[at])


if __name__ == "__main__":
    main(sys.argv[1:])
