"""What can be requested of a model: one frozen dataclass per kind. Every value is checked
when the request is made.

A request may hold pixels (arrays); they compare by their bytes, and records give their
SHA-256. The registry leads from the name on the command line (`miaobi generate NAME`) to
the kind of request.
"""

from __future__ import annotations

from miaobi.core.registry import Registry
from miaobi.core.requests.base import Request as Request
from miaobi.core.requests.base import recorded as recorded
from miaobi.core.requests.base import same as same
from miaobi.core.requests.embedding import EmbeddingRequest as EmbeddingRequest
from miaobi.core.requests.image import ImageRequest as ImageRequest
from miaobi.core.requests.speech import SpeechRequest as SpeechRequest
from miaobi.core.requests.text import NEUTRAL_CUTS as NEUTRAL_CUTS
from miaobi.core.requests.text import TextRequest as TextRequest

requests: Registry[type[Request]] = Registry(
    "requests",
    {
        "text": "miaobi.core.requests.text:TextRequest",
        "image": "miaobi.core.requests.image:ImageRequest",
        "speech": "miaobi.core.requests.speech:SpeechRequest",
        "embedding": "miaobi.core.requests.embedding:EmbeddingRequest",
    },
)


def request_for(makes: str) -> str:
    """Return the name of the request that a model of this modality answers.

    Labels are answered as text.
    """
    kinds = {requests.get(name).makes: name for name in requests.names()}
    return kinds.get(makes, "text")


def command_for(makes: str, model: str) -> str:
    """Return the command that generates with a model of this modality."""
    name = request_for(makes)
    command = f"miaobi generate {name} --model {model}"
    return f"{command} {requests.get(name).example}".strip()
