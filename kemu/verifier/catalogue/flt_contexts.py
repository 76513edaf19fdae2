"""Contexts of minifilters."""
