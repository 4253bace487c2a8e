"""A page and its plain blocks: texts, tables, quotes, images."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from miaobi import __version__
from miaobi.core.files import write_text
from miaobi.core.language import language, say
from miaobi.evaluate.page.template import Block, read, render

if TYPE_CHECKING:
    import numpy as np

BAR_WIDTH = 600
"""Pixels of a bar whose share is one."""


@dataclass
class Page:
    """One HTML page: headings with blocks under them."""

    title: str
    lead: str = ""
    footer: list[str] = field(default_factory=list)
    sections: list[tuple[str, tuple[Block, ...]]] = field(default_factory=list)

    def add(self, heading: str, *blocks: Block) -> Page:
        """Add a section and return the page."""
        self.sections.append((heading, blocks))
        return self

    def generated_by(self, model: str) -> Page:
        """State in the footer that a model made what this page shows."""
        self.footer.append(
            say(
                "AI-generated: the texts and pictures shown as samples on "
                f"this page were made by the model {model}, not by a person.",
                f"AI 生成：本页展示的文本与图片样本由模型 {model} 生成，并非人工创作。",
            )
        )
        return self

    def html(self) -> str:
        """Return the whole page."""
        from markupsafe import Markup

        now = f"{datetime.now():%Y-%m-%d %H:%M}"
        origin = say(
            f"Made by miaobi {__version__} on {now}.",
            f"由 miaobi {__version__} 于 {now} 生成。",
        )
        page = {
            "title": self.title,
            "lead": self.lead,
            "sections": self.sections,
            "footer": [*self.footer, origin],
            "language": {"zh": "zh-CN"}.get(language(), language()),
            "generator": f"miaobi {__version__}",
            "style": Markup(read("page.css")),
        }
        return str(render("page", page))

    def write(self, path: Path) -> Path:
        """Write the page, whole or not at all, and return its path."""
        write_text(path, self.html())
        return path


class Quote(NamedTuple):
    """A text that a model wrote; the page shows `prompt` before it, in grey."""

    text: str
    prompt: str = ""
    caption: str = ""


def prose(*paragraphs: str) -> Block:
    """Return paragraphs."""
    return render("prose", paragraphs)


def facts(pairs: Mapping[str, Any]) -> Block:
    """Return a list of names and values."""
    return render("facts", list(pairs.items()))


def steps(*items: tuple[str, str]) -> Block:
    """Return a numbered list of what to do next: (sentence, command)."""
    return render("steps", items)


def quotes(items: Iterable[Quote]) -> Block:
    """Return texts that a model wrote, as cards."""
    return render("samples", list(items))


def images(items: Iterable[tuple[np.ndarray, str]], model: str = "") -> Block:
    """Return images inside the page itself.

    Args:
        items: Pixels uint8 [H, W, 1 or 3], and what they show.
        model: The model that made them, which is written into each PNG as well.
    """
    pictures = [
        {
            "data": base64.b64encode(_png(pixels, model)).decode(),
            "text": text,
            "height": pixels.shape[0],
            "width": pixels.shape[1],
        }
        for pixels, text in items
    ]
    return render("pictures", pictures)


def _png(pixels: np.ndarray, model: str) -> bytes:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from miaobi.provenance.label import NOTICE

    info = PngInfo()
    if model:
        label = json.dumps({"notice": NOTICE, "model": model}, ensure_ascii=False)
        info.add_itxt("miaobi", label)
    grey = pixels.shape[2] == 1
    image = Image.fromarray(pixels[..., 0] if grey else pixels)
    file = BytesIO()
    image.save(file, "PNG", optimize=True, pnginfo=info)
    return file.getvalue()


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Block:
    """Return rows of text under headings; line breaks inside a cell stay."""
    return render("table", list(columns), [list(row) for row in rows])


def bars(shares: Mapping[str, float]) -> Block:
    """Return names with shares of one, as bars."""
    items = [
        {
            "name": name,
            "width": round(BAR_WIDTH * share, 1),
            "text": f"{share:.0%}",
        }
        for name, share in shares.items()
    ]
    return render("bars", items)


def highlighted_text(pieces: Iterable[tuple[str, bool]]) -> Block:
    """Return a text of pieces, with those highlighted whose second value is true."""
    return render("marked", list(pieces))
