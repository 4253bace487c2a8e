"""An upload as it arrives: multipart/form-data read piece by piece, the file's bytes
straight to the disk, never the whole in memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from miaobi.core.errors import nearest
from miaobi.core.language import say
from miaobi.serve.errors import ApiError
from miaobi.serve.files import Upload

if TYPE_CHECKING:
    # There for type checkers only.
    from python_multipart.multipart import MultipartCallbacks

FIELD_BYTES = 4096
FIELDS = 16
HEADER_BYTES = 4096


def multipart_form(
    required: Sequence[str], properties: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the API's description says of a route that takes this form."""
    schema = {
        "type": "object",
        "required": required,
        "additionalProperties": False,
        "properties": properties,
    }
    content = {"multipart/form-data": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


class Arriving:
    """The parser's other end. `fields` as text, the part of the file to `upload`."""

    def __init__(
        self, upload: Upload, allowed_fields: Collection[str], file_field: str
    ) -> None:
        self.upload = upload
        self.file_field = file_field
        self.allowed_fields = allowed_fields
        self.fields = dict[str, str]()
        self.filename: str | None = None
        self.whole = False
        self._headers = dict[bytes, bytes]()
        self._field = self._value = b""
        self._name = ""
        self._text = bytearray()

    def on_part_begin(self) -> None:
        self._headers.clear()
        self._text.clear()
        self._name = ""

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field = self._value = b""

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if self._name == self.file_field:
            if self.filename is not None:
                raise _bad(
                    say(
                        f"One file at a time: there are two parts named {self._name}.",
                        f"一次只能上传一个文件：有两个名为 {self._name} 的部分。",
                    ),
                    self._name,
                )
            self.filename = options.get(b"filename", b"").decode("utf-8", "replace")
        elif self._name not in self.allowed_fields:
            raise _bad(
                say(
                    f"There is no field {self._name[:64]!r} here. ",
                    f"没有字段 {self._name[:64]!r}。",
                )
                + nearest(self._name[:64], [self.file_field, *self.allowed_fields]),
                self._name[:64],
            )
        elif self._name in self.fields or len(self.fields) >= FIELDS:
            raise _bad(
                say(f"{self._name} is given twice.", f"{self._name} 重复给出。"),
                self._name,
            )

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == self.file_field:
            self.upload.write(data[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > FIELD_BYTES:
            raise _bad(
                say(
                    f"{self._name} may have {FIELD_BYTES} bytes.",
                    f"{self._name} 最多 {FIELD_BYTES} 字节。",
                ),
                self._name,
            )

    def on_part_end(self) -> None:
        if self._name != self.file_field:
            try:
                self.fields[self._name] = self._text.decode("utf-8")
            except UnicodeDecodeError:
                raise _bad(
                    say(
                        f"{self._name} is not UTF-8.", f"{self._name} 不是 UTF-8 文本。"
                    ),
                    self._name,
                ) from None

    def on_end(self) -> None:
        self.whole = True

    @property
    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self.on_part_begin,
            "on_header_field": self.on_header_field,
            "on_header_value": self.on_header_value,
            "on_header_end": self.on_header_end,
            "on_headers_finished": self.on_headers_finished,
            "on_part_data": self.on_part_data,
            "on_part_end": self.on_part_end,
            "on_end": self.on_end,
        }


async def receive(
    request: Request,
    upload: Upload,
    allowed_fields: Collection[str],
    file_field: str = "file",
) -> Arriving:
    """Read the request's body: the part `file_field` to `upload`, the fields in
    `allowed_fields` as text. Raises ApiError, or ClientDisconnect.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 0 < len(boundary) <= 200:
        raise ApiError(
            415,
            say(
                "A file comes as multipart/form-data, in the fields: "
                f"{', '.join([file_field, *allowed_fields])}.",
                "文件应以 multipart/form-data 上传，字段为："
                f"{'、'.join([file_field, *allowed_fields])}。",
            ),
        )
    arriving = Arriving(upload, allowed_fields, file_field)
    parser = MultipartParser(
        boundary, arriving.callbacks, max_header_count=8, max_header_size=HEADER_BYTES
    )
    with _explained():
        async for piece in request.stream():
            await anyio.to_thread.run_sync(parser.write, piece)
    if not arriving.whole:
        raise _bad(say("The upload was cut short.", "上传内容不完整。"), None)
    if arriving.filename is None or not upload.size:
        raise _bad(
            say("The file is missing or empty.", "缺少文件或文件为空。"), file_field
        )
    return arriving


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except FormParserError:
        raise _bad(
            say(
                "The body is not sound multipart/form-data.",
                "请求体不是有效的 multipart/form-data。",
            ),
            None,
        ) from None
    except ClientDisconnect:
        raise ApiError(
            400,
            say(
                "The client went away before the file was whole.",
                "文件尚未传完，客户端已断开。",
            ),
        ) from None


def _bad(message: str, param: str | None) -> ApiError:
    return ApiError(400, message, param=param)
