"""The driver author's door: one module for each WDK header, names as in C.

``from kemu.wdk.fltkernel import FltRegisterFilter``. A name is found in the module of the header that
declares it; status codes are in `kemu.wdk.ntstatus`. Only drivers and scenarios import from here.
"""
