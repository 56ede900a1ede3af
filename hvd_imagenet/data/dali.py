"""The decode graphs: encoded bytes and windows in, images out. DALI decodes, it does not decide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from nvidia.dali import fn, pipeline_def, types

PREFETCH = 3  # micro-batches decoded ahead of the one in use


@dataclass(frozen=True)
class Decoding:
    """What becomes of each image.

    Attributes:
        image_size: height and width of the output, pixels.
        mean, std: per colour, on the scale of 0 to 1; the output is (image / 255 - mean) / std.
        resize_shorter: of centre crops: the shorter side's length before the crop, pixels.
        padded: windows may reach outside the image, where it counts as black.
        threads: decoding threads.
        device_id: the GPU that decodes (DALI's ``mixed``) and receives the output; None: the CPU.
        decoder: more arguments of DALI's image decoders, by their names.
        antialiased: resizing averages over the source pixels when it shrinks, as in PIL and torchvision.
    """

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize_shorter: int
    padded: bool
    threads: int
    device_id: int | None
    decoder: dict[str, Any] = field(default_factory=dict)
    antialiased: bool = True


def windows(source: Iterator, batch_size: int, decoding: Decoding):
    """A pipeline over (encoded, anchor, shape): the window of each image, 8 bits, on the CPU; `Resampler` goes on."""

    @_pipeline(batch_size, decoding)
    def graph():
        # The loader keeps its arrays until the batch is there.
        encoded, anchor, shape = fn.external_source(source=source, num_outputs=3, batch=True, no_copy=True)
        return _decoded_window(encoded, anchor, shape, decoding)

    return _built(graph())


def batches(source: Iterator, batch_size: int, decoding: Decoding):
    """A pipeline over (encoded, anchor, shape, start, end, mirror, labels): finished images and labels, for a GPU.

    Of the window of each image, the region from `start` to `end` is resized; what is around it counts at its edges.
    """

    @_pipeline(batch_size, decoding)
    def graph():
        # A GPU may still be reading the arrays when the batch is there, so DALI takes a copy.
        encoded, anchor, shape, start, end, mirror, labels = fn.external_source(
            source=source, num_outputs=7, batch=True
        )
        window = _decoded_window(encoded, anchor, shape, decoding)
        images = _normalised(_resized(window, start, end, decoding), mirror, decoding)
        return images, labels if decoding.device_id is None else labels.gpu()

    return _built(graph())


# Windows are given as (top, left) and (height, width) in pixels.
_PIXELS = {"axis_names": "HW", "normalized_anchor": False, "normalized_shape": False}


def _decoder(decoding: Decoding) -> dict[str, Any]:
    device = "cpu" if decoding.device_id is None else "mixed"
    return {"device": device, "adjust_orientation": False, **decoding.decoder}


def _decoded_window(encoded, anchor, shape, decoding: Decoding):
    if not decoding.padded:
        return fn.decoders.image_slice(encoded, anchor, shape, **_PIXELS, **_decoder(decoding))
    # The decoder refuses windows that reach outside the image: decode all of it, then cut.
    whole = fn.decoders.image(encoded, **_decoder(decoding))
    return fn.slice(whole, anchor, shape, out_of_bounds_policy="pad", fill_values=0, **_PIXELS)


def _resized(images, start, end, decoding: Decoding):
    return fn.resize(
        images,
        size=[decoding.image_size] * 2,
        roi_start=start,
        roi_end=end,
        interp_type=types.INTERP_LINEAR,
        antialias=decoding.antialiased,
    )


def _normalised(images, mirror, decoding: Decoding):
    return fn.crop_mirror_normalize(
        images,
        mean=[255 * value for value in decoding.mean],
        std=[255 * value for value in decoding.std],
        dtype=types.FLOAT,
        output_layout="HWC",
        mirror=mirror,
    )


def _pipeline(batch_size: int, decoding: Decoding):
    return pipeline_def(
        batch_size=batch_size,
        num_threads=decoding.threads,
        device_id=decoding.device_id,
        prefetch_queue_depth=PREFETCH,
        exec_dynamic=True,  # outputs live as long as they are referred to: frameworks take them without a copy
    )


def _built(pipeline):
    pipeline.build()
    return pipeline
