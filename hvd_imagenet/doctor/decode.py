"""A JPEG made here, decoded by DALI as in training, on the CPU and on the GPU where there is one."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from hvd_imagenet.doctor.findings import Finding, Found, failure, ok
from hvd_imagenet.gpu import visible

HEIGHT, WIDTH = 48, 64
TOP, LEFT = 5, 9  # of the window that is decoded
MOST = 2.0  # of 255, mean difference from what was drawn: JPEG's own is below 1, a pixel's shift makes 4


def look(launch: dict) -> Found:
    """Decode on each kind of device that there is."""
    seen = visible()
    devices = {"CPU": None, **({"GPU": launch["local_rank"] % seen} if seen else {})}
    return Found([_finding(f"decode: {name}", device) for name, device in devices.items()])


def drawn() -> np.ndarray:
    """The picture: waves with no edge that JPEG would blur, uint8, shape (HEIGHT, WIDTH, 3)."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = [np.sin(x / 5) + np.cos(y / 7), np.sin((x + y) / 6), np.cos(x / 4)]
    return np.stack([127.5 + 60 * wave for wave in waves], axis=-1).astype(np.uint8)


def _finding(check: str, device_id: int | None) -> Finding:
    remedy = "run: bash launch/install.sh; DALI's build must fit the CUDA of the driver"
    try:
        difference = float(np.abs(_decoded(device_id) - drawn()[TOP:, LEFT:].astype(float)).mean())
    except (ImportError, RuntimeError) as error:
        return failure(check, f"DALI fails: {' '.join(str(error).split())[:300]}", remedy)
    if difference > MOST:
        return failure(check, f"DALI's pixels are {difference:.1f} of 255 away from those drawn", remedy)
    return ok(check, "DALI decodes a JPEG to the pixels that were drawn")


def _decoded(device_id: int | None) -> np.ndarray:
    from hvd_imagenet.data import dali  # DALI may be what is broken

    file = io.BytesIO()
    Image.fromarray(drawn()).save(file, "JPEG", quality=95, subsampling=0)
    encoded = np.frombuffer(file.getvalue(), np.uint8)
    anchor, shape = np.array([TOP, LEFT], np.int32), np.array([HEIGHT - TOP, WIDTH - LEFT], np.int32)
    nothing = (0.0, 0.0, 0.0)
    decoding = dali.Decoding(HEIGHT, nothing, nothing, HEIGHT, padded=False, threads=1, device_id=device_id)
    (images,) = dali.windows(iter([([encoded], [anchor], [shape])] * (dali.PREFETCH + 1)), 1, decoding).run()
    return np.array((images if device_id is None else images.as_cpu())[0]).astype(float)
