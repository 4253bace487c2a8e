"""Experiments with the latent space of a model of sentences: texts in, texts out."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from miaobi.core.artifacts import Facts, Text
from miaobi.core.engine import Weights
from miaobi.core.errors import BadInput, Unsupported
from miaobi.core.language import say
from miaobi.data.text.tokenizer import Tokenizer
from miaobi.data.text.tokenizer import load as load_tokenizer
from miaobi.families import families
from miaobi.models.weights import find
from miaobi.nn.language import SentenceLatents
from miaobi.nn.latents import PATHS
from miaobi.provenance.publish import check_ending, publish
from miaobi.verbs.latent.experiment import Experiment


@dataclass(frozen=True)
class SentenceLab:
    """An opened model of sentences, and the file that an experiment writes."""

    weights: Weights
    net: SentenceLatents
    tokenizer: Tokenizer
    experiment: str
    out: Path

    def encode(self, sentence: str, option: str) -> Tensor:
        """Return the point [D] of a sentence. Raises BadInput for an empty or too long one."""
        ids = self.tokenizer.encode([sentence.strip()]) if sentence.strip() else []
        longest = self.net.spec.context_length - 1
        if not ids:
            raise BadInput(
                say(f"{option} is empty.", f"{option} 为空。"),
                say("Give a sentence.", "请给出一个句子。"),
                field=option,
            )
        if len(ids) > longest:
            raise BadInput(
                say(
                    f"{option} has {len(ids)} tokens; {self.weights.name} takes at most {longest}.",
                    f"{option} 有 {len(ids)} 个词元；{self.weights.name} 最多接受 {longest} 个。",
                ),
                say("Give a shorter sentence.", "请给出更短的句子。"),
                field=option,
            )
        return self.net.encode([ids])[0]

    def decode(self, points: Tensor) -> list[str]:
        """Return the sentence at each point [N, D]."""
        return [self.tokenizer.decode(ids) for ids in self.net.decode(points)]

    def publish(
        self, summary: str, measured: dict[str, Any], **parameters: object
    ) -> Experiment:
        """Write the texts that the summary shows, labelled, and return the experiment."""
        facts = Facts(
            model=self.weights.name,
            version=self.weights.version,
            engine="native",
            request_id=uuid.uuid4().hex,
            parameters={"experiment": self.experiment, **parameters},
        )
        publish(Text(summary, facts), self.out)
        return Experiment(
            self.weights.name, self.experiment, self.out, summary, measured
        )


def open_lab(model: str, experiment: str, out: Path | None) -> SentenceLab:
    """Open a model of sentences for an experiment.

    Raises Unsupported for a model of another kind, or for a file that holds no text.
    """
    if out is not None:
        check_ending(out, Text)
    weights = find(model)
    net: Any = None
    if weights.format == "bundle" and weights.family in families:
        net = families.get(weights.family).load(weights.path)
    if not isinstance(net, SentenceLatents):
        raise Unsupported(
            say(
                f"{weights.name} is no model of sentences with a latent space.",
                f"{weights.name} 不是带潜空间的句子模型。",
            ),
            say(
                "Train one: miaobi train recipes/text/sentence_vae.yaml. Pictures take --start and --end.",
                "可训练一个：miaobi train recipes/text/sentence_vae.yaml。图像模型请用 --start 与 --end。",
            ),
        )
    default = Path("runs") / "latent" / f"{Path(weights.name).name}-{experiment}.txt"
    return SentenceLab(
        weights, net, load_tokenizer(weights.path), experiment, out or default
    )


def reconstruct(model: str, prompt: str, out: Path | None) -> Experiment:
    """Encode a sentence and decode it again."""
    lab = open_lab(model, "reconstruct", out)
    point = lab.encode(prompt, "prompt")
    [restored] = lab.decode(point[None])
    summary = f"{prompt}\n→ {restored}"
    measured = {"text": restored, "latent": point.tolist()}
    return lab.publish(summary, measured, prompt=prompt)


def interpolate(
    model: str,
    prompt: str,
    to: str,
    path: Literal["spherical", "linear"],
    frames: int,
    out: Path | None,
) -> Experiment:
    """Decode the points between two sentences; repetitions are shown once."""
    lab = open_lab(model, "interpolate", out)
    first, last = lab.encode(prompt, "prompt"), lab.encode(to, "to")
    t = torch.linspace(0, 1, frames)
    texts = lab.decode(PATHS[path](first, last, t))
    lines = list[str]()
    for share, text, before in zip(t.tolist(), texts, ["", *texts], strict=False):
        if text != before:
            lines.append(f"{share:.2f}  {text}")
    measured = {
        "texts": texts,
        "t": t.tolist(),
        "distance": float((first - last).norm()),
    }
    return lab.publish(
        "\n".join(lines), measured, prompt=prompt, to=to, path=path, frames=frames
    )
