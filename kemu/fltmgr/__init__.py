"""The Filter Manager: minifilters, their instances, and the way of operations through them.

`pipeline` moves operations, `frame` is the record of one, `manager` the actor on top of the volumes; the other
modules hold the routines of fltkernel.h by subject. Drivers get them through `kemu.wdk.fltkernel`, scenarios
through their World. `observer` is what the rules of `kemu.verifier` plug into.
"""
