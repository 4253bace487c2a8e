"""/docs: the server's own description as a page, with nothing from outside and no
script: /openapi.json, laid out to be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from miaobi.core.language import language, say

router = APIRouter(include_in_schema=False)

STYLE = Path(__file__).with_name("docs.css")
NOTHING_FROM_OUTSIDE = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action "
    "'none'; frame-ancestors 'none'"
)
Schema = Mapping[str, Any]


@router.get("/docs")
def docs(request: Request) -> HTMLResponse:
    return HTMLResponse(
        page(request.app.openapi()),
        headers={"Content-Security-Policy": NOTHING_FROM_OUTSIDE},
    )


def page(described: Schema) -> str:
    groups: dict[str, list[tuple[str, str, Schema]]] = {}
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            groups.setdefault(operation.get("tags", ["server"])[0], []).append(
                (method.upper(), path, operation)
            )
    groups = dict(sorted(groups.items(), key=lambda group: group[0] == "not yet"))
    schemas = described.get("components", {}).get("schemas", {})
    links = "".join(
        f'<li><a href="#{escape(_slug(group))}">{escape(group)}</a></li>'
        for group in groups
    )
    sections = "".join(
        _section(group, entries, schemas) for group, entries in groups.items()
    )
    title = say("The API of this server", "本服务器的接口")
    intro = say(
        "OpenAI's clients work as they are: set base_url to this server's /v1. The same as data: ",
        "可直接使用 OpenAI 客户端：将 base_url 设为本服务器的 /v1。机器可读版本：",
    )
    return (
        f'<!doctype html><html lang="{language()}"><head><meta '
        'charset="utf-8"><meta name="viewport" '
        'content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light '
        f'dark"><title>{escape(title)} · '
        f"miaobi</title><style>{_style()}</style></head><body>"
        f'<header><h1>{escape(title)}</h1><p>{escape(intro)}<a href="/openapi.json">openapi.json</a></p></header>'
        f'<nav aria-label="{escape(say("Groups", "分组"))}"><ul>{links}</ul></nav><main>{sections}</main></body></html>'
    )


@cache
def _style() -> str:
    return STYLE.read_text(encoding="utf-8")


def _slug(text: str) -> str:
    return text.replace(" ", "-")


def _section(
    group: str, entries: Sequence[tuple[str, str, Schema]], schemas: Schema
) -> str:
    operations = "".join(_operation(*entry, schemas) for entry in entries)
    return (
        f'<section id="{escape(_slug(group))}"><h2>{escape(group)}</h2>'
        f"{operations}</section>"
    )


def _operation(method: str, path: str, operation: Schema, schemas: Schema) -> str:
    description = escape(operation.get("description") or operation.get("summary") or "")
    rows = [
        _row(
            item["name"],
            item.get("schema", {}),
            item.get("required", False),
            item.get("description", ""),
            schemas,
        )
        for item in operation.get("parameters", ())
    ]
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        rows += [
            f'<tr class="kind"><th colspan="3" scope="rowgroup">{escape(kind)}</th></tr>',
            *_fields(content.get("schema", {}), schemas),
        ]
    table = ""
    if rows:
        caption = escape(say("What it takes", "参数"))
        table = (
            f'<div class="wide"><table><caption>{caption}</caption>'
            f"{''.join(rows)}</table></div>"
        )
    return (
        f'<article><h3><b class="{method.lower()}">{method}</b> '
        f"<code>{escape(path)}</code></h3><p>{description}</p>{table}</article>"
    )


def _fields(schema: Schema, schemas: Schema) -> Iterator[str]:
    """A row for each property of an object."""
    whole = _resolved(schema, schemas)
    for name, inner in whole.get("properties", {}).items():
        yield _row(
            name,
            inner,
            name in whole.get("required", ()),
            inner.get("description", ""),
            schemas,
        )


def _row(
    name: str, schema: Schema, required: bool, description: str, schemas: Schema
) -> str:
    need = f" <em>{escape(say('required', '必填'))}</em>" if required else ""
    default = schema.get("default")
    description = description or _resolved(schema, schemas).get("description", "")
    after = (
        f"<span>{escape(say('default', '默认'))} <code>{escape(str(default))}</code></span>"
        if default not in (None, "", [], {})
        else ""
    )
    return (
        f'<tr><th scope="row"><code>{escape(name)}</code>{need}</th><td '
        f'class="type">{escape(_type(schema, schemas))}</td><td>{escape(description)} '
        f"{after}</td></tr>"
    )


def _resolved(schema: Schema, schemas: Schema) -> Schema:
    resolved: Schema = (
        schemas.get(schema["$ref"].rsplit("/", 1)[1], {})
        if "$ref" in schema
        else schema
    )
    return resolved


def _type(schema: Schema, schemas: Schema) -> str:
    """In words: "integer, 1 to 16", "list of text", "cosine | linear"."""
    if "$ref" in schema:
        return (
            _type(_resolved(schema, schemas), schemas)
            if "enum" in _resolved(schema, schemas)
            else schema["$ref"].rsplit("/", 1)[1]
        )
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return " | ".join(
                dict.fromkeys(
                    _type(item, schemas)
                    for item in schema[choice]
                    if item.get("type") != "null"
                )
            )
    if "enum" in schema or "const" in schema:
        return " | ".join(map(str, schema.get("enum", [schema.get("const")])))
    kind = str(schema.get("type", say("anything", "任意")))
    if kind == "array":
        return say("list of ", "列表：") + _type(schema.get("items", {}), schemas)
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is not None and high is not None and high < 2**53:
        return say(f"{kind}, {low:g} to {high:g}", f"{kind}，{low:g} 至 {high:g}")
    return kind
