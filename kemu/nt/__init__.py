"""The kernel core: status codes, bug checks, IRQL, dispatcher objects, locks, pool, work items, drivers.

Called by the frameworks and, through ``kemu.wdk``, by drivers; it knows ``kemu.runtime`` and no framework.
"""
