"""Our GAN against a plain DCGAN with the classic loss on Fashion-MNIST: a curve of
distance against minutes, over several seeds.

Both train in turn, a stretch of `--stretch` seconds each, until each has had
`--minutes`. After every stretch 1,000 pictures of each are set beside 4,000 of the
training set in the features of EfficientNet-Lite0: Fréchet distance (not FID),
precision, recall. Ours is recipes/image/fashion_cgan.yaml, which is told the classes;
the DCGAN is Radford et al. 2016 (arXiv:1511.06434) as PyTorch's tutorial builds it, at
28 × 28, in float32 and without classes.
Run alone: python bench/gan_fashion.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from miaobi.core.config import read_yaml
from miaobi.data.image import prepared as pictures
from miaobi.evaluate.image.coverage import prdc
from miaobi.evaluate.image.frechet import frechet_distance
from miaobi.models.efficientnet import features
from miaobi.nn.image import to_pixels
from miaobi.train import loop
from miaobi.verbs.train import Settings, settle

RECIPE = Path(__file__).parents[1] / "recipes" / "image" / "fashion_cgan.yaml"
SAMPLES, REAL = 1000, 4000
Paint = Callable[[int], Tensor]


def dcgan(data: pictures.Pictures, seed: int) -> Iterator[Paint]:
    """One step for each value asked for; yields what paints with the weights of the moment."""
    torch.manual_seed(seed)

    def normalised(*layers: nn.Module) -> nn.Sequential:
        return nn.Sequential(*layers)

    generator = normalised(
        nn.ConvTranspose2d(100, 256, 7, 1, 0, bias=False),
        nn.BatchNorm2d(256),
        nn.ReLU(True),
        nn.ConvTranspose2d(256, 128, 4, 2, 1, bias=False),
        nn.BatchNorm2d(128),
        nn.ReLU(True),
        nn.ConvTranspose2d(128, 64, 4, 2, 1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(True),
        nn.Conv2d(64, 1, 3, 1, 1, bias=False),
        nn.Tanh(),
    )
    critic = normalised(
        nn.Conv2d(1, 64, 4, 2, 1, bias=False),
        nn.LeakyReLU(0.2, True),
        nn.Conv2d(64, 128, 4, 2, 1, bias=False),
        nn.BatchNorm2d(128),
        nn.LeakyReLU(0.2, True),
        nn.Conv2d(128, 256, 3, 2, 1, bias=False),
        nn.BatchNorm2d(256),
        nn.LeakyReLU(0.2, True),
        nn.Conv2d(256, 1, 4, 1, 0, bias=False),
    )
    for net in (generator, critic):
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)
        net.to(memory_format=torch.channels_last)
    of_g, of_c = (
        torch.optim.Adam(net.parameters(), 2e-4, (0.5, 0.999), fused=True)
        for net in (generator, critic)
    )
    loss, batch = nn.BCEWithLogitsLoss(), 128

    def paint(count: int) -> Tensor:
        generator.eval()
        with torch.no_grad():
            made = torch.cat(
                [generator(torch.randn(250, 100, 1, 1)) for _ in range(count // 250)]
            )
        generator.train()
        return made

    index = 0
    while True:
        real = data.batch("train", index, batch, seed)["pixels"]
        fake = generator(torch.randn(batch, 100, 1, 1))
        of_c.zero_grad()
        (
            loss(critic(real).flatten(), torch.ones(batch))
            + loss(critic(fake.detach()).flatten(), torch.zeros(batch))
        ).backward()
        of_c.step()
        of_g.zero_grad()
        loss(critic(fake).flatten(), torch.ones(batch)).backward()
        of_g.step()
        index += 1
        yield paint


def settled(seed: int = 0, steps: int = 1000) -> Settings:
    recipe = read_yaml(RECIPE)
    return settle(
        {**recipe, "train": {**recipe["train"], "max_steps": steps, "seed": seed}},
        origin=str(RECIPE),
    )


def ours(data: pictures.Pictures, seed: int, steps: int) -> Iterator[Paint]:
    settings = settled(seed, steps)
    torch.manual_seed(seed)
    state = loop.start(settings.family.build(settings.model, data.spec), settings.train)
    net = state.objective.generator

    def paint(count: int) -> Tensor:
        net.eval()
        with loop.averaged(state), torch.no_grad():
            made = torch.cat([net.paint(250) for _ in range(count // 250)])
        net.train()
        return made

    while state.step < steps:
        loop.train_step(
            state, [data.batch("train", state.step, settings.train.batch_size, seed)]
        )
        yield paint
    while True:  # a run that was quicker than foreseen rests
        time.sleep(0.1)
        yield paint


def stretch(steps: Iterator[Paint], seconds: float) -> tuple[Paint, float, int]:
    began, count = time.perf_counter(), 0
    while True:
        paint, count = next(steps), count + 1
        if (taken := time.perf_counter() - began) >= seconds:
            return paint, taken, count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--stretch", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--peer-seeds", type=int, help="of the DCGAN, where fewer will do"
    )
    parser.add_argument(
        "--samples",
        type=Path,
        help="a folder for a sheet of the latest pictures of each",
    )
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    data = pictures.prepare(settled().data)
    chosen = np.random.default_rng(0).choice(data.count("train"), REAL, replace=False)
    real = features(
        np.ascontiguousarray(
            data.pixels("train")[np.sort(chosen)].transpose(0, 2, 3, 1)
        )
    )
    warm = ours(data, 99, 1000)
    stretch(warm, 5.0)
    _, taken, count = stretch(warm, 15.0)
    total = int(
        60 * arguments.minutes * count / taken
    )  # the length of the run, which its schedule and averaging need to know
    rows = []
    for seed in range(arguments.seeds):
        runs = {"miaobi": ours(data, seed, total)} | (
            {"dcgan": dcgan(data, seed)}
            if seed < (arguments.peer_seeds or arguments.seeds)
            else {}
        )
        spent, done = dict.fromkeys(runs, 0.0), dict.fromkeys(runs, 0)
        while min(spent.values()) < 60 * arguments.minutes - 1:
            for name, steps in runs.items():
                paint, taken, count = stretch(steps, arguments.stretch)
                spent[name], done[name] = spent[name] + taken, done[name] + count
                made = features(to_pixels(paint(SAMPLES)).numpy())
                found = prdc(real[:SAMPLES], made)
                rows.append(
                    {
                        "name": name,
                        "seed": seed,
                        "minutes": round(spent[name] / 60, 2),
                        "steps": done[name],
                        "frechet": round(frechet_distance(real, made), 2),
                        "precision": round(found["precision"], 3),
                        "recall": round(found["recall"], 3),
                    }
                )
                print(rows[-1], file=sys.stderr, flush=True)
                if arguments.samples:
                    sheet = (
                        to_pixels(paint(250)[:100])
                        .numpy()[..., 0]
                        .reshape(10, 10, 28, 28)
                        .transpose(0, 2, 1, 3)
                        .reshape(280, 280)
                    )
                    arguments.samples.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(sheet).save(
                        arguments.samples / f"{name}-{seed}.png"
                    )
    minutes = sorted({round(row["minutes"] * 60 / arguments.stretch) for row in rows})
    curve = {
        name: {
            f"{at * arguments.stretch / 60:g} min": {
                key: round(
                    statistics.median(
                        row[key]
                        for row in rows
                        if row["name"] == name
                        and round(row["minutes"] * 60 / arguments.stretch) == at
                    ),
                    3,
                )
                for key in ("frechet", "precision", "recall")
            }
            for at in minutes
        }
        for name in ("miaobi", "dcgan")
    }
    last = [
        row
        for row in rows
        if round(row["minutes"] * 60 / arguments.stretch) == minutes[-1]
    ]
    print(
        json.dumps(
            {
                "curve": curve,
                "rows": rows,
                "lowest_recall_at_the_end": {
                    name: min(row["recall"] for row in last if row["name"] == name)
                    for name in ("miaobi", "dcgan")
                },
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
