"""Pictures of every page of the studio, in both languages and themes, on a desk and on a
phone: python -m tests.studio.screenshots [FOLDER]. To be looked at, beside the design.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from playwright.sync_api import sync_playwright
from tests.studio.conftest import CHROMIUM, FLAGS, KEY, Site, make_model, serving, until

from miaobi.core.language import LANGUAGES

SIZES = {"desk": (1440, 900), "phone": (390, 844)}
THEMES = ("light", "dark")
EXAMPLE = '{"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]}\n'
QUESTION = "Write *two* lines, and `code`:\n\n| a | b |\n|---|---|\n| 1 | 2 |"


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as home:
        os.environ["MIAOBI_HOME"] = home
        make_model("poet", metrics={"loss": 1.9})
        make_model("poet", ("poet@1",), {"loss": 1.7})
        with serving(Path(home), KEY) as site, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            pages = {"login": "login", **fill(site, browser)}
            for name, language, theme, size in product(pages, LANGUAGES, THEMES, SIZES):
                width, height = SIZES[size]
                page = visit(
                    browser,
                    site,
                    signed_in=name != "login",
                    viewport={"width": width, "height": height},
                    color_scheme=theme,
                    locale={"en": "en-GB", "zh": "zh-CN"}[language],
                )
                address = pages[name].replace("LANGUAGE", language)
                page.goto(f"{site.url}/studio/{address}")
                page.wait_for_timeout(300)
                page.screenshot(path=folder / f"{name}-{language}-{theme}-{size}.png")
                page.context.close()
            browser.close()
    print(f"{len(list(folder.glob('*.png')))} pictures in {folder}")


def fill(site: Site, browser: Any) -> dict[str, str]:
    """Have something to look at; return the addresses of the pages by name."""
    job = start_job(site)
    page = visit(browser, site)
    page.goto(f"{site.url}/studio/en/chat?model=echo")
    page.locator(".composer textarea").fill(QUESTION)
    page.keyboard.press("Enter")
    page.wait_for_url("**/chat/conv_*")
    page.locator(".turn:not(.mine):not(.writing)").wait_for()
    chat = page.url.partition("/studio/en/")[2]
    page.context.close()
    until(lambda: site.get(f"/v1/fine_tuning/jobs/{job}").json()["status"] != "queued")
    return {
        "welcome": "LANGUAGE/welcome",
        "chat-empty": "LANGUAGE/chat",
        "chat": f"LANGUAGE/{chat}",
        "models": "LANGUAGE/models",
        "model": "LANGUAGE/models/poet",
        "version": "LANGUAGE/models/poet@2",
        "jobs": "LANGUAGE/jobs",
        "job": f"LANGUAGE/jobs/{job}",
    }


def start_job(site: Site) -> str:
    with httpx.Client(
        base_url=f"{site.url}/v1", headers={"authorization": f"Bearer {KEY}"}
    ) as client:
        file = {"file": ("examples.jsonl", EXAMPLE * 12)}
        sent = client.post("/files", files=file, data={"purpose": "fine-tune"}).json()
        fields = {"model": "echo", "training_file": sent["id"], "suffix": "support"}
        job = client.post("/fine_tuning/jobs", json=fields).json()
    return str(job["id"])


def visit(browser: Any, site: Site, signed_in: bool = True, **options: Any) -> Any:
    context = browser.new_context(**options)
    if signed_in:
        context.add_cookies(list(cookies(site)))
    page = context.new_page()
    page.on("console", lambda message: message.type == "error" and print(message.text))
    page.on("pageerror", lambda error: print(error))
    return page


def cookies(site: Site) -> Iterator[dict[str, str]]:
    for name, value in site.sign_in().items():
        yield {"name": name, "value": value, "url": f"{site.url}/studio"}


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else "build/screenshots"))
