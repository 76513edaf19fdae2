"""Tokens: any run goes through one, in one short line; what is not a token of this program is refused."""

from __future__ import annotations

import zlib
from base64 import urlsafe_b64encode

import pytest
from explore.programs import steps_program
from hypothesis import given
from hypothesis import strategies as st

from kemu.errors import TokenError
from kemu.explore import PCT, decode, encode
from kemu.explore.token import trim

IDENTITY = "0123456789abcdef"


@given(st.lists(st.integers(0, 1 << 40) | st.integers(0, 3) | st.just(0)))
def test_round_trip(choices: list[int]) -> None:
    token = encode(choices, IDENTITY)
    assert decode(token, IDENTITY) == decode(token) == trim(choices)
    assert "=" not in token
    assert token.isascii()
    assert not set(token) & set(" '\"$&;|<>*?/\\")


@given(st.lists(st.integers(0, 3), max_size=50), st.integers(0, 5))
def test_trailing_zeros_are_dropped(choices: list[int], zeros: int) -> None:
    assert encode(choices, IDENTITY) == encode([*choices, *[0] * zeros], IDENTITY)


def test_format_is_fixed() -> None:
    # A token that was written down stays good: these may never change.
    assert encode([], IDENTITY) == "KS1.01234567.AA"
    # Varints 0, 1, 2, 300 = 00 01 02 ac 02; the head is the low seven bits of their CRC-32, doubled.
    head = (zlib.crc32(bytes([0, 1, 2, 0xAC, 2])) & 0x7F) << 1
    payload = urlsafe_b64encode(bytes([head, 0, 1, 2, 0xAC, 2])).decode().rstrip("=")
    assert encode([0, 1, 2, 300, 0], IDENTITY) == f"KS1.01234567.{payload}" == "KS1.01234567.vgABAqwC"


def test_long_runs_are_compressed() -> None:
    assert len(encode([0] * 5_000 + [1], IDENTITY)) < 60


@pytest.mark.parametrize("seed", range(20))
def test_a_thousand_decisions_of_pct_fit_in_160_characters(seed: int) -> None:
    program = steps_program(600, 600, 600)
    strategy = PCT(seed, horizon=1_000)
    tokens = 0
    while tokens < 3:
        strategy.begin()
        choices = program.run(strategy).choices
        # The last thread of the three goes on alone, without decisions.
        if len(choices) >= 1_000:
            assert len(encode(choices[:1_000], IDENTITY)) <= 160
            tokens += 1


def test_surrounding_space_is_ignored() -> None:
    assert decode(f"  {encode([1, 2], IDENTITY)}\n", IDENTITY) == (1, 2)


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("", "'' is not a replay token of the form KS1"),
        ("hello", "'hello' is not a replay token"),
        ("KS1.01234567", "is not a replay token"),
        ("KS1.0123456.AA", "is not a replay token"),
        ("KS1.0123456g.AA", "is not a replay token"),
        ("KS1.01234567.AA.AA", "is not a replay token"),
        ("KS2.01234567.AA", "is of version KS2, and this kemu reads KS1; replay it with the kemu that wrote it"),
        ("KS10.anything", "is of version KS10"),
        ("KS1.89abcdef.AA", "was recorded with 89abcdef, and this is 01234567: another scenario, variant or parameter"),
        ("KS1.01234567.", "is damaged; copy the whole token"),
        ("KS1.01234567.A", "is damaged"),
        ("KS1.01234567.A$", "is damaged"),
        ("KS1.01234567.Aé", "is damaged"),
        ("KS1.01234567.AQ", "is damaged"),
        ("KS1.01234567.Ag", "is damaged"),
    ],
)
def test_bad_tokens(token: str, message: str) -> None:
    with pytest.raises(TokenError, match=message):
        decode(token, IDENTITY)


def test_a_token_that_lost_its_tail_is_refused() -> None:
    # Without a checksum every beginning of an uncompressed token would be another run.
    token = encode([1, 2, 0, 3, 0, 1, 2, 1, 1, 3, 2, 1], IDENTITY)
    for length in range(len("KS1.01234567."), len(token)):
        with pytest.raises(TokenError, match="damaged"):
            decode(token[:length], IDENTITY)


def test_hardly_any_typing_mistake_goes_unnoticed() -> None:
    # Seven bits: one in 128 on average.
    token = encode([1, 2, 0, 3, 0, 1, 2, 1, 1, 3, 2, 1], IDENTITY)
    start = len("KS1.01234567.")
    tried = unnoticed = 0
    for at in range(start, len(token)):
        for letter in "ABCdef123_-":
            if token[at] != letter:
                tried += 1
                try:
                    decode(f"{token[:at]}{letter}{token[at + 1 :]}", IDENTITY)
                    unnoticed += 1
                except TokenError:
                    pass
    assert tried > 100
    assert unnoticed <= tried / 40


def test_a_truncated_or_lengthened_compressed_token_is_refused() -> None:
    body = bytes([0] * 500 + [1])
    packed = zlib.compress(body)
    head = bytes([(zlib.crc32(body) & 0x7F) << 1 | 1])
    for data in (head + packed[:-2], head + packed + b"x", head + b"no zlib"):
        payload = urlsafe_b64encode(data).decode().rstrip("=")
        with pytest.raises(TokenError, match="damaged"):
            decode(f"KS1.01234567.{payload}", IDENTITY)


def test_an_endless_token_is_refused() -> None:
    # 40 MB of zeros in 40 kB: refused at 16 MB, before its checksum is looked at.
    payload = urlsafe_b64encode(b"\1" + zlib.compress(bytes(40 << 20), 9)).decode().rstrip("=")
    with pytest.raises(TokenError, match="damaged"):
        decode(f"KS1.01234567.{payload}", IDENTITY)
