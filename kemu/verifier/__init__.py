"""The rules, separate from the mechanisms they watch.

`catalogue` lists every finding, `fltmgr` checks what the filter manager reports, `races` puts what the race detector
finds into words, `ending` checks what is left at the end of a run, and `Verifier` makes findings of it. Put together by
`kemu.scenario`; the layers below know only the interfaces they define.
"""

from kemu.verifier.catalogue import CATALOGUE, ERROR, INFO, WARNING, Rule
from kemu.verifier.finding import Finding
from kemu.verifier.verifier import Verifier

__all__ = ["CATALOGUE", "ERROR", "INFO", "WARNING", "Finding", "Rule", "Verifier"]
