"""Our VAE against pythae's on digits: test likelihood for half the minutes.

Both get the same statically binarised digits (3,500 to train on when the shares are the
recipe's) and networks of the same size: pythae its own default one (784-512-z, Adam,
batch 64; at 1e-3, better here than its default 1e-4; its best epoch by validation is
kept), ours the recipe's. pythae may train for `--minutes`, ours for two fifths of that
(half is allowed; speed drifts), in turn, over the seeds. Both are scored by one
function: -log p(x) in nats by the importance-weighted bound of 200 draws.

Run alone: python bench/vae_pythae.py  (pip brings pythae into build/ at the first run;
it trains with what it brings, nothing of it is loaded from elsewhere).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from miaobi.core.config import read_yaml
from miaobi.data.image import prepared as pictures
from miaobi.train import loop
from miaobi.verbs.train import settle

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "image" / "digits_vae.yaml"
PEER = ROOT / "build" / "pythae"
PARTS = (
    "pythae==0.1.2",
    "cloudpickle",
    "imageio",
    "scipy",
    "scikit-learn",
    "joblib",
    "threadpoolctl",
    "tqdm",
    "narwhals",
)
DRAWS = 200


def peer() -> None:
    """Put pythae on the path, fetched without its own torch."""
    if not PEER.exists():
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "--target",
                str(PEER),
                *PARTS,
            ],
            check=True,
        )
    sys.path.append(str(PEER))


@torch.no_grad()
def nll(moments: Any, log_likelihood: Any, x: Tensor) -> float:
    """Mean of -log 1/K Σ_k p(x|z_k) p(z_k) / q(z_k|x), z_k ~ q(z|x), in nats; the one
    function for both.
    """
    torch.manual_seed(0)
    mean, log_variance = moments(x)
    weights = []
    for _ in range(DRAWS):
        noise = torch.randn_like(mean)
        z = mean + noise * (0.5 * log_variance).exp()
        weights.append(
            log_likelihood(x, z)
            + 0.5 * (noise.square() + log_variance - z.square()).sum(1)
        )
    return (
        -(torch.stack(weights).logsumexp(0) - torch.tensor(float(DRAWS)).log())
        .mean()
        .item()
    )


def of_pythae(
    train: Tensor, held: Tensor, test: Tensor, latent: int, seconds: float, seed: int
) -> dict[str, float]:
    from pythae.models import VAE, VAEConfig
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        config = VAEConfig(
            input_dim=(1, 28, 28), latent_dim=latent, reconstruction_loss="bce"
        )

        def trained(epochs: int) -> tuple[nn.Module, float]:
            model = VAE(config)
            settings = BaseTrainerConfig(
                output_dir=folder,
                num_epochs=epochs,
                learning_rate=1e-3,
                per_device_train_batch_size=64,
                per_device_eval_batch_size=256,
                no_cuda=True,
                seed=seed,
            )
            began = time.perf_counter()
            BaseTrainer(
                model,
                train_dataset=Ready(train),
                eval_dataset=Ready(held),
                training_config=settings,
            ).train()
            return model, time.perf_counter() - began

        model, short = trained(3)
        model, taken = trained(max(3, int(3 * seconds / short)))
        best = max(
            Path(folder).glob("*/final_model"), key=lambda path: path.stat().st_mtime
        )
        model = VAE.load_from_folder(str(best))
        model.eval()

    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        output = model.encoder(x)
        return output.embedding, output.log_covariance

    def likelihood(x: Tensor, z: Tensor) -> Tensor:
        made = model.decoder(z)["reconstruction"].reshape(len(x), -1)
        return -nn.functional.binary_cross_entropy(
            made, x.reshape(len(x), -1), reduction="none"
        ).sum(1)

    score = nll(moments, likelihood, test)
    own = -model.get_nll(test[:8], n_samples=DRAWS)
    assert abs(own - nll(moments, likelihood, test[:8])) < 1.5, (
        "our scoring agrees with pythae's own"
    )
    return {
        "seconds": taken,
        "nll": score,
        "parameters": sum(item.numel() for item in model.parameters()),
    }


class Ready(torch.utils.data.Dataset):
    """pythae's data set: a mapping for every index."""

    def __init__(self, data: Tensor) -> None:
        self.data, self.labels = data, torch.zeros(len(data))

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        from pythae.data.datasets import DatasetOutput

        return DatasetOutput(data=self.data[index], labels=self.labels[index])


def of_ours(
    data: pictures.Pictures, test: Tensor, seconds: float, seed: int
) -> dict[str, float]:
    torch.manual_seed(seed)
    recipe = read_yaml(RECIPE)

    def started(steps: int) -> loop.State:
        settings = settle(
            {**recipe, "train": {**recipe["train"], "max_steps": steps, "seed": seed}},
            origin=str(RECIPE),
        )
        return loop.start(
            settings.family.build(settings.model, data.spec), settings.train
        )

    began = time.perf_counter()
    loop.run(started(20), data, [])
    a_step = (time.perf_counter() - began) / 20
    state = started(max(20, int(seconds / a_step)))
    began = time.perf_counter()
    loop.run(state, data, [])
    taken = time.perf_counter() - began
    net = state.objective.net
    net.eval()
    with loop.averaged(state):
        score = nll(
            lambda x: net.posterior(2 * x - 1, None),
            lambda x, z: net.log_likelihood(2 * x - 1, net.output(z, None)),
            test,
        )
    return {
        "seconds": taken,
        "nll": score,
        "parameters": sum(item.numel() for item in net.parameters()),
        "steps": state.step,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=2.0, help="for pythae; ours gets two fifths"
    )
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    peer()
    torch.set_flush_denormal(True)
    settings = settle(read_yaml(RECIPE), origin=str(RECIPE))
    data = pictures.prepare(settings.data)
    train, held, test = (
        (torch.from_numpy(data.pixels(split).copy()) > 127).float()
        for split in ("train", "validation", "test")
    )
    found: dict[str, list[dict[str, float]]] = {"pythae": [], "miaobi": []}
    for seed in range(arguments.seeds):
        found["pythae"].append(
            of_pythae(
                train,
                held,
                test,
                settings.model.latent_size,
                60 * arguments.minutes,
                seed,
            )
        )
        found["miaobi"].append(of_ours(data, test, 24 * arguments.minutes, seed))
        print(seed, found["pythae"][-1], found["miaobi"][-1], file=sys.stderr)
    medians = {
        name: {
            key: round(statistics.median(run[key] for run in runs), 2)
            for key in ("seconds", "nll", "parameters")
        }
        for name, runs in found.items()
    }
    print(
        json.dumps(
            {
                "pictures": {
                    "train": len(train),
                    "validation": len(held),
                    "test": len(test),
                },
                "median": medians,
                "runs": found,
                "time_ratio": round(
                    medians["miaobi"]["seconds"] / medians["pythae"]["seconds"], 3
                ),
                "nll_difference": round(
                    medians["miaobi"]["nll"] - medians["pythae"]["nll"], 2
                ),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
