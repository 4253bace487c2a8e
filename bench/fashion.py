"""Families that paint against their peers on Fashion-MNIST: distance over minutes of
training, over several seeds.

All train in turn, a stretch of `--stretch` seconds each, until each has had
`--minutes`. After every stretch 1,000 pictures of each are set beside 4,000 of the
training set in the features of EfficientNet-Lite0: Fréchet distance (not FID),
precision, recall, and how many pictures a second were painted.

    gan        recipes/image/fashion_cgan.yaml, which is told the classes
    flow       recipes/image/fashion_flow.yaml, which is told the classes
    dcgan      Radford et al. 2016 (arXiv:1511.06434) as PyTorch's tutorial builds it, at
               28 × 28, in float32, without classes
    diffusers  UNet2DModel and DDPMScheduler as Diffusers' page "Train a diffusion model"
               trains them (AdamW 1e-4, 500 steps of warm-up, batch 16, no average),
               at 32 × 32 with three levels, without classes; painted by DDIM, 50 steps

Run alone: python bench/fashion.py --entries flow,diffusers
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.core.config import read_yaml
from miaobi.data.image import prepared
from miaobi.data.image.prepared import Pictures
from miaobi.evaluate.image.coverage import prdc
from miaobi.evaluate.image.frechet import frechet_distance
from miaobi.models.efficientnet import features
from miaobi.nn.image import Paints, to_pixels
from miaobi.train import loop
from miaobi.verbs.train import Settings, settle

RECIPES = Path(__file__).parents[1] / "recipes" / "image"
SAMPLES, REAL = 1000, 4000
AT_ONCE = 250
Paint = Callable[[int], Tensor]
Steps = Iterator[Paint]
"""One training step for each value asked for; yields what paints at that moment."""


def settled(recipe: str, seed: int = 0, steps: int = 1000) -> Settings:
    path = RECIPES / recipe
    content = read_yaml(path)
    train = {**content["train"], "max_steps": steps, "seed": seed}
    return settle({**content, "train": train}, origin=str(path))


def of_recipe(recipe: str, data: Pictures, seed: int, steps: int) -> Steps:
    """Train a recipe of ours, to be at its end after `steps`."""
    settings = settled(recipe, seed, steps)
    torch.manual_seed(seed)
    state = loop.start(settings.family.build(settings.model, data.spec), settings.train)
    modules = state.objective.modules()
    net = next(module for module in modules if isinstance(module, Paints))
    size = settings.train.batch_size

    def paint(count: int) -> Tensor:
        state.objective.eval()
        with loop.averaged(state), torch.no_grad():
            parts = [net.paint(AT_ONCE) for _ in range(count // AT_ONCE)]
        state.objective.train()
        return torch.cat(parts)

    while state.step < steps:
        loop.train_step(state, [data.batch("train", state.step, size, seed)])
        yield paint
    while True:  # a run that was quicker than foreseen rests
        time.sleep(0.1)
        yield paint


def dcgan(data: Pictures, seed: int) -> Steps:
    torch.manual_seed(seed)
    generator = nn.Sequential(
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
    critic = nn.Sequential(
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
    for module in [*generator.modules(), *critic.modules()]:
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
    of_generator, of_critic = (
        torch.optim.Adam(
            net.to(memory_format=torch.channels_last).parameters(),
            2e-4,
            (0.5, 0.999),
            fused=True,
        )
        for net in (generator, critic)
    )
    loss, size = nn.BCEWithLogitsLoss(), 128
    ones, zeros = torch.ones(size), torch.zeros(size)

    @torch.no_grad()
    def paint(count: int) -> Tensor:
        generator.eval()
        parts = [
            generator(torch.randn(AT_ONCE, 100, 1, 1)) for _ in range(count // AT_ONCE)
        ]
        generator.train()
        return torch.cat(parts)

    index = 0
    while True:
        real = data.batch("train", index, size, seed)["pixels"]
        fake = generator(torch.randn(size, 100, 1, 1))
        of_critic.zero_grad()
        of_real = loss(critic(real).flatten(), ones)
        of_fake = loss(critic(fake.detach()).flatten(), zeros)
        (of_real + of_fake).backward()
        of_critic.step()
        of_generator.zero_grad()
        loss(critic(fake).flatten(), ones).backward()
        of_generator.step()
        index += 1
        yield paint


def diffusers(data: Pictures, seed: int) -> Steps:
    from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
    from diffusers.optimization import get_constant_schedule_with_warmup

    torch.manual_seed(seed)
    net = UNet2DModel(
        sample_size=32,
        in_channels=1,
        out_channels=1,
        layers_per_block=2,
        block_out_channels=(64, 128, 256),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    warmup = get_constant_schedule_with_warmup(optimizer, 500)
    size = 16

    @torch.no_grad()
    def paint(count: int) -> Tensor:
        net.eval()
        sampler = DDIMScheduler.from_config(scheduler.config)
        sampler.set_timesteps(50)
        parts = list[Tensor]()
        for _ in range(count // AT_ONCE):
            x = torch.randn(AT_ONCE, 1, 32, 32)
            for at in sampler.timesteps:
                x = sampler.step(net(x, at).sample, at, x).prev_sample
            parts.append(x[..., 2:-2, 2:-2])
        net.train()
        return torch.cat(parts)

    index = 0
    while True:
        pixels = F.pad(
            data.batch("train", index, size, seed)["pixels"], (2,) * 4, value=-1
        )
        noise = torch.randn_like(pixels)
        times = torch.randint(0, 1000, (size,))
        noised = scheduler.add_noise(pixels, noise, times)
        loss = F.mse_loss(net(noised, times).sample, noise)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        warmup.step()
        optimizer.zero_grad()
        index += 1
        yield paint


OURS = {"gan": "fashion_cgan.yaml", "flow": "fashion_flow.yaml"}
PEERS = {"dcgan": dcgan, "diffusers": diffusers}


def stretch(steps: Steps, seconds: float) -> tuple[Paint, float, int]:
    """Train for some seconds; return what paints then, the time taken, the steps."""
    began = time.perf_counter()
    count = 0
    while True:
        paint = next(steps)
        count += 1
        taken = time.perf_counter() - began
        if taken >= seconds:
            return paint, taken, count


def steps_within(recipe: str, data: Pictures, minutes: float) -> int:
    """Return the steps that a recipe takes: its schedule and averages need to know."""
    warm = of_recipe(recipe, data, 99, 1000)
    stretch(warm, 5.0)
    _, taken, count = stretch(warm, 15.0)
    return int(60 * minutes * count / taken)


def judged(paint: Paint, real: np.ndarray) -> dict[str, float]:
    began = time.perf_counter()
    pixels = to_pixels(paint(SAMPLES)).numpy()
    seconds = time.perf_counter() - began
    made = features(pixels)
    found = prdc(real[:SAMPLES], made)
    return {
        "frechet": round(frechet_distance(real, made), 2),
        "precision": round(found["precision"], 3),
        "recall": round(found["recall"], 3),
        "pictures_per_second": round(SAMPLES / seconds, 1),
    }


def write_sheet(paint: Paint, path: Path) -> None:
    pixels = to_pixels(paint(AT_ONCE)[:100]).numpy()[..., 0]
    table = pixels.reshape(10, 10, 28, 28).transpose(0, 2, 1, 3).reshape(280, 280)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(table).save(path)


def curve(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """Return the medians over the seeds after each stretch."""
    own = [row for row in rows if row["name"] == name]
    found = dict[str, Any]()
    for number in sorted({row["stretch"] for row in own}):
        there = [row for row in own if row["stretch"] == number]
        keys = ("minutes", "frechet", "precision", "recall", "pictures_per_second")
        found[str(number)] = {
            key: round(statistics.median(row[key] for row in there), 3) for key in keys
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", default="flow,gan,diffusers,dcgan")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--stretch", type=float, default=150.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--peer-seeds", type=int, help="where fewer will do")
    parser.add_argument("--samples", type=Path, help="a folder for a sheet of each")
    arguments = parser.parse_args()
    entries = arguments.entries.split(",")
    torch.set_flush_denormal(True)
    data = prepared.prepare(settled(OURS["gan"]).data)
    chosen = np.random.default_rng(0).choice(data.count("train"), REAL, replace=False)
    pixels = data.pixels("train")[np.sort(chosen)].transpose(0, 2, 3, 1)
    real = features(np.ascontiguousarray(pixels))
    totals = {
        name: steps_within(OURS[name], data, arguments.minutes)
        for name in entries
        if name in OURS
    }
    rows = list[dict[str, Any]]()
    for seed in range(arguments.seeds):
        runs = dict[str, Steps]()
        for name in entries:
            if name in OURS:
                runs[name] = of_recipe(OURS[name], data, seed, totals[name])
            elif seed < (arguments.peer_seeds or arguments.seeds):
                runs[name] = PEERS[name](data, seed)
        spent = dict.fromkeys(runs, 0.0)
        number = 0
        while min(spent.values()) < 60 * arguments.minutes - 1:
            number += 1
            for name, steps in runs.items():
                paint, taken, _ = stretch(steps, arguments.stretch)
                spent[name] += taken
                minutes = round(spent[name] / 60, 2)
                place = {"name": name, "seed": seed, "stretch": number}
                rows.append({**place, "minutes": minutes, **judged(paint, real)})
                print(rows[-1], file=sys.stderr, flush=True)
                if arguments.samples:
                    write_sheet(paint, arguments.samples / f"{name}-{seed}.png")
    curves = {name: curve(rows, name) for name in entries}
    print(json.dumps({"curves": curves, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
