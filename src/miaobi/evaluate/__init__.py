"""How good a model is: metrics, one file per family of them, and the page that shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from miaobi.core.registry import Registry

if TYPE_CHECKING:
    from miaobi.evaluate.subject import Metric

metrics: Registry[Metric] = Registry(
    "metrics",
    {
        "likelihood": "miaobi.evaluate.text.likelihood",
        "sentence_latents": "miaobi.evaluate.text.sentence_latents",
        "filled_lines": "miaobi.evaluate.text.filled_lines",
        "diversity": "miaobi.evaluate.text.diversity",
        "memorisation": "miaobi.evaluate.text.memorisation",
        "masked_accuracy": "miaobi.evaluate.fills.accuracy",
        "overlap": "miaobi.evaluate.pairs.overlap",
        "frechet": "miaobi.evaluate.image.frechet",
        "kernel_distance": "miaobi.evaluate.image.kernel_distance",
        "coverage": "miaobi.evaluate.image.coverage",
        "class_accuracy": "miaobi.evaluate.image.class_accuracy",
        "picture_diversity": "miaobi.evaluate.image.diversity",
        "picture_memorisation": "miaobi.evaluate.image.memorisation",
        "picture_likelihood": "miaobi.evaluate.image.likelihood",
        "reconstruction": "miaobi.evaluate.image.reconstruction",
        "speech_errors": "miaobi.evaluate.audio.errors",
        "mel_cepstral_distortion": "miaobi.evaluate.audio.cepstrum",
        "pitch": "miaobi.evaluate.audio.pitch",
        "speaker_similarity": "miaobi.evaluate.audio.similarity",
        "stoi": "miaobi.evaluate.audio.intelligibility",
        "si_sdr": "miaobi.evaluate.audio.distortion",
    },
)
