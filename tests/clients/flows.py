"""The official Python client against a running server: python flows.py URL [tune].
Prints one line for each step that held.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import openai

MODEL = "smollm2"
MESSAGES: Any = [
    {"role": "user", "content": "What is the capital of France? One sentence."}
]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}},
    "required": ["city"],
    "additionalProperties": False,
}

ENDED = ("completed", "succeeded", "failed", "cancelled", "expired")


def held(step: str, value: object) -> None:
    assert value, step
    print(json.dumps({"step": step}), flush=True)


def ended(read: Callable[[], Any]) -> Any:
    while True:
        job = read()
        if job.status in ENDED:
            return job
        time.sleep(0.5)


def answers(client: openai.OpenAI) -> None:
    held("models", MODEL in [model.id for model in client.models.list()])
    # A prompt that llama.cpp has in its cache is computed in other pieces, and may
    # round to another greedy text: so it is there for both.
    client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=1)
    answer = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=24, seed=1, temperature=0
    )
    said = answer.choices[0].message.content
    held("chat", said and answer.usage and answer.usage.prompt_tokens > 10)
    text = ""
    usage = None
    for piece in client.chat.completions.create(
        model=MODEL,
        messages=MESSAGES,
        max_tokens=24,
        seed=1,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    ):
        text += (piece.choices[0].delta.content or "") if piece.choices else ""
        usage = piece.usage or usage
    held("stream", text == said and usage == answer.usage)
    shaped = client.chat.completions.create(
        model=MODEL,
        messages=MESSAGES,
        max_tokens=48,
        temperature=0,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "city", "schema": SCHEMA, "strict": True},
        },
    )
    held(
        "json_schema",
        isinstance(json.loads(shaped.choices[0].message.content or "")["city"], str),
    )
    held(
        "completions",
        client.completions.create(
            model=MODEL, prompt="Once upon a time", max_tokens=8, seed=3
        )
        .choices[0]
        .text,
    )
    try:
        client.chat.completions.create(model="no-such-model", messages=MESSAGES)
    except openai.NotFoundError as error:
        held("error", "no-such-model" in str(error) and error.request_id)
    vectors = client.embeddings.create(
        model="use-multilingual", input=["Guten Tag", "Good day"]
    )
    held("embeddings", len(vectors.data) == 2 and len(vectors.data[0].embedding) > 100)
    held(
        "moderations",
        client.moderations.create(input="Have a nice day.").results[0].flagged is False,
    )


def batches(client: openai.OpenAI) -> None:
    rows = [
        json.dumps(
            {
                "custom_id": name,
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {
                    "model": MODEL,
                    "messages": MESSAGES,
                    "max_tokens": 8,
                    "seed": 1,
                },
            }
        )
        for name in "ab"
    ]
    file = client.files.create(
        file=("asked.jsonl", io.BytesIO("\n".join(rows).encode())), purpose="batch"
    )
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    done = ended(lambda: client.batches.retrieve(batch.id))
    held("batches", done.status == "completed")
    results = [
        json.loads(line)
        for line in client.files.content(done.output_file_id).text.splitlines()
    ]
    held(
        "batch results",
        [row["custom_id"] for row in results] == ["a", "b"]
        and results[0]["response"]["status_code"] == 200,
    )
    client.files.delete(file.id)


def tuning(client: openai.OpenAI) -> None:
    chats = [
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": f"What is {at} plus {at}?"},
                    {"role": "assistant", "content": f"{at} plus {at} is {2 * at}."},
                ]
            }
        )
        for at in range(24)
    ]
    file = client.files.create(
        file=("chats.jsonl", io.BytesIO("\n".join(chats).encode())), purpose="fine-tune"
    )
    job = client.fine_tuning.jobs.create(
        model=MODEL,
        training_file=file.id,
        suffix="sums",
        extra_body={"miaobi": {"train.max_steps": 2}},
    )
    tuned = ended(lambda: client.fine_tuning.jobs.retrieve(job.id))
    held(
        "fine_tuning",
        tuned.status == "succeeded"
        and len(list(client.fine_tuning.jobs.list_events(job.id))) > 1,
    )
    own = client.chat.completions.create(
        model=tuned.fine_tuned_model, messages=MESSAGES, max_tokens=8
    )
    held(
        "tuned model answers",
        own.choices[0].message.content and own.model == tuned.fine_tuned_model,
    )


def main() -> None:
    url, *rest = sys.argv[1:]
    with openai.OpenAI(
        base_url=url,
        api_key=os.environ.get("MIAOBI_API_KEY", "none"),
        max_retries=0,
        timeout=600,
    ) as client:
        answers(client)
        batches(client)
        if rest:
            tuning(client)


if __name__ == "__main__":
    main()
