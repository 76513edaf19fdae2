"""Name providers: who is asked for a name, in which order, and what they may do (FLT-NAME-16, FLT-NAME-17)."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import LOWER, MIDDLE, UPPER, Lab, Run, all_runs, run

from kemu.io.file_constants import FileRenameInformation
from kemu.io.structures import FILE_RENAME_INFORMATION
from kemu.nt.kthread import current_kthread
from kemu.wdk.fltkernel import (
    FLT_CALLBACK_DATA,
    FLT_FILE_NAME_DO_NOT_CACHE,
    FLT_FILE_NAME_NORMALIZED,
    FLT_FILE_NAME_OPENED,
    FLT_FILE_NAME_QUERY_CACHE_ONLY,
    FLT_FILE_NAME_QUERY_DEFAULT,
    FLT_FILE_NAME_REQUEST_FROM_CURRENT_PROVIDER,
    FLT_NAME_CONTROL,
    FLT_PREOP_SUCCESS_NO_CALLBACK,
    FLT_REGISTRATION,
    FLT_RELATED_OBJECTS,
    FLTFL_NORMALIZE_NAME_DESTINATION_FILE_NAME,
    FltCheckAndGrowNameControl,
    FltGetDestinationFileNameInformation,
    FltGetFileNameFormat,
    FltGetFileNameInformation,
    FltGetFileNameInformationUnsafe,
    FltPurgeFileNameInformationCache,
    FltRegisterFilter,
    FltReleaseFileNameInformation,
)
from kemu.wdk.ntstatus import (
    STATUS_ACCESS_DENIED,
    STATUS_FLT_NAME_CACHE_MISS,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_INVALID_PARAMETER,
    STATUS_NO_SUCH_FILE,
    STATUS_NOT_SUPPORTED,
    STATUS_SUCCESS,
)
from kemu.wdk.wdm import (
    APC_LEVEL,
    DRIVER_OBJECT,
    IRP_MJ_READ,
    IRP_MJ_SET_INFORMATION,
    PASSIVE_LEVEL,
    POOL_FLAG_PAGED,
    UNICODE_STRING,
    Driver,
    ExAllocatePool2,
    RtlCopyUnicodeString,
    RtlInitUnicodeString,
)

NORMALISED = FLT_FILE_NAME_NORMALIZED | FLT_FILE_NAME_QUERY_DEFAULT
OPENED = FLT_FILE_NAME_OPENED | FLT_FILE_NAME_QUERY_DEFAULT
CACHED = FLT_FILE_NAME_NORMALIZED | FLT_FILE_NAME_QUERY_CACHE_ONLY
C = r"\Device\HarddiskVolume1"


class Provider:
    """A name provider that puts ``\\virtual`` before each name."""

    def __init__(self, lab: Lab, name: str = "P", *, normalises: bool = True, caches: bool = True) -> None:
        self.lab = lab
        self.name = name
        self.normalises = normalises
        self.caches = caches
        self.fails: Any = None

    async def load(self, altitude: str = LOWER, **callbacks: Any) -> Any:
        callbacks.setdefault("NormalizeNameComponentExCallback", self.NormalizeEx)
        return await self.lab.filter(self.name, altitude, {}, GenerateFileNameCallback=self.Generate, **callbacks)

    async def Generate(
        self, Instance: Any, FileObject: Any, Data: Any, Options: int, FileName: FLT_NAME_CONTROL
    ) -> Any:
        format_ = FltGetFileNameFormat(Options)
        self.lab.note(f"{self.name}.generate", (format_, Data is not None))
        if self.fails is not None:
            return self.fails
        if format_ == FLT_FILE_NAME_NORMALIZED and not self.normalises:
            return STATUS_NOT_SUPPORTED
        # Not itself again, if it was asked by itself.
        options = Options & ~FLT_FILE_NAME_REQUEST_FROM_CURRENT_PROVIDER | FLT_FILE_NAME_DO_NOT_CACHE
        status, info = await FltGetFileNameInformationUnsafe(FileObject, Instance, options)
        if info is None:
            return status
        name = UNICODE_STRING()
        RtlInitUnicodeString(name, str(info.Volume) + r"\virtual" + str(info.Name)[len(str(info.Volume)) :])
        status = FltCheckAndGrowNameControl(FileName, name.Length)
        RtlCopyUnicodeString(FileName.Name, name)
        await FltReleaseFileNameInformation(info)
        return status, self.caches

    async def NormalizeEx(self, Instance: Any, FileObject: Any, *rest: Any) -> Any:
        return await self.normalise("ex", *rest)

    async def Normalize(self, Instance: Any, *rest: Any) -> Any:
        return await self.normalise("plain", *rest)

    async def normalise(
        self,
        which: str,
        Parent: Any,
        VolumeLength: int,
        Component: Any,
        Expand: Any,
        Length: int,
        Flags: int,
        Context: Any,
    ) -> Any:
        self.lab.note(f"{self.name}.{which}", (str(Parent), VolumeLength, str(Component), Flags, Context))
        if str(Component) == "missing":
            return STATUS_NO_SUCH_FILE
        if str(Component) == "denied":
            return STATUS_ACCESS_DENIED
        Expand.FileName = str(Component).capitalize()
        return STATUS_SUCCESS, (Context or 0) + 1

    async def Cleanup(self, Context: Any) -> None:
        self.lab.note(f"{self.name}.cleanup", Context)


async def asker(lab: Lab, *options: int, altitude: str = UPPER, name: str = "A") -> None:
    async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
        for one in options:
            status, info = await FltGetFileNameInformation(Data, one)
            lab.note(name, status if info is None else str(info.Name))
            if info is not None:
                await FltReleaseFileNameInformation(info)
        return FLT_PREOP_SUCCESS_NO_CALLBACK

    await lab.filter(name, altitude, {IRP_MJ_READ: (pre, None)})


def values(one: Run, what: str) -> list[Any]:
    return [note.value for note in one.notes if note.what == what]


@pytest.mark.rule("FLT-NAME-16")
def test_who_is_above_a_provider_sees_its_names_and_who_is_below_does_not() -> None:
    async def script(lab: Lab) -> None:
        await Provider(lab).load(MIDDLE)
        await asker(lab, NORMALISED, OPENED)
        await asker(lab, NORMALISED, altitude=LOWER, name="B")
        await (await lab.open()).read(1)

    one = run(script)
    assert values(one, "A") == [rf"{C}\virtual\a"] * 2
    assert values(one, "B") == [rf"{C}\a"]
    assert values(one, "P.generate") == [(FLT_FILE_NAME_NORMALIZED, True), (FLT_FILE_NAME_OPENED, True)]
    assert {note.irql for note in one.notes} == {PASSIVE_LEVEL}


@pytest.mark.rule("FLT-NAME-16")
def test_the_highest_provider_below_is_asked_and_asks_the_next() -> None:
    async def script(lab: Lab) -> None:
        await Provider(lab, "P").load(MIDDLE)
        await Provider(lab, "Q").load(LOWER)
        await asker(lab, NORMALISED)
        await (await lab.open()).read(1)

    one = run(script)
    assert values(one, "A") == [rf"{C}\virtual\virtual\a"]
    assert one.order == ["P.generate", "Q.generate", "A"]


def test_a_provider_may_ask_itself() -> None:
    async def script(lab: Lab) -> Any:
        driver = await Provider(lab).load()
        file, instance = await lab.open(), lab.instance(driver)
        told: list[str] = []
        for more in (0, FLT_FILE_NAME_REQUEST_FROM_CURRENT_PROVIDER):
            _, info = await FltGetFileNameInformationUnsafe(file.file, instance, NORMALISED | more)
            assert info is not None
            told.append(str(info.Name))
            await FltReleaseFileNameInformation(info)
        return told

    one = run(script)
    assert one.result == [rf"{C}\a", rf"{C}\virtual\a"]
    # No operation is behind the query.
    assert values(one, "P.generate") == [(FLT_FILE_NAME_NORMALIZED, False)]


@pytest.mark.rule("FLT-NAME-16")
def test_a_provider_that_cannot_normalise_is_asked_for_the_opened_name_and_its_parts() -> None:
    async def script(lab: Lab) -> None:
        lab.file(r"\dir\file")
        provider = Provider(lab, normalises=False)
        await provider.load(NormalizeContextCleanupCallback=provider.Cleanup)
        await asker(lab, NORMALISED)
        await (await lab.open(r"\dir\file:s")).read(1)

    one = run(script)
    assert values(one, "A") == [rf"{C}\Virtual\Dir\File:s"]
    assert values(one, "P.generate") == [(FLT_FILE_NAME_NORMALIZED, True), (FLT_FILE_NAME_OPENED, True)]
    length = 2 * len(C)
    assert values(one, "P.ex") == [
        (f"{C}\\", length, "virtual", 0, None),
        (f"{C}\\Virtual\\", length, "dir", 0, 1),
        (f"{C}\\Virtual\\Dir\\", length, "file", 0, 2),
    ]
    assert values(one, "P.cleanup") == [3]
    assert {note.irql for note in one.notes} == {PASSIVE_LEVEL}


@pytest.mark.rule("FLT-REG-23")
@pytest.mark.parametrize("which", ["plain", "ex", "both"])
def test_of_two_normalising_callbacks_the_extended_one_is_called(which: str) -> None:
    async def script(lab: Lab) -> None:
        provider = Provider(lab, normalises=False)
        await provider.load(
            NormalizeNameComponentCallback=provider.Normalize if which != "ex" else None,
            NormalizeNameComponentExCallback=provider.NormalizeEx if which != "plain" else None,
        )
        await asker(lab, NORMALISED)
        await (await lab.open()).read(1)

    one = run(script)
    assert values(one, "A") == [rf"{C}\Virtual\A"]
    assert ("P.plain" in one.order, "P.ex" in one.order) == (which == "plain", which != "plain")


@pytest.mark.rule("FLT-REG-23")
def test_a_provider_has_to_be_able_to_normalise() -> None:
    class Half(Driver):
        async def DriverEntry(self, DriverObject: DRIVER_OBJECT, RegistryPath: str) -> int:
            provider = Provider(lab_of[0])
            status, _ = await FltRegisterFilter(
                DriverObject, FLT_REGISTRATION(GenerateFileNameCallback=provider.Generate)
            )
            return status

    lab_of: list[Lab] = []

    async def script(lab: Lab) -> Any:
        lab_of.append(lab)
        return (await lab.load(Half(), LOWER)).status

    assert run(script).result == STATUS_INVALID_PARAMETER


@pytest.mark.parametrize(
    ("path", "told"), [(r"\missing", r"\Virtual\missing"), (r"\missing\denied", None), (r"\denied", None)]
)
def test_the_final_component_need_not_exist(path: str, told: str | None) -> None:
    async def script(lab: Lab) -> None:
        lab.file(path)
        await Provider(lab, normalises=False).load()
        await asker(lab, NORMALISED)
        await (await lab.open(path)).read(1)

    refused = STATUS_NO_SUCH_FILE if path != r"\denied" else STATUS_ACCESS_DENIED
    assert values(run(script), "A") == [refused if told is None else C + told]


def test_a_provider_that_fails_for_good_fails_the_query() -> None:
    async def script(lab: Lab) -> None:
        provider = Provider(lab)
        provider.fails = STATUS_ACCESS_DENIED
        await provider.load()
        await asker(lab, NORMALISED, OPENED)
        await (await lab.open()).read(1)

    assert values(run(script), "A") == [STATUS_ACCESS_DENIED] * 2


@pytest.mark.parametrize("caches", [True, False])
def test_a_cached_name_is_not_asked_for_again_until_it_is_purged(caches: bool) -> None:
    async def script(lab: Lab) -> None:
        driver = await Provider(lab, caches=caches).load()
        await asker(lab, CACHED, NORMALISED, CACHED, NORMALISED)
        file = await lab.open()
        await file.read(1)
        await FltPurgeFileNameInformationCache(lab.instance(driver), file.file)
        await file.read(1)

    one = run(script)
    miss, name = STATUS_FLT_NAME_CACHE_MISS, rf"{C}\virtual\a"
    assert values(one, "A") == [miss, name, name if caches else miss, name] * 2
    assert len(values(one, "P.generate")) == (2 if caches else 4)


def test_a_purge_of_all_names_of_a_provider_leaves_other_names_alone() -> None:
    async def script(lab: Lab) -> None:
        driver = await Provider(lab).load(MIDDLE)
        await asker(lab, NORMALISED, CACHED)
        await asker(lab, CACHED, NORMALISED, altitude=LOWER, name="B")
        file = await lab.open()
        await file.read(1)
        await FltPurgeFileNameInformationCache(lab.instance(driver), None)
        lab.note("purged")
        await file.read(1)

    one = run(script)
    assert len(values(one, "P.generate")) == 2
    assert values(one, "B") == [STATUS_FLT_NAME_CACHE_MISS, *[rf"{C}\a"] * 3]


def test_a_purge_of_one_file_leaves_the_names_of_others() -> None:
    async def script(lab: Lab) -> None:
        driver = await Provider(lab).load()
        await asker(lab, CACHED, NORMALISED)
        lab.file(r"\b")
        one, other = await lab.open(), await lab.open(r"\b")
        await one.read(1)
        await other.read(1)
        await FltPurgeFileNameInformationCache(lab.instance(driver), one.file)
        await one.read(1)
        await other.read(1)

    a, b, miss = rf"{C}\virtual\a", rf"{C}\virtual\b", STATUS_FLT_NAME_CACHE_MISS
    assert values(run(script), "A") == [miss, a, miss, b, miss, a, b, b]


def test_a_purge_and_a_query_at_the_same_time() -> None:
    async def script(lab: Lab) -> list[Any]:
        instance = lab.instance(await Provider(lab).load(LOWER))
        above = lab.instance(await lab.recorder("A", UPPER))
        file = (await lab.quiet_open()).file

        async def query(options: int) -> Any:
            status, info = await FltGetFileNameInformationUnsafe(file, above, options)
            if info is not None:
                await FltReleaseFileNameInformation(info)
            return status

        await query(NORMALISED)
        return await lab.together(query(CACHED), FltPurgeFileNameInformationCache(instance, None))

    assert {one.result[0] for one in all_runs(script)} == {STATUS_SUCCESS, STATUS_FLT_NAME_CACHE_MISS}


def test_a_purge_of_all_names_comes_before_or_after_each_that_is_cached() -> None:
    async def script(lab: Lab) -> list[Any]:
        instance = lab.instance(await Provider(lab).load(LOWER))
        above = lab.instance(await lab.recorder("A", UPPER))
        file = (await lab.quiet_open()).file

        async def twice() -> Any:
            for options in (NORMALISED, CACHED):
                status, info = await FltGetFileNameInformationUnsafe(file, above, options)
                if info is not None:
                    await FltReleaseFileNameInformation(info)
            return status

        return await lab.together(FltPurgeFileNameInformationCache(instance, None), twice())

    assert {one.result[1] for one in all_runs(script)} == {STATUS_SUCCESS, STATUS_FLT_NAME_CACHE_MISS}


def test_a_provider_that_is_being_torn_down_is_not_asked() -> None:
    async def script(lab: Lab) -> Any:
        told: list[str] = []

        async def start(FltObjects: FLT_RELATED_OBJECTS, Reason: int) -> None:
            _, info = await FltGetFileNameInformationUnsafe(file.file, above, NORMALISED)
            assert info is not None
            told.append(str(info.Name))
            await FltReleaseFileNameInformation(info)

        driver = await Provider(lab).load(LOWER, InstanceTeardownStartCallback=start)
        above = lab.instance(await lab.recorder("A", UPPER))
        file = await lab.open()
        await driver.detach()
        return told

    assert run(script).result == [rf"{C}\a"]


def test_destinations_are_normalised_by_providers_too() -> None:
    async def script(lab: Lab) -> None:
        async def pre(Data: FLT_CALLBACK_DATA, FltObjects: FLT_RELATED_OBJECTS) -> int:
            file = FltObjects.FileObject
            assert file is not None
            for name in ("new", "denied"):
                status, info = await FltGetDestinationFileNameInformation(
                    FltObjects.Instance, file, None, name, 2 * len(name), NORMALISED
                )
                lab.note("A", status if info is None else str(info.Name))
                if info is not None:
                    await FltReleaseFileNameInformation(info)
            return FLT_PREOP_SUCCESS_NO_CALLBACK

        await lab.filter("A", UPPER, {IRP_MJ_SET_INFORMATION: (pre, None)})
        await Provider(lab).load()
        file = await lab.open()
        given = FILE_RENAME_INFORMATION("new")
        parameters: dict[str, Any] = {
            "FileInformationClass": FileRenameInformation,
            "Length": given.SIZE,
            "InfoBuffer": given,
        }
        await lab.send(lab.request(file, IRP_MJ_SET_INFORMATION, **parameters))

    one = run(script)
    assert values(one, "A") == [rf"{C}\New", STATUS_ACCESS_DENIED]
    assert {value[3] for value in values(one, "P.ex")} == {FLTFL_NORMALIZE_NAME_DESTINATION_FILE_NAME}


# Name controls.


def with_control(work: Any, **options: Any) -> Run:
    async def script(lab: Lab) -> None:
        async def generate(Instance: Any, FileObject: Any, Data: Any, Options: int, FileName: Any) -> int:
            return await work(lab, FileName)

        provider = Provider(lab)
        provider.Generate = generate  # type: ignore[method-assign]
        file = await lab.quiet_open()
        await provider.load()
        await asker(lab, OPENED)
        await file.read(1)

    return run(script, **options)


@pytest.mark.rule("FLT-NAME-17")
@pytest.mark.parametrize("how", ["grow", "Buffer", "MaximumLength", "initialise"])
def test_the_buffer_of_a_name_control_is_the_filter_managers(how: str) -> None:
    async def work(lab: Lab, FileName: Any) -> int:
        if how == "grow":
            assert FltCheckAndGrowNameControl(FileName, 1000) == STATUS_SUCCESS
            assert FileName.Name.MaximumLength == 1000
            assert FltCheckAndGrowNameControl(FileName, 10) == STATUS_SUCCESS
            assert FileName.Name.MaximumLength == 1000
        elif how == "Buffer":
            FileName.Name.Buffer = await ExAllocatePool2(POOL_FLAG_PAGED, 1000, "name")
        elif how == "MaximumLength":
            FileName.Name.MaximumLength = 1000
        else:
            RtlInitUnicodeString(FileName.Name, C + r"\x")
        return STATUS_SUCCESS

    assert with_control(work).code == (None if how == "grow" else "namectrl-buffer-replaced")


def test_what_is_in_a_name_control_stays_when_it_grows() -> None:
    async def work(lab: Lab, FileName: Any) -> int:
        name = UNICODE_STRING()
        RtlInitUnicodeString(name, "x" * 100)
        RtlCopyUnicodeString(FileName.Name, name)
        before = str(FileName.Name)
        FltCheckAndGrowNameControl(FileName, 100)
        lab.note("names", (len(before), str(FileName.Name) == before))
        return STATUS_SUCCESS

    assert values(with_control(work), "names") == [(32, True)]


def test_growing_may_fail_and_takes_a_name_control() -> None:
    async def work(lab: Lab, FileName: Any) -> int:
        return FltCheckAndGrowNameControl(FileName, 1000)

    async def script(lab: Lab) -> None:
        async def generate(Instance: Any, FileObject: Any, Data: Any, Options: int, FileName: Any) -> int:
            return await work(lab, FileName)

        provider = Provider(lab)
        provider.Generate = generate  # type: ignore[method-assign]
        file = await lab.quiet_open()
        await provider.load()
        await asker(lab, OPENED)
        await file.read(1)

    told = {tuple(values(one, "A")) for one in all_runs(script, low_resources=True)}
    assert told == {("",), (STATUS_INSUFFICIENT_RESOURCES,)}

    async def wrong(lab: Lab, FileName: Any) -> int:
        return FltCheckAndGrowNameControl(FileName.Name, 10)

    assert with_control(wrong).code == "ke.bad-pointer"


@pytest.mark.rule("FLT-NAME-16")
def test_names_are_not_asked_for_above_apc_level() -> None:
    async def script(lab: Lab) -> None:
        file = await lab.open()
        instance = lab.instance(await lab.filter("A", LOWER, {}))
        current_kthread().irql = APC_LEVEL + 1
        await FltGetFileNameInformationUnsafe(file.file, instance, NORMALISED)

    assert run(script).code == "ke.irql"


def test_a_provider_that_goes_away_is_not_asked() -> None:
    async def script(lab: Lab) -> None:
        driver = await Provider(lab).load()
        await asker(lab, NORMALISED)
        file = await lab.open()
        await driver.detach()
        await file.read(1)

    assert values(run(script), "A") == [rf"{C}\a"]
