"""Recognising what a record is by its keys, whoever wrote it.

record       a record that knows which of its keys were read; errors of records
turns        turns of any layout as messages in OpenAI's form
calls        what an assistant calls, and the functions that it may call
layouts      from a record to a conversation, or to a text
preferences  from a record to a pair of answers, or to an answer with a thumb
documents    from a record to what a language model is trained on from scratch
"""

from miaobi.data.text.shapes.documents import check_not_judged, to_document
from miaobi.data.text.shapes.layouts import (
    CONVERSATIONS,
    Conversation,
    conversation,
    shape_of,
)
from miaobi.data.text.shapes.preferences import Pair, Thumb, pair, thumb
from miaobi.data.text.shapes.record import (
    Record,
    Unusable,
    label_text,
    unseen,
    written_text,
)
from miaobi.data.text.shapes.turns import messages_of

__all__ = [
    "CONVERSATIONS",
    "Conversation",
    "Pair",
    "Record",
    "Thumb",
    "Unusable",
    "check_not_judged",
    "conversation",
    "label_text",
    "messages_of",
    "pair",
    "shape_of",
    "thumb",
    "to_document",
    "unseen",
    "written_text",
]
