"""Matching names with expressions, as drivers do it that filter what a directory enumerates."""

from __future__ import annotations

from kemu.io.filesystem.names import expression_of, fold
from kemu.nt.kthread import APC_LEVEL
from kemu.nt.routine import bad_pointer, routine
from kemu.nt.strings import UNICODE_STRING, text_of
from kemu.nt.structure import Structure


@routine(
    "ntifs",
    """BOOLEAN FsRtlIsNameInExpression(_In_ PUNICODE_STRING Expression, _In_ PUNICODE_STRING Name,
       _In_ BOOLEAN IgnoreCase, _In_opt_ PWCH UpcaseTable)""",
    max_irql=APC_LEVEL,
)
def FsRtlIsNameInExpression(
    Expression: UNICODE_STRING, Name: UNICODE_STRING, IgnoreCase: bool, UpcaseTable: object = None
) -> bool:
    """Whether *Name* matches *Expression*, which may hold ``*``, ``?`` and their DOS forms ``<``, ``>`` and ``"``.

    With *IgnoreCase* the expression has to be in capitals already: only the name is put into them, by the system's own
    table, whatever *UpcaseTable* is. IRQL: <= APC_LEVEL.
    """
    for parameter, value in (("Expression", Expression), ("Name", Name)):
        if not isinstance(value, Structure):  # pyright: ignore[reportUnnecessaryIsInstance]
            bad_pointer("FsRtlIsNameInExpression", parameter, UNICODE_STRING, value)
            return False
    routine_name = "FsRtlIsNameInExpression"
    expression, name = text_of(Expression, routine_name), text_of(Name, routine_name)
    return expression_of(expression).fullmatch(fold(name) if IgnoreCase else name) is not None
