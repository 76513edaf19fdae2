"""The in-memory file system: shaped like NTFS where a driver can see it.

`filesystem` takes requests at the bottom of a volume's stack and gives each to its part: `opening`, `data`,
`information`, `renaming`, `deletion`, `directory`, `notify`, `locks`, `oplocks`, `cache`, `volume_information`. What is
on the volume, and which cells that is made of, is in `nodes`. `waiting` holds what pended requests have in common.

Used by the volume whose file system it is. Nobody else looks inside.
"""

from kemu.io.filesystem.filesystem import FileSystem, Perform

__all__ = ["FileSystem", "Perform"]
