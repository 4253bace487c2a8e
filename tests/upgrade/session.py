"""Runs commands of miaobi and asks its models, all in one process: `python session.py STEPS RESULTS`.

STEPS is a JSON file with an object of steps by name, done in their order:

    {"command": ["models", "list", "--json"]}
    {"model": "verse", "engine": "native", "ask": "spring", "controls": {"temperature": 0}}
    {"painter": "shapes", "controls": {"seed": 3}}

RESULTS gets an object with what came of each, by the same names:

    {"code": 0, "out": "...", "err": "..."}
    {"texts": ["..."]}
    {"pictures": [[[[0], [255], ...], ...]]}, pixels [N, H, W, C]
    {"error": "Traceback ..."}

One process, since importing PyTorch, Transformers and PEFT costs more than all that is done here. A step that fails
stops no other.
"""

from __future__ import annotations

import io
import json
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import miaobi
from miaobi import cli


def run(step: dict[str, Any]) -> dict[str, Any]:
    """What came of one step."""
    try:
        if "command" in step:
            return command(step["command"])
        return paint(step) if "painter" in step else write(step)
    except Exception:
        return {"error": traceback.format_exc()}


def command(argv: list[str]) -> dict[str, Any]:
    out = io.StringIO()
    err = io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = cli.main(argv)
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


def write(step: dict[str, Any]) -> dict[str, Any]:
    with miaobi.load(step["model"], engine=step["engine"]) as model:
        texts = model.generate(step["ask"], **step["controls"])
    return {"texts": [text.text for text in texts]}


def paint(step: dict[str, Any]) -> dict[str, Any]:
    with miaobi.load(step["painter"]) as model:
        pictures = model.generate(**step["controls"])
    return {"pictures": [picture.pixels.tolist() for picture in pictures]}


def main(steps: Path, results: Path) -> None:
    results_by_name = {
        name: run(step) for name, step in json.loads(steps.read_text()).items()
    }
    results.write_text(json.dumps(results_by_name, ensure_ascii=False))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
