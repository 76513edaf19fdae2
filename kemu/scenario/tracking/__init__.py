"""Driver state in footprints: the code of scenario files, rewritten so that its accesses to state are recorded.

- ``containers``  lists, dictionaries and sets that record what is done with them
- ``recorder``    what rewritten code calls: which cell an access touches, and that it touches it
- ``accesses``    accesses that are operations of their own, for runs that may be preempted at each
- ``variables``   which variables of a file functions share
- ``rewrite``     the syntax tree of a file, rewritten
- ``coarse``      what in a file cannot be followed
- ``atomic``      what in a file cannot be interrupted, whatever the preemption

Only the loader uses this package. What a run knows of driver state is in `kemu.runtime.data`.
"""
