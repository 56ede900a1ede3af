"""The work of packing and verifying: what an image is, whether it decodes, a shard of them, and who does it all."""
