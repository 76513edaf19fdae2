"""Sections for data scans (FLT-SCAN)."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.context_kit import CONTEXT, TAG
from fltmgr.kit import MIDDLE, UPPER, Lab, all_runs, codes, orders, run

from kemu.errors import UsageError
from kemu.io.constants import FILE_OVERWRITE, IRP_NOCACHE
from kemu.io.file_constants import (
    FSCTL_SET_ZERO_DATA,
    PAGE_READONLY,
    FileAllocationInformation,
    FileEndOfFileInformation,
)
from kemu.io.section import Section
from kemu.io.structures import (
    FILE_ALLOCATION_INFORMATION,
    FILE_END_OF_FILE_INFORMATION,
    FILE_ZERO_DATA_INFORMATION,
)
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_CONTEXT_REGISTRATION,
    FLT_RELATED_OBJECTS,
    FLT_SECTION_CONTEXT,
    FLT_STREAM_CONTEXT,
    FltAllocateContext,
    FltCloseSectionForDataScan,
    FltCreateSectionForDataScan,
    FltObjectDereference,
    FltObjectReference,
    FltRegisterForDataScan,
    FltReleaseContext,
)
from kemu.wdk.ntifs import MmMapViewInSystemSpace, MmUnmapViewInSystemSpace
from kemu.wdk.ntstatus import (
    STATUS_END_OF_FILE,
    STATUS_FLT_CONTEXT_ALREADY_DEFINED,
    STATUS_FLT_DELETING_OBJECT,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_INVALID_FILE_FOR_SECTION,
    STATUS_INVALID_PARAMETER,
    STATUS_NOT_FOUND,
    STATUS_SUCCESS,
    STATUS_USER_MAPPED_FILE,
)
from kemu.wdk.wdm import (
    IRP_MJ_ACQUIRE_FOR_SECTION_SYNCHRONIZATION,
    IRP_MJ_CLEANUP,
    IRP_MJ_FILE_SYSTEM_CONTROL,
    IRP_MJ_SET_INFORMATION,
    NonPagedPool,
)

OK = STATUS_SUCCESS
CACHED: dict[str, Any] = {"cached_io": True, "completion": "inline"}


class Scanner:
    """A filter that scans the file ``\\a`` through a section."""

    def __init__(self, lab: Lab, *, registers: bool = True, notified: bool = True, closes: bool = True) -> None:
        self.lab = lab
        self.name = "S"
        self.registers = registers
        self.is_notified = notified
        self.closes = closes
        self.context: Any = None
        self.instance: Any = None
        self.driver: Any = None
        self.created = False
        self.notes_cleanup = False

    async def load(self) -> None:
        callback = self.notified if self.is_notified else None
        self.driver = await self.lab.filter(
            self.name,
            MIDDLE if self.name == "S" else UPPER,
            {IRP_MJ_CLEANUP: (self.lab.pre("S", 1), None)},
            SectionNotificationCallback=callback,
            ContextRegistration=[
                FLT_CONTEXT_REGISTRATION(FLT_SECTION_CONTEXT, 0, self.cleanup, CONTEXT, TAG),
                FLT_CONTEXT_REGISTRATION(FLT_STREAM_CONTEXT, 0, None, CONTEXT, TAG),
                FLT_CONTEXT_REGISTRATION(),
            ],
        )
        self.instance = self.lab.instance(self.driver)
        self.context = await self.make()
        if self.registers:
            assert await FltRegisterForDataScan(self.instance) == OK

    async def cleanup(self, Context: Any, ContextType: int) -> None:
        if self.notes_cleanup:
            self.lab.note("cleanup")

    async def make(self, kind: int = FLT_SECTION_CONTEXT) -> Any:
        """A context, which the caller holds a reference on."""
        status, context = await FltAllocateContext(self.driver.filter, kind, CONTEXT, NonPagedPool)
        assert status == OK
        return context

    async def unload(self) -> None:
        """Release the context and unload the driver."""
        await FltReleaseContext(self.context)
        await self.driver.unload()

    async def notified(self, Instance: Any, SectionContext: Any, Data: FLT_CALLBACK_DATA) -> int:
        assert (Instance, SectionContext) == (self.instance, self.context)
        self.lab.note("conflict", (Data.Iopb.MajorFunction, self.created))
        if self.closes:
            await self.close("conflict")
        return OK

    async def create(self, file: Any, context: Any = None) -> tuple[int, Section | None, int]:
        status, handle, section, size = await FltCreateSectionForDataScan(
            self.instance, file.file, context or self.context, 0, None, None, PAGE_READONLY, 0, 0
        )
        assert handle is section
        self.created = True
        return status, section, size

    async def close(self, who: str = "scan") -> int:
        status = await FltCloseSectionForDataScan(self.context)
        self.lab.note(f"{who} closes", status)
        return status


async def scanning(lab: Lab, **options: Any) -> tuple[Scanner, Any, Any]:
    """A scanner, the file that it scans, and another open of it."""
    lab._decide(False)
    scanner = Scanner(lab, **options)
    await scanner.load()
    file, other = await lab.quiet_open(), await lab.quiet_open()
    lab._decide(True)
    return scanner, file, other


async def shorten(lab: Lab, file: Any, end: int = 2) -> int:
    """Make a file shorter."""
    given = FILE_END_OF_FILE_INFORMATION(end)
    sent = lab.request(
        file, IRP_MJ_SET_INFORMATION,
        FileInformationClass=FileEndOfFileInformation, InfoBuffer=given, Length=given.SIZE,
    )  # fmt: skip
    return (await lab.send(sent)).status


@pytest.mark.rule("FLT-SCAN-01")
def test_a_scan() -> None:
    async def script(lab: Lab) -> Any:
        scanner, file, _ = await scanning(lab)
        status, section, size = await scanner.create(file)
        assert section is not None
        _, view = await MmMapViewInSystemSpace(section, 0)
        assert view is not None
        data = await view.read(2, 3)
        given_back = await MmUnmapViewInSystemSpace(view), await MmUnmapViewInSystemSpace(view)
        too_much = await MmMapViewInSystemSpace(section, 100_000)
        await scanner.close()
        await scanner.unload()
        return status, size, data, given_back, too_much[1]

    one = run(script, **CACHED)
    assert one.code is None
    assert one.result == (OK, 10, (OK, b"234"), (OK, STATUS_INVALID_PARAMETER), None)


@pytest.mark.rule("FLT-SCAN-01")
@pytest.mark.parametrize(
    ("what", "status"),
    [
        ("unregistered", STATUS_INVALID_PARAMETER),
        ("twice", STATUS_FLT_CONTEXT_ALREADY_DEFINED),
        ("empty", STATUS_END_OF_FILE),
        ("directory", STATUS_INVALID_FILE_FOR_SECTION),
        ("detached", STATUS_FLT_DELETING_OBJECT),
        ("refused", STATUS_INSUFFICIENT_RESOURCES),
    ],
)
def test_why_there_is_no_section(what: str, status: int) -> None:
    async def script(lab: Lab) -> Any:
        detaches = None
        lab.file(r"\empty")
        lab.directory(r"\d")
        scanner, file, _ = await scanning(lab, registers=what != "unregistered")
        if what == "twice":
            await scanner.create(file)
        elif what == "empty":
            file = await lab.quiet_open(r"\empty")
        elif what == "directory":
            file = await lab.quiet_open(r"\d")
        elif what == "detached":
            # It is going away, and is kept by a reference until then.
            await FltObjectReference(scanner.instance)
            detaches = lab.start("detaches", scanner.driver.detach())
            await lab.sleep(1)
        elif what == "refused":

            async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
                Data.IoStatus.Status = STATUS_INSUFFICIENT_RESOURCES
                return 4

            await lab.filter("R", "1", {IRP_MJ_ACQUIRE_FOR_SECTION_SYNCHRONIZATION: (pre, None)})
        again = await scanner.make()
        status, section, _ = await scanner.create(file, again if what == "twice" else None)
        left = await FltCloseSectionForDataScan(again) if what == "twice" else await FltCloseSectionForDataScan(None)
        registered = await FltRegisterForDataScan(scanner.instance)
        if detaches is not None:
            await FltObjectDereference(scanner.instance)
            await detaches.join()
        return status, section, left, registered

    one = run(script, **CACHED)
    assert one.code is None
    registered = STATUS_FLT_DELETING_OBJECT if what == "detached" else OK
    assert one.result == (status, None, STATUS_INVALID_PARAMETER, registered)


def test_bad_input() -> None:
    async def null(lab: Lab) -> None:
        scanner, file, _ = await scanning(lab)
        await FltCreateSectionForDataScan(scanner.instance, file.file, None, 0, None, None, PAGE_READONLY, 0, 0)

    async def uncached(lab: Lab) -> None:
        await scanning(lab)

    assert run(null, **CACHED).code == "ke.bad-pointer"
    with pytest.raises(UsageError, match="cached_io=True"):
        run(uncached)


@pytest.mark.rule("FLT-SCAN-03")
@pytest.mark.parametrize("times", [0, 1, 2])
def test_a_section_is_closed_once(times: int) -> None:
    async def script(lab: Lab) -> Any:
        scanner, file, _ = await scanning(lab)
        await scanner.create(file)
        for _ in range(times):
            await scanner.close()
        await scanner.unload()

    assert run(script, **CACHED).code == {0: "section-leak", 1: None, 2: "section-double-close"}[times]


@pytest.mark.rule("FLT-SCAN-03")
def test_the_second_close_finds_nothing() -> None:
    """What it returns shows where the finding is not watched."""

    async def script(lab: Lab) -> Any:
        scanner, file, _ = await scanning(lab)
        await scanner.create(file)
        await scanner.close()
        lab.verifier.report = lambda *_, **__: None  # type: ignore[method-assign]
        return await scanner.close()

    assert run(script, **CACHED).result == STATUS_NOT_FOUND


@pytest.mark.rule("FLT-SCAN-02")
@pytest.mark.parametrize(
    ("what", "conflicts"),
    [
        ("shorter", True),
        ("longer", False),
        ("allocation", True),
        ("direct write", True),
        ("write", False),
        ("overwrite", True),
        ("open", False),
        ("zero", True),
    ],
)
def test_what_conflicts_with_a_section(what: str, conflicts: bool) -> None:
    async def script(lab: Lab) -> Any:
        scanner, file, other = await scanning(lab)
        await scanner.create(file)
        if what in {"shorter", "longer"}:
            await shorten(lab, other, 2 if what == "shorter" else 20)
        elif what == "allocation":
            given = FILE_ALLOCATION_INFORMATION(2)
            sent = lab.request(
                other, IRP_MJ_SET_INFORMATION,
                FileInformationClass=FileAllocationInformation, InfoBuffer=given, Length=given.SIZE,
            )  # fmt: skip
            await lab.send(sent)
        elif what == "direct write":
            await other.write(b"x", flags=IRP_NOCACHE)
        elif what == "write":
            await other.write(b"x")
        elif what == "zero":
            given = FILE_ZERO_DATA_INFORMATION(0, 2)
            sent = lab.request(other, IRP_MJ_FILE_SYSTEM_CONTROL, FsControlCode=FSCTL_SET_ZERO_DATA, InputBuffer=given)
            await lab.send(sent)
        else:
            await lab.app.create(r"\a", FILE_OVERWRITE if what == "overwrite" else 1)
            await lab.app.create(r"\a\b:", FILE_OVERWRITE)
            await lab.app.create(r"\none", FILE_OVERWRITE)
        if not conflicts:
            await scanner.close()

    one = run(script, **CACHED)
    assert one.code is None
    assert one.order == (["conflict", "conflict closes"] if conflicts else ["scan closes"])
    if conflicts:
        assert one.note("conflict").irql == 0


def test_without_a_callback_the_file_system_decides() -> None:
    async def script(lab: Lab) -> Any:
        scanner, file, other = await scanning(lab, notified=False)
        _, section, _ = await scanner.create(file)
        assert section is not None
        _, view = await MmMapViewInSystemSpace(section, 0)
        assert view is not None
        first = await shorten(lab, other)
        await MmUnmapViewInSystemSpace(view)
        second = await shorten(lab, other)
        await scanner.close()
        return first, second

    one = run(script, **CACHED)
    assert (one.code, one.result) == (None, (STATUS_USER_MAPPED_FILE, OK))


@pytest.mark.rule("FLT-SCAN-02")
def test_the_operation_waits_until_the_section_is_closed() -> None:
    async def script(lab: Lab) -> Any:
        scanner, file, other = await scanning(lab, closes=False)
        await scanner.create(file)

        async def truncates() -> int:
            status = await shorten(lab, other)
            lab.note("shorter")
            return status

        async def scans() -> None:
            lab.note("closing")
            await scanner.close()

        return (await lab.together(truncates(), scans()))[0]

    runs = all_runs(script, bound=2, **CACHED)
    assert codes(runs) == {None}
    assert {one.result for one in runs} == {OK}
    assert all(one.before("closing", "shorter") for one in runs)
    assert orders(runs) >= {("conflict", "closing", "scan closes", "shorter"), ("closing", "scan closes", "shorter")}


@pytest.mark.rule("FLT-SCAN-02", "FLT-RACE-65")
def test_the_conflict_may_be_told_before_the_section_is_there() -> None:
    async def script(lab: Lab) -> Any:
        scanner, file, other = await scanning(lab)

        async def scans() -> Any:
            await scanner.create(file)
            lab.note("created")

        async def truncates() -> int:
            return await shorten(lab, other)

        results = await lab.together(scans(), truncates())
        if "conflict" not in [note.what for note in lab.notes]:
            await scanner.close()
        return results

    runs = all_runs(script, bound=2, **CACHED)
    assert codes(runs) == {None}
    seen = orders(runs)
    assert ("created", "conflict", "conflict closes") in seen
    assert ("conflict", "conflict closes", "created") in seen
    assert ("created", "scan closes") in seen
    early = [one for one in runs if one.order[:1] == ["conflict"]]
    # Handle and object are not valid yet.
    assert {one.note("conflict").value[1] for one in early} == {False}


@pytest.mark.rule("FLT-RACE-65", "FLT-SCAN-03")
@pytest.mark.parametrize("careful", [True, False])
def test_conflict_and_scan_both_close_the_section(careful: bool) -> None:
    async def script(lab: Lab) -> Any:
        scanner, file, other = await scanning(lab, closes=not careful)
        await scanner.create(file)

        async def scans() -> None:
            await scanner.close()

        async def truncates() -> None:
            await shorten(lab, other)

        await lab.together(scans(), truncates())

    runs = all_runs(script, bound=2, **CACHED)
    assert codes(runs) == ({None} if careful else {None, "section-double-close"})
    if not careful:
        # Either is first, and raised exactly where both close it.
        assert {one.order[0] for one in runs} == {"conflict", "scan closes"}
        firsts = {one.order[1] for one in runs if one.order[0] == "conflict" and len(one.order) > 1}
        assert firsts == {"conflict closes", "scan closes"}
        for one in runs:
            assert (one.code is not None) == ("conflict" in one.order)


def test_a_scanner_that_is_detached_while_there_is_a_conflict() -> None:
    async def script(lab: Lab) -> Any:
        scanner, file, other = await scanning(lab)
        await scanner.create(file)

        async def truncates() -> None:
            await shorten(lab, other)

        async def detaches() -> None:
            await scanner.driver.detach()
            if "conflict" not in [note.what for note in lab.notes]:
                await scanner.close()

        await lab.together(truncates(), detaches())

    assert codes(all_runs(script, bound=1, **CACHED)) == {None}


# The context of a section.


@pytest.mark.rule("FLT-SCAN-01", "FLT-SCAN-03", "FLT-CTX-23")
@pytest.mark.parametrize("first", ["close", "release"])
def test_a_section_keeps_its_context_until_it_is_closed(first: str) -> None:
    async def script(lab: Lab) -> Any:
        scanner, file, _ = await scanning(lab)
        scanner.notes_cleanup = True
        await scanner.create(file)
        if first == "close":
            await scanner.close()
            await FltReleaseContext(scanner.context)
        else:
            await FltReleaseContext(scanner.context)
            await scanner.close()
        lab.note("over")
        await scanner.driver.unload()

    one = run(script, **CACHED)
    assert one.code is None
    assert one.order == (
        ["scan closes", "cleanup", "over"] if first == "close" else ["cleanup", "scan closes", "over"]
    )  # fmt: skip


@pytest.mark.rule("FLT-CTX-31")
def test_without_a_section_the_context_is_merely_released() -> None:
    async def script(lab: Lab) -> Any:
        lab.file(r"\empty")
        scanner, _, _ = await scanning(lab)
        scanner.notes_cleanup = True
        status, _, _ = await scanner.create(await lab.quiet_open(r"\empty"))
        await FltReleaseContext(scanner.context)
        lab.note("over")
        await scanner.driver.unload()
        return status

    one = run(script, **CACHED)
    assert (one.code, one.result) == (None, STATUS_END_OF_FILE)
    assert one.order == ["cleanup", "over"]


@pytest.mark.rule("FLT-CTX-11", "FLT-CTX-12", "FLT-SCAN-01")
@pytest.mark.parametrize("what", ["freed", "kind", "filter", "released twice"])
def test_which_context_a_section_takes(what: str) -> None:
    async def script(lab: Lab) -> Any:
        scanner, file, _ = await scanning(lab)
        context = scanner.context
        if what == "kind":
            context = await scanner.make(FLT_STREAM_CONTEXT)
        elif what == "filter":
            another = Scanner(lab)
            another.name = "T"
            await another.load()
            context = another.context
        elif what == "freed":
            await FltReleaseContext(context)
        status, _, _ = await scanner.create(file, context)
        if what == "released twice":
            await FltReleaseContext(context)
            await FltReleaseContext(context)
        return status

    one = run(script, **CACHED)
    assert one.code == {"freed": "ctx-use-after-release", "released twice": "ctx-over-release"}.get(what)
    if one.code is None:
        assert one.result == STATUS_INVALID_PARAMETER


@pytest.mark.rule("FLT-SCAN-03", "FLT-CTX-32")
@pytest.mark.parametrize("closes", [True, False])
def test_whether_section_or_context_is_left(closes: bool) -> None:
    async def script(lab: Lab) -> Any:
        scanner, file, _ = await scanning(lab)
        await scanner.create(file)
        if closes:
            await scanner.close()
        else:
            await FltReleaseContext(scanner.context)
        await scanner.driver.unload()

    assert run(script, **CACHED).code == ("ctx-leak" if closes else "section-leak")


@pytest.mark.rule("FLT-SCAN-02", "FLT-CTX-23")
def test_the_context_stays_while_a_conflict_is_told() -> None:
    """The scan may be over, and have let go of everything, before the callback has looked at the context."""

    async def script(lab: Lab) -> Any:
        scanner, file, other = await scanning(lab)
        scanner.notes_cleanup = True
        scanner.context.Count = 1

        async def told(Instance: Any, SectionContext: Any, Data: FLT_CALLBACK_DATA) -> int:
            lab.note("told")
            await lab.sleep(1)
            lab.note("looks", SectionContext.Count)
            return OK

        scanner.driver.filter.registration.SectionNotificationCallback = told
        await scanner.create(file)
        thread = lab.start("truncates", shorten(lab, other))
        await lab.sleep(0.5)
        await scanner.close()
        await FltReleaseContext(scanner.context)
        await thread.join()

    one = run(script, **CACHED)
    assert one.code is None
    assert one.order == ["told", "scan closes", "looks", "cleanup"]
