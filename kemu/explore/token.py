"""Replay tokens: a run in one line that survives e-mail, chat and a shell.

``KS1.<digest>.<payload>``: the version; the first 8 digits of the program's identity; base64url, without
padding, of a head byte and a body. The body holds the choices, trailing zeros dropped, as varints (7 bits a
byte, low bits first, the top bit set in all bytes but the last), compressed with zlib where that is shorter.
The lowest bit of the head tells whether it is; the other seven are a checksum of the uncompressed body, so
that a token that lost its tail in a copy is refused and not silently taken for another run.
"""

from __future__ import annotations

import binascii
import re
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Sequence
from typing import Final

from kemu.errors import TokenError

VERSION: Final = "KS1"
DIGEST_LENGTH: Final = 8

LONGEST_BODY: Final = 1 << 24
"""Bytes that a body may expand to. A run has at most some ten thousand decisions; this is against bombs."""

ASK_AGAIN: Final = "copy the whole token from the report, or find the failure again with kemu explore"


def trim(choices: Sequence[int]) -> tuple[int, ...]:
    """Drop the trailing zeros: a run goes on with 0 by itself."""
    length = len(choices)
    while length and choices[length - 1] == 0:
        length -= 1
    return tuple(choices[:length])


def encode(choices: Sequence[int], identity: str) -> str:
    """Write the run of *choices* as a token for the program of that *identity*."""
    body = _varints(trim(choices))
    packed = zlib.compress(body, 9)
    compressed = len(packed) < len(body)
    head = _checksum(body) << 1 | compressed
    payload = urlsafe_b64encode(bytes([head]) + (packed if compressed else body))
    return f"{VERSION}.{identity[:DIGEST_LENGTH]}.{payload.decode('ascii').rstrip('=')}"


def decode(token: str, identity: str | None = None) -> tuple[int, ...]:
    """Read the choices from *token*; with *identity*, only if it is of that program.

    Raises `TokenError` if the token is damaged, of another version, or was recorded with another program:
    another scenario, variant or parameter, or with other code.
    """
    parts = token.strip().split(".")
    if re.fullmatch(r"KS\d+", parts[0]) and parts[0] != VERSION:
        raise TokenError(
            f"the token {_short(token)} is of version {parts[0]}, and this kemu reads {VERSION}",
            remedy="replay it with the kemu that wrote it, or find the failure again with kemu explore",
        )
    if len(parts) != 3 or parts[0] != VERSION or not re.fullmatch(r"[0-9a-f]{8}", parts[1]):
        raise TokenError(
            f"{_short(token)} is not a replay token of the form {VERSION}.<digits>.<letters>",
            remedy=ASK_AGAIN,
        )
    choices = _payload(parts[2], token)
    if identity is not None and parts[1] != identity[:DIGEST_LENGTH]:
        raise TokenError(
            f"the token {_short(token)} was recorded with {parts[1]}, and this is {identity[:DIGEST_LENGTH]}:"
            " another scenario, variant or parameter, or code that has changed since",
            remedy="give the scenario and variant that it was recorded with, or find the failure again",
        )
    return choices


def _payload(payload: str, token: str) -> tuple[int, ...]:
    damaged = TokenError(f"the token {_short(token)} is damaged", remedy=ASK_AGAIN)
    if not re.fullmatch(r"[A-Za-z0-9_-]+", payload):
        raise damaged
    try:
        data = urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
        body = data[1:]
        if data[0] & 1:
            unpacker = zlib.decompressobj()
            body = unpacker.decompress(body, LONGEST_BODY)
            if not unpacker.eof or unpacker.unused_data:
                raise damaged
    except (binascii.Error, zlib.error):
        raise damaged from None
    if _checksum(body) != data[0] >> 1 or (body and body[-1] & 0x80):
        raise damaged
    return tuple(_numbers(body))


def _varints(numbers: Iterable[int]) -> bytes:
    out = bytearray()
    for number in numbers:
        rest = number
        while rest > 0x7F:
            out.append(rest & 0x7F | 0x80)
            rest >>= 7
        out.append(rest)
    return bytes(out)


def _numbers(body: bytes) -> Iterable[int]:
    value = shift = 0
    for byte in body:
        value |= (byte & 0x7F) << shift
        if byte & 0x80:
            shift += 7
        else:
            yield value
            value = shift = 0


def _checksum(body: bytes) -> int:
    return zlib.crc32(body) & 0x7F


def _short(token: str) -> str:
    text = token.strip()
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
