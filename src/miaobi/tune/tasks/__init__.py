"""One file a task: its columns, its head, its loss, its metrics (the contract is in
tune/learner.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from miaobi.core.registry import Registry

if TYPE_CHECKING:
    from miaobi.tune.learner import Task

tasks: Registry[Task] = Registry(
    "tasks",
    {
        "causal": "miaobi.tune.tasks.causal",
        "chat": "miaobi.tune.tasks.chat",
        "text-classification": "miaobi.tune.tasks.text_classification",
        "pair-classification": "miaobi.tune.tasks.pair_classification",
        "token-classification": "miaobi.tune.tasks.token_classification",
        "extractive-questions": "miaobi.tune.tasks.extractive_questions",
        "embedding": "miaobi.tune.tasks.embedding",
        "reranker": "miaobi.tune.tasks.reranker",
        "seq2seq": "miaobi.tune.tasks.seq2seq",
        "preference": "miaobi.tune.tasks.preference",
        "distillation": "miaobi.tune.tasks.distillation",
        "image-classification": "miaobi.tune.tasks.image_classification",
        "object-detection": "miaobi.tune.tasks.detection",
        "image-segmentation": "miaobi.tune.tasks.segmentation",
        "image-captioning": "miaobi.tune.tasks.captioning",
        "diffusion": "miaobi.tune.tasks.diffusion",
    },
)
