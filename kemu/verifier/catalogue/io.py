"""IRPs, devices, cancellation, cancel-safe queues, remove locks, unload."""
