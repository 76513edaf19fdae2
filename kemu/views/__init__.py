"""What administrators and debuggers see of a running system: the tables of fltmc, the extension commands of WinDbg.

`moment` stops a run at a step, `fltmc` and `fltkd` look at what is there then. Nothing in here changes anything.
"""
