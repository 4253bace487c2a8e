"""Speaker similarity: the cosine of two voices' vectors, beside what the same speaker and
others reach. The vectors are Resemblyzer's (Wan, Wang, Papir and Moreno 2018), a starter
pack.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from miaobi.core.language import say
from miaobi.evaluate.audio.subject import SoundSubject, samples_of
from miaobi.evaluate.score import Score, mean_interval
from miaobi.evaluate.subject import VOICE

MODALITY = "audio"
NEEDS = frozenset({VOICE})


def measure(subject: SoundSubject) -> list[Score]:
    groups = (subject.generated, subject.voice or (), subject.strangers)
    total = sum(map(len, groups))
    vectors = list[np.ndarray]()
    for sound in [sound for group in groups for sound in group]:
        vectors.append(subject.speaker_of(samples_of(sound)))
        subject.progress(len(vectors) / total)
    generated, rest = vectors[: len(groups[0])], vectors[len(groups[0]) :]
    voice, strangers = rest[: len(groups[1])], rest[len(groups[1]) :]
    same = [
        similarity(vector, voice[:number] + voice[number + 1 :])
        for number, vector in enumerate(voice)
    ]
    other = [similarity(vector, voice) for vector in strangers]
    anchors = say(
        f"the speaker's own recordings reach {np.mean(same):.2f} (n={len(same)})",
        f"该说话人自己的录音为 {np.mean(same):.2f}（n={len(same)}）",
    )
    if other:
        anchors = say(
            f"{anchors}, other speakers {np.mean(other):.2f} (n={len(other)})",
            f"{anchors}，其他说话人为 {np.mean(other):.2f}（n={len(other)}）",
        )
    values = [similarity(vector, voice) for vector in generated]
    name = "Resemblyzer" if subject.embed is None else say("own encoder", "自带编码器")
    return [
        Score(
            "speaker_similarity",
            *mean_interval(values, subject.seed),
            len(values),
            better="higher",
            detail=say(
                f"{name}, cosine with the mean of the voice; {anchors}; sounds resampled",
                f"{name}，与该声音均值的余弦；{anchors}；按声音重采样",
            ),
            label=say("speaker similarity", "说话人相似度"),
        )
    ]


def similarity(vector: np.ndarray, voice: Sequence[np.ndarray]) -> float:
    """Return the cosine of a vector with the mean of others; all have length one."""
    mean = np.mean(voice, axis=0)
    length = np.linalg.norm(mean)
    return float(vector @ mean / length) if length else 0.0
