"""What runs models (the contract is in core/engine.py), and the table of the engines' names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from miaobi.core.registry import Registry

if TYPE_CHECKING:
    from miaobi.core.engine import EngineModule

engines: Registry[EngineModule] = Registry(
    "engines",
    {
        "native": "miaobi.engines.native",
        "openvino": "miaobi.engines.openvino",
        "llamacpp": "miaobi.engines.llamacpp",
        "remote": "miaobi.engines.remote",
        "pictures": "miaobi.engines.families",
        "diffusers": "miaobi.engines.diffusers",
        "fills": "miaobi.engines.fills",
        "embedding": "miaobi.engines.embedding",
        "styletransfer": "miaobi.engines.styletransfer",
        "tuned": "miaobi.engines.tuned",
        "voices": "miaobi.engines.voices",
        "upscaler": "miaobi.engines.upscaler",
    },
)
