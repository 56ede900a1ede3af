"""The decode graph: encoded bytes and windows in, normalised NHWC images out. DALI decodes, it does not decide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from nvidia.dali import fn, pipeline_def, types

PREFETCH = 3  # micro-batches decoded ahead of the one in use


@dataclass(frozen=True)
class Decoding:
    """What the graph does with each image.

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


def windowed(source: Iterator, batch_size: int, decoding: Decoding):
    """A pipeline over (encoded, anchor, shape, mirror, labels): the window of each image, resized to image_size."""

    def images(encoded, anchor, shape, mirror):
        if decoding.padded:
            # The decoder refuses windows that reach outside the image: decode all of it, then cut.
            whole = fn.decoders.image(encoded, **_decoder(decoding))
            window = fn.slice(whole, anchor, shape, out_of_bounds_policy="pad", fill_values=0, **_PIXELS)
        else:
            window = _decoded_window(encoded, anchor, shape, decoding)
        return _normalised(_resized(window, decoding), decoding, mirror=mirror)

    return _pipeline(source, batch_size, decoding, 5, images)


def centred(source: Iterator, batch_size: int, decoding: Decoding):
    """A pipeline over (encoded, anchor, shape, start, end, labels): a region of the window of each image, resized.

    As if the whole image were resized and cut, but of a panorama a few pixels wide, that may not fit into the memory.
    """

    def images(encoded, anchor, shape, start, end):
        window = _decoded_window(encoded, anchor, shape, decoding)
        return _normalised(_resized(window, decoding, roi_start=start, roi_end=end), decoding)

    return _pipeline(source, batch_size, decoding, 6, images)


# Windows are given as (top, left) and (height, width) in pixels.
_PIXELS = {"axis_names": "HW", "normalized_anchor": False, "normalized_shape": False}


def _decoder(decoding: Decoding) -> dict[str, Any]:
    device = "cpu" if decoding.device_id is None else "mixed"
    return {"device": device, "adjust_orientation": False, **decoding.decoder}


def _decoded_window(encoded, anchor, shape, decoding: Decoding):
    return fn.decoders.image_slice(encoded, anchor, shape, **_PIXELS, **_decoder(decoding))


def _resized(images, decoding: Decoding, **region):
    size = [decoding.image_size] * 2
    return fn.resize(images, size=size, interp_type=types.INTERP_LINEAR, antialias=decoding.antialiased, **region)


def _normalised(images, decoding: Decoding, **mirror):
    return fn.crop_mirror_normalize(
        images,
        mean=[255 * value for value in decoding.mean],
        std=[255 * value for value in decoding.std],
        dtype=types.FLOAT,
        output_layout="HWC",
        **mirror,
    )


def _pipeline(source: Iterator, batch_size: int, decoding: Decoding, inputs: int, images):
    @pipeline_def(
        batch_size=batch_size,
        num_threads=decoding.threads,
        device_id=decoding.device_id,
        prefetch_queue_depth=PREFETCH,
        exec_dynamic=True,  # outputs live as long as they are referred to: frameworks take them without a copy
    )
    def graph():
        on_host = decoding.device_id is None
        # The loader keeps its arrays until the batch is there. A GPU may still be reading them by then.
        *arguments, labels = fn.external_source(source=source, num_outputs=inputs, batch=True, no_copy=on_host)
        return images(*arguments), labels if on_host else labels.gpu()

    pipeline = graph()
    pipeline.build()
    return pipeline
