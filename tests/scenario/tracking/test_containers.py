"""Containers that record: every method is accounted for, and what they are instances of."""

from __future__ import annotations

from typing import Any

import pytest
from scenario.tracking.kit import Files, accept_everything, once, recorded

from kemu.scenario.tracking.containers import READING, RECORDED, Frozen, Set, adopted, is_store

STORES = {
    "list": "__delitem__ __iadd__ __imul__ __setitem__ append clear extend insert pop remove reverse sort",
    "dict": "__delitem__ __ior__ __setitem__ clear pop popitem setdefault update",
    "set": "__iand__ __ior__ __isub__ __ixor__ add clear difference_update discard intersection_update pop remove"
    " symmetric_difference_update update",
    "deque": "__delitem__ __iadd__ __imul__ __setitem__ append appendleft clear extend extendleft insert pop popleft"
    " remove reverse rotate",
    "bytearray": "__delitem__ __iadd__ __imul__ __setitem__ append clear extend insert pop remove reverse",
}
"""The methods that change a container, derived by hand from the language reference."""


@pytest.mark.parametrize(
    "standard", [kind for kind in RECORDED if kind.__name__ in STORES], ids=lambda kind: kind.__name__
)
def test_the_methods_that_change_a_container_are_stores(standard: Any) -> None:
    own: dict[str, Any] = RECORDED[standard].__dict__
    methods = {name for name in own if callable(getattr(standard, name, None))}
    bookkeeping = {"__new__", "__reduce_ex__", "__doc__", "__module__", "__class__", "__hash__"}
    assert {name for name in methods - bookkeeping if is_store(name)} == set(STORES[standard.__name__].split())


@pytest.mark.parametrize("standard", RECORDED, ids=lambda kind: kind.__name__)
def test_plain_containers_pass_for_the_ones_that_record(standard: Any) -> None:
    recorded_kind = RECORDED[standard]
    plain, other = standard(), recorded_kind()
    assert isinstance(plain, recorded_kind)
    assert isinstance(other, standard)
    assert isinstance(other, recorded_kind)
    assert not isinstance(1, recorded_kind)
    assert issubclass(standard, recorded_kind)
    assert issubclass(recorded_kind, standard)
    assert not issubclass(int, recorded_kind)

    class Derived(recorded_kind):  # type: ignore[misc, valid-type]
        pass

    assert not isinstance(other, Derived)
    assert not issubclass(standard, Derived)
    assert recorded_kind.__name__ == standard.__name__


def test_what_c_code_makes_is_adopted() -> None:
    class Derived(Set):  # type: ignore[misc]
        pass

    made = Derived([1]).copy()
    assert type(made) is Set
    assert adopted(made) is made
    assert type(adopted({1})) is Set
    assert adopted(7) == 7


def test_views_of_dictionaries(files: Files) -> None:
    body = """
    d = {1: "a", 2: "b"}
    return (
        list(reversed(d.keys())), list(reversed(d.values())), list(reversed(d.items())),
        repr(d.values()), sorted(d.items() | {(3, "c")}),
        type(d.keys() - {1}) is set, d.keys() == {1, 2}, "a" in d.values(),
    )
    """
    plain, tracked = files.script(body), files.script(body, tracked=True)
    assert repr(once(plain).result) == repr(once(tracked).result)
    assert "R d" in recorded(tracked)


def test_frozen_sets_look_into_sets() -> None:
    found = Frozen([1, 2]) - Set([2])
    assert (found, type(found), repr(found)) == (frozenset([1]), Frozen, "frozenset({1})")
    assert hash(found) == hash(frozenset([1]))
    assert Frozen([1]).isdisjoint(Set([2]))


def test_globals_that_are_not_there(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    accept_everything(monkeypatch)
    before = """
    HERE = 1
    def gone():
        global GONE
        GONE += 1
    def drop():
        global GONE
        del GONE
    def here():
        global HERE
        del HERE
        return HERE
    """
    body = """
    found = []
    for function in (gone, drop, here):
        try:
            function()
        except NameError as error:
            found.append((str(error), error.name))
    return found
    """
    plain, tracked = files.script(body, before), files.script(body, before, tracked=True)
    assert once(plain).result == once(tracked).result


def test_a_container_from_an_earlier_run_is_nobodys(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    accept_everything(monkeypatch)
    program = files.script("KEPT.append([1])\nKEPT[0].append(2)\n", "KEPT = []", tracked=True)
    assert "W list of line" in " ".join(recorded(program))
    assert "W an object whose creation was not seen" in recorded(program)


def test_no_method_is_in_both_tables() -> None:
    assert not READING & set(" ".join(STORES.values()).split())
