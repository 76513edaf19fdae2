"""Communication ports of minifilters."""
