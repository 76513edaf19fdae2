"""Buffers of operations: user memory, MDLs, swapping."""
