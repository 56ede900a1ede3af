"""From encoded images on disk to decoded micro-batches on the device."""
