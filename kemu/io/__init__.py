"""The I/O side: requests, file objects, volumes and the in-memory file system.

Used by the filter manager, which puts itself on top of a volume, and by scenarios, through the I/O manager.
"""
