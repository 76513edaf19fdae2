"""References, handles, processes, callback objects."""
