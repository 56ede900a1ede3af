"""How much memory a worker's part of a step takes: the GPU's, or the host's where there is none."""

from __future__ import annotations

from hvd_imagenet.planner.step import Step

AHEAD = 5  # micro-batches: 3 in DALI, 2 that wait for the training
IN_USE = 2  # forwards that the device may still read
IMAGE_ELEMENT, COLOURS = 4, 3  # decoded images are float32
COPIES = {"weights": 1, "gradients": 1, "momentum": 1}


def memory(step: Step, image_size: int, at_once: int) -> dict[str, float]:
    """Bytes by what they are for.

    Counted are weights, gradients and momentum; what a forward keeps for its backward (what each convolution, ReLU and
    max-pooling gives); decoded images, ahead of the training and in use; and buckets of gradients. What the frameworks
    and CUDA take for themselves, cuDNN's workspaces and DALI's decoders come on top.

    Args:
        at_once: images of a forward, a multiple of the micro-batch.
    """
    network = step.network
    values = sum(layer.saved for layer in network.costs) * network.activation
    others = sum(layer.saved_bytes for layer in network.costs)
    decoded = AHEAD * step.images + IN_USE * at_once
    counted = {what: float(copies * network.gradient_bytes) for what, copies in COPIES.items()}
    counted["activations"] = float(at_once * (values + others))
    counted["decoded images"] = float(decoded * COLOURS * IMAGE_ELEMENT * image_size**2)
    if step.cluster.workers > 1:
        compressed = network.wire_bytes if network.sent < network.element else 0
        counted["buckets"] = float(network.gradient_bytes + compressed)
    return counted
