"""How fast ResNet-50 trains on a GPU, beside what is published for it; says so where there is none.

    python tests/gpu/speed.py [--images FOLDER]    # class folders train/CLASS/*.jpg; without, photos are made up

Prints, for PyTorch in bf16, micro-batches of 32 and 256 images in a forward:

- images/s on made-up images, against a loop by hand, with the share of the rate of matrix products and of the chip's
  peak, by ``hvd-imagenet bench step``;
- the milliseconds of an all-reduce of all gradients by Horovod over NCCL on one worker, which the trainer leaves out;
- images/s of the loader alone, with DALI's ``mixed`` decoder.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from hvd_imagenet import gpu

# Dense bf16 tensor-core peaks by NVIDIA's data sheets, FLOP/s; by the driver's names, the first that is part of one.
PEAKS = {"A100": 312e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "H200": 989e12, "RTX 3090": 71e12}
# Images/s of ResNet-50 training in mixed precision on one GPU: NVIDIA/DeepLearningExamples, PyTorch, ResNet50 v1.5,
# container 21.03; timm's results/benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv. None is published there for others.
PUBLISHED = {"A100": (2470, "NVIDIA"), "RTX 3090": (1218, "timm")}
MODEL = ["--config", "resnet50_8k", "--precision", "bf16", "--batch.micro_size", "32", "--batch.forward_size", "256"]
PHOTOS, SIDE, BATCH, SECONDS, REPEATS = 512, 400, 256, 10, 20
GRADIENTS = 25_557_032  # of ResNet-50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", metavar="FOLDER", type=Path)
    options = parser.parse_args()
    if not gpu.visible():
        print("no CUDA GPU here: nothing was measured")
        return
    with tempfile.TemporaryDirectory() as folder:
        print(*step(Path(folder) / "step.json"), sep="\n")
        print(
            f"all-reduce of its gradients by one worker, over NCCL: {1000 * allreduce():.2f} ms, left out in training"
        )
        images = options.images or made_up(Path(folder) / "images")
        print(f"the loader alone, with DALI's mixed decoder: {decoder(images):,.0f} images/s")


def step(file: Path) -> list[str]:
    """The lines about a step of one worker."""
    import torch

    subprocess.run([sys.executable, "-m", "hvd_imagenet.cli", "bench", "step", *MODEL, "--json", str(file)], check=True)
    results = json.loads(file.read_text())["results"]
    speed, chip = results["images_per_second"]["median"], torch.cuda.get_device_name(0)
    lines = [f"{chip}: {speed:,.0f} images/s"]
    if peak := of_chip(PEAKS, chip):
        lines.append(
            f"{speed * results['flops_per_image'] / peak:.1%} of the chip's peak of {peak / 1e12:,.0f} TFLOP/s"
        )
    if found := of_chip(PUBLISHED, chip):
        lines.append(f"{speed / found[0]:.2f} times the {found[0]:,} images/s that {found[1]} has published")
    return lines


def of_chip(table: dict, chip: str):
    """What a table has about a chip, by the name that the driver gives it; None: nothing."""
    return next((value for name, value in table.items() if name in chip), None)


def allreduce() -> float:
    """The median seconds of a sum of all gradients over one worker."""
    import horovod.torch as hvd
    import torch

    assert hvd.nccl_built(), "Horovod was built without NCCL: run launch/install.sh --gpu"
    hvd.init()
    gradients, seconds = torch.zeros(GRADIENTS, device="cuda"), []
    for _ in range(REPEATS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        hvd.allreduce_(gradients, op=hvd.Sum, name="gradients")
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def decoder(images: Path, device_id: int | None = 0) -> float:
    """Images per second of the loader, decoded on the GPU and left there."""
    from hvd_imagenet.data.dali import Decoding
    from hvd_imagenet.data.loader import TrainLoader
    from hvd_imagenet.data.requests import TrainRequests, Worker
    from hvd_imagenet.data.store import open_store
    from hvd_imagenet.policy import BatchSettings, LargeBatchPolicy, LearningRateSettings
    from hvd_imagenet.stream import GlobalOrder, SampleStream

    store = open_store(images, "train")
    policy = LargeBatchPolicy(len(store), 10**6, BatchSettings(BATCH, BATCH), LearningRateSettings())
    decoding = Decoding(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 256, False, 8, device_id)
    stream = SampleStream(0, GlobalOrder(len(store)))
    wanted = TrainRequests(store, policy, stream, "random_resized_crop", Worker(0, 1), decoding)
    with TrainLoader(wanted) as loader:
        steps = (batch for plan in policy.steps() for batch in loader.micro_batches(plan))
        for _ in range(10):  # until the decoder's memory has grown
            next(steps)
        taken, start = 0, time.perf_counter()
        while time.perf_counter() - start < SECONDS:
            taken += len(next(steps).labels)
        return taken / (time.perf_counter() - start)


def made_up(folder: Path) -> Path:
    """Photos of about ImageNet's size, coarse noise made smooth."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(PHOTOS):
            file = folder / split / f"class{number % 2}" / f"{number:05d}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            coarse = rng.integers(0, 256, (50, 50, 3), np.uint8)
            Image.fromarray(coarse).resize((SIDE + number % 100, SIDE)).save(file, quality=90)
    return folder


if __name__ == "__main__":
    main()
