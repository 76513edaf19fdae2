"""Callback objects: registering, notifying, unregistering while a call runs."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import Lab, all_runs, codes, run

from kemu.nt.kthread import DISPATCH_LEVEL, current_kthread
from kemu.wdk.ntstatus import STATUS_OBJECT_NAME_NOT_FOUND, STATUS_SUCCESS, STATUS_UNSUCCESSFUL
from kemu.wdk.wdm import (
    CALLBACK_OBJECT,
    DRIVER_OBJECT,
    OBJ_PERMANENT,
    Driver,
    ExCreateCallback,
    ExNotifyCallback,
    ExRegisterCallback,
    ExUnregisterCallback,
    InitializeObjectAttributes,
    KeGetCurrentIrql,
)

NAME = "\\Callback\\Scanner"


async def opened(multiple: bool = True) -> CALLBACK_OBJECT:
    status, found = await ExCreateCallback(InitializeObjectAttributes(NAME, OBJ_PERMANENT), True, multiple)
    assert status == STATUS_SUCCESS
    assert found is not None
    return found


@pytest.mark.rule("KE-EXCB-01")
def test_routines_are_called_in_the_order_of_registration_at_the_callers_irql() -> None:
    async def script(lab: Lab) -> None:
        async def note(context: Any, first: Any, second: Any) -> None:
            lab.note(f"{context} {first} {second} {KeGetCurrentIrql()}")

        found = await opened()
        await ExRegisterCallback(found, note, "one")
        await ExRegisterCallback(found, note, "two")
        current_kthread().irql = DISPATCH_LEVEL
        await ExNotifyCallback(found, "a", "b")
        current_kthread().irql = 0

    assert run(script).order == ["one a b 2", "two a b 2"]


@pytest.mark.rule("KE-RACE-18")
def test_a_routine_may_be_called_before_its_registration_is_stored() -> None:
    async def script(lab: Lab) -> None:
        stored: list[Any] = []
        found = await opened()

        async def routine(context: Any, first: Any, second: Any) -> None:
            lab.note("called", bool(stored))

        async def registers() -> None:
            stored.append(await ExRegisterCallback(found, routine, None))

        async def notifies() -> None:
            await ExNotifyCallback(found, None, None)

        await lab.together(registers(), notifies())

    seen = {tuple(note.value for note in one.notes) for one in all_runs(script)}
    assert seen == {(), (False,), (True,)}


@pytest.mark.rule("KE-EXCB-01")
def test_registering_fails_with_null_where_one_routine_is_all_and_where_resources_are_low() -> None:
    async def routine(context: Any, first: Any, second: Any) -> None: ...

    async def script(lab: Lab) -> list[bool]:
        found = await opened(multiple=False)
        return [await ExRegisterCallback(found, routine, None) is None for _ in range(2)]

    assert run(script).result == [False, True]
    assert {tuple(one.result) for one in all_runs(script, low_resources=True)} == {
        (False, True), (True, False), (True, True)}  # fmt: skip


def test_an_object_is_found_by_its_name_whatever_the_case() -> None:
    async def script(lab: Lab) -> list[Any]:
        made = await opened()
        again = await ExCreateCallback(InitializeObjectAttributes(NAME.upper(), 0), False, False)
        missing = await ExCreateCallback(InitializeObjectAttributes("\\Callback\\Other", 0), False, False)
        nameless = await ExCreateCallback(InitializeObjectAttributes(None, 0), True, True)
        return [again == (STATUS_SUCCESS, made), missing, nameless]

    assert run(script).result == [True, (STATUS_OBJECT_NAME_NOT_FOUND, None), (STATUS_UNSUCCESSFUL, None)]


@pytest.mark.rule("KE-EXCB-02", "KE-ORD-05")
def test_unregistering_waits_for_a_running_call_and_none_begins_afterwards() -> None:
    async def script(lab: Lab) -> None:
        async def routine(context: Any, first: Any, second: Any) -> None:
            lab.note("begin")
            await lab.step("work")
            lab.note("end")

        found = await opened()
        registration = await ExRegisterCallback(found, routine, None)
        assert registration is not None

        async def notifier() -> None:
            await ExNotifyCallback(found, None, None)

        async def leaver() -> None:
            await ExUnregisterCallback(registration)
            lab.note("gone")

        await lab.together(notifier(), leaver())

    runs = all_runs(script)
    assert codes(runs) == {None}
    assert {tuple(one.order) for one in runs} == {("begin", "end", "gone"), ("gone",)}


@pytest.mark.rule("KE-EXCB-02")
def test_unregistering_from_inside_waits_for_itself() -> None:
    async def script(lab: Lab) -> None:
        async def routine(context: Any, first: Any, second: Any) -> None:
            await ExUnregisterCallback(registration)  # type: ignore[arg-type]

        found = await opened()
        registration = await ExRegisterCallback(found, routine, None)
        assert registration is not None
        await ExNotifyCallback(found, None, None)

    assert run(script).code == "ke.self-deadlock"


@pytest.mark.rule("KE-EXCB-02")
def test_a_registration_is_undone_once() -> None:
    async def script(lab: Lab) -> None:
        async def routine(context: Any, first: Any, second: Any) -> None: ...

        found = await opened()
        registration = await ExRegisterCallback(found, routine, None)
        assert registration is not None
        await ExUnregisterCallback(registration)
        await ExUnregisterCallback(registration)

    assert run(script).code == "ke.callback-twice"


@pytest.mark.parametrize("leaves", [True, False])
def test_a_registration_of_an_unloaded_driver_is_left_over(leaves: bool) -> None:
    class Listener(Driver):
        async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
            registration = await ExRegisterCallback(await opened(), self.Notified, None)
            await ExNotifyCallback(registration.object, 1, 2)  # type: ignore[union-attr]
            if not leaves:
                await ExUnregisterCallback(registration)  # type: ignore[arg-type]
            return STATUS_SUCCESS

        async def Notified(self, CallbackContext: Any, Argument1: Any, Argument2: Any) -> None:
            assert (Argument1, Argument2) == (1, 2)

    async def script(lab: Lab) -> list[str]:
        loaded = await lab.load(Listener, "100000")
        left = lab.system.left_by(loaded.driver_object.actor)
        return [one.code for one in left]

    # The reference that opening the object took is left, too.
    assert run(script).result == (["ob.ref-leak", "ke.callback-left"] if leaves else ["ob.ref-leak"])
