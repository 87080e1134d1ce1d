"""Guests: kernels, images, the QEMU process, and the lab's side of the agent's channel."""
