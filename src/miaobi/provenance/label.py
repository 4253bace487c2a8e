"""The label of generated content: the notice that people read and the facts that
programs read.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any
from xml.sax.saxutils import quoteattr

from miaobi import __version__
from miaobi.core.artifacts import Artifact, Facts
from miaobi.core.requests import recorded

NOTICE = "AI-generated / 由AI生成"
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's digital source type for what a trained model generated."""


def facts_of(facts: Facts) -> dict[str, Any]:
    """The facts that are set, by name."""
    return {
        name: value for name, value in asdict(facts).items() if value not in ("", None)
    }


def label(facts: Facts) -> dict[str, Any]:
    """Notice, source type and facts as JSON; pixels and files among the parameters are
    given by their SHA-256.
    """
    values = facts_of(facts)
    values["parameters"] = {
        name: recorded(value) for name, value in values["parameters"].items()
    }
    return {"notice": NOTICE, "digitalSourceType": SOURCE_TYPE, **values}


def record(artifact: Artifact) -> dict[str, Any]:
    """An artifact's label, with why it ended where that is not "stop"."""
    if artifact.finish == "stop":
        return label(artifact.facts)
    return {**label(artifact.facts), "finish": artifact.finish}


def xmp() -> str:
    """An XMP packet that says a trained model made the file (IPTC digital source type)."""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""'
        ' xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
        f" xmp:CreatorTool={quoteattr(f'miaobi {__version__}')} "
        f"Iptc4xmpExt:DigitalSourceType={quoteattr(SOURCE_TYPE)}/>"
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )
