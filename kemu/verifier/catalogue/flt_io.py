"""I/O that minifilters begin, send again or redirect."""
