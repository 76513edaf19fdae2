"""FLT_FILE_NAME_OPTIONS: a format, a query method and flags in one number (FLT-NAME-01)."""

from __future__ import annotations

from typing import Final

FLT_FILE_NAME_NORMALIZED: Final = 0x01
FLT_FILE_NAME_OPENED: Final = 0x02
FLT_FILE_NAME_SHORT: Final = 0x03

FLT_FILE_NAME_QUERY_DEFAULT: Final = 0x0100
FLT_FILE_NAME_QUERY_CACHE_ONLY: Final = 0x0200
FLT_FILE_NAME_QUERY_FILESYSTEM_ONLY: Final = 0x0300
FLT_FILE_NAME_QUERY_ALWAYS_ALLOW_CACHE_LOOKUP: Final = 0x0400

FLT_FILE_NAME_REQUEST_FROM_CURRENT_PROVIDER: Final = 0x01000000
FLT_FILE_NAME_DO_NOT_CACHE: Final = 0x02000000
FLT_FILE_NAME_ALLOW_QUERY_ON_REPARSE: Final = 0x04000000

FLT_VALID_FILE_NAME_FORMATS: Final = 0x000000FF
FLT_VALID_FILE_NAME_QUERY_METHODS: Final = 0x0000FF00
FLT_VALID_FILE_NAME_FLAGS: Final = 0xFF000000

FLTFL_FILE_NAME_PARSED_FINAL_COMPONENT: Final = 0x0001
FLTFL_FILE_NAME_PARSED_EXTENSION: Final = 0x0002
FLTFL_FILE_NAME_PARSED_STREAM: Final = 0x0004
FLTFL_FILE_NAME_PARSED_PARENT_DIR: Final = 0x0008
PARSED_ALL: Final = 0x000F

FLTFL_NORMALIZE_NAME_CASE_SENSITIVE: Final = 0x01
FLTFL_NORMALIZE_NAME_DESTINATION_FILE_NAME: Final = 0x02

FORMATS: Final = {
    FLT_FILE_NAME_NORMALIZED: "normalised",
    FLT_FILE_NAME_OPENED: "opened",
    FLT_FILE_NAME_SHORT: "short",
}
METHODS: Final = frozenset(
    {
        FLT_FILE_NAME_QUERY_DEFAULT,
        FLT_FILE_NAME_QUERY_CACHE_ONLY,
        FLT_FILE_NAME_QUERY_FILESYSTEM_ONLY,
        FLT_FILE_NAME_QUERY_ALWAYS_ALLOW_CACHE_LOOKUP,
    }
)
FLAGS: Final = (
    FLT_FILE_NAME_REQUEST_FROM_CURRENT_PROVIDER | FLT_FILE_NAME_DO_NOT_CACHE | FLT_FILE_NAME_ALLOW_QUERY_ON_REPARSE
)


def FltGetFileNameFormat(NameOptions: int) -> int:
    """The format in *NameOptions*: FLT_FILE_NAME_NORMALIZED, _OPENED or _SHORT. IRQL: any."""
    return NameOptions & FLT_VALID_FILE_NAME_FORMATS


def FltGetFileNameQueryMethod(NameOptions: int) -> int:
    """The query method in *NameOptions*. IRQL: any."""
    return NameOptions & FLT_VALID_FILE_NAME_QUERY_METHODS


def FltSetFileNameFormat(NameOptions: int, NameFormat: int) -> int:
    """*NameOptions* with another format: in C, a macro that assigns to its first argument. IRQL: any."""
    return NameOptions & ~FLT_VALID_FILE_NAME_FORMATS | NameFormat & FLT_VALID_FILE_NAME_FORMATS


def FltSetFileNameQueryMethod(NameOptions: int, QueryMethod: int) -> int:
    """*NameOptions* with another query method, likewise. IRQL: any."""
    return NameOptions & ~FLT_VALID_FILE_NAME_QUERY_METHODS | QueryMethod & FLT_VALID_FILE_NAME_QUERY_METHODS


def are_valid(options: object) -> bool:
    """Whether *options* are one format, one query method and known flags."""
    return (
        isinstance(options, int)
        and not options & ~(FLT_VALID_FILE_NAME_FORMATS | FLT_VALID_FILE_NAME_QUERY_METHODS | FLAGS)
        and FltGetFileNameFormat(options) in FORMATS
        and FltGetFileNameQueryMethod(options) in METHODS
    )
