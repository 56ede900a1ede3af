"""Twenty steps on a GPU, from JPEGs to weights; says so where there is none.

    python tests/gpu/twenty_steps.py torch
    python tests/gpu/twenty_steps.py keras        # also under: horovodrun -np 2

DALI decodes on the GPU (``mixed``), batches reach the framework by DLPack without a copy, and no XLA is around the
all-reduce. Each of these is checked, and that the loss falls; anything wrong ends in an AssertionError.
"""

from __future__ import annotations

import ctypes
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from hvd_imagenet import backend as backends
from hvd_imagenet.backend import Backend, Batch
from hvd_imagenet.config import Config, DataSettings, DecoderSettings, ModelSettings
from hvd_imagenet.data.loader import TrainLoader
from hvd_imagenet.data.requests import TrainRequests, Worker
from hvd_imagenet.data.store import open_store
from hvd_imagenet.inputs import decoding, sample_stream
from hvd_imagenet.policy import BatchSettings, LearningRateSettings

STEPS, IMAGES, SIZE = 20, 256, 64


def main(framework: str) -> None:
    if not gpus():
        print(f"no CUDA GPU here: nothing of the {framework} backend was run")
        return
    config = Config(
        framework=framework,
        model=ModelSettings("resnet18", 2),
        data=DataSettings(image_size=SIZE, decoder=DecoderSettings(0.7, 106, 94, 2**20, 2**20)),
        batch=BatchSettings(64, 16),
        lr=LearningRateSettings(reference=0.05, reference_batch=64),
        epochs=STEPS * 64 / IMAGES,
        precision="bf16",
    )
    backend = backends.load(framework)(config)
    assert backend.device_id is not None
    with tempfile.TemporaryDirectory() as folder:
        losses = train(config, backend, make_images(Path(folder)))
    assert len(losses) == STEPS and np.isfinite(losses).all() and losses[-1] < 0.7 * losses[0], losses
    {"torch": check_torch, "keras": check_keras}[framework](backend)
    if backend.rank == 0:
        print(f"{framework}: {STEPS} steps on {backend.size} GPU(s), loss {losses[0]:.3f} to {losses[-1]:.3f}")


def gpus() -> int:
    """How many CUDA GPUs the driver shows to this process; 0 without a driver."""
    try:
        driver, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
    except OSError:
        return 0
    return count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


def make_images(folder: Path) -> Path:
    """Two classes of JPEGs, one red and one green, with noise."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(IMAGES):
            coarse = rng.integers(0, 256, (8, 8, 3), np.uint8)
            coarse[..., number % 2] = 255
            path = folder / split / f"class{number % 2}" / f"{number:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(coarse).resize((100 + number % 7, 90 + number % 5)).save(path)
    return folder


def train(config: Config, backend: Backend, images: Path) -> list[float]:
    """The losses of all steps."""
    policy, store = config.policy(IMAGES), open_store(images, "train")
    settings = decoding(config, backend)
    assert settings.device_id == backend.device_id
    worker = Worker(backend.rank, backend.size)
    losses = []
    wanted = TrainRequests(store, policy, sample_stream(config, store), config.data.augment, worker, settings)
    with TrainLoader(wanted) as loader:
        for plan in policy.steps():
            backend.train_step(plan, without_a_copy(backend, loader.micro_batches(plan)))
            losses += [totals.loss for _, totals in backend.take_totals(wait=False)]
    return losses + [totals.loss for _, totals in backend.take_totals(wait=True)]


def without_a_copy(backend: Backend, batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches, each checked to lie on the GPU, and to be the same memory in the framework."""
    for batch in batches:
        for array in batch:
            assert array.__dlpack_device__() == (2, backend.device_id), "not on the GPU"  # 2: DLPack's kDLCUDA
            assert address(in_framework(backend, array)) == address(array.__dlpack__()), "copied on the way"
        yield batch


def in_framework(backend: Backend, array):
    """The array taken over as the backend takes it, as a DLPack capsule again."""
    if type(backend).__module__ == "hvd_imagenet.torch.backend":
        import torch

        return torch.from_dlpack(array).__dlpack__()
    import tensorflow as tf

    from hvd_imagenet.keras.device import tensor

    return tf.experimental.dlpack.to_dlpack(tensor(array))


def address(capsule) -> int:
    """Where the values of a DLPack capsule begin: its first field, and the offset after shape and strides."""
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    tensor = get(capsule, b"dltensor")
    data, offset = ctypes.c_uint64.from_address(tensor).value, ctypes.c_uint64.from_address(tensor + 40).value
    return data + offset


def check_torch(backend: Backend) -> None:
    assert all(p.is_cuda and p.device.index == backend.device_id for p in backend._model.parameters())


def check_keras(backend: Backend) -> None:
    import tensorflow as tf

    [gpu] = tf.config.get_visible_devices("GPU")
    assert tf.config.experimental.get_memory_growth(gpu)
    for function in (backend._graph.accumulate, backend._graph.finish):
        for concrete in function._list_all_concrete_functions():
            assert not concrete.function_def.attr["_XlaMustCompile"].b
            reductions = [op for op in concrete.graph.get_operations() if op.type == "HorovodAllreduce"]
            assert bool(reductions) == (function is backend._graph.finish and backend.size > 1)
    assert all("GPU" in parameter.variable.device for parameter in backend._state._parameters.values())


if __name__ == "__main__":
    main(*sys.argv[1:])
