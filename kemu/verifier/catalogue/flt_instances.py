"""Instances, volumes, registration and unload of minifilters: what goes beyond `fltmgr`."""
