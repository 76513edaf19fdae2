"""Short names and tunnelling: what a name is called beside its own, and what it gets back."""

from __future__ import annotations

from typing import Any

import pytest
from fltmgr.kit import Lab, all_runs, run

from kemu.io.constants import FILE_CREATE, FILE_OPEN, FILE_OPEN_IF
from kemu.io.file_constants import (
    FILE_ATTRIBUTE_NORMAL,
    FILE_DELETE_ON_CLOSE,
    SL_OPEN_TARGET_DIRECTORY,
    FileLinkInformation,
    FileRenameInformation,
)
from kemu.io.filesystem.nodes import Link
from kemu.io.filesystem.short_names import AGE, is_short, make_short
from kemu.io.manager import IoManager
from kemu.io.request import FileObject
from kemu.io.structures import FILE_LINK_INFORMATION, FILE_RENAME_INFORMATION
from kemu.runtime import TICKS_PER_SECOND
from kemu.wdk.ntstatus import STATUS_DISK_FULL, STATUS_OBJECT_NAME_NOT_FOUND, STATUS_SUCCESS
from kemu.wdk.wdm import IRP_MJ_SET_INFORMATION

LONG, SHORT = "Long file name.text", "LONGFI~1.TEX"


async def open_(lab: Lab, path: str, disposition: int = FILE_OPEN_IF, **members: Any) -> tuple[Any, FileObject | None]:
    return await lab.system.get(IoManager).create(lab.volume, path, disposition, **members)


async def close(lab: Lab, file: FileObject | None) -> None:
    assert file is not None
    await lab.system.get(IoManager).close(file)


async def make(lab: Lab, path: str) -> None:
    await close(lab, (await open_(lab, path))[1])


async def delete(lab: Lab, path: str) -> None:
    await close(lab, (await open_(lab, path, FILE_OPEN, CreateOptions=FILE_DELETE_ON_CLOSE))[1])


async def rename(lab: Lab, path: str, to: str, *, link: bool = False) -> Any:
    _, file = await open_(lab, path, FILE_OPEN)
    assert file is not None
    information = (FILE_LINK_INFORMATION if link else FILE_RENAME_INFORMATION)(to)
    request = lab.request(
        file,
        IRP_MJ_SET_INFORMATION,
        FileInformationClass=FileLinkInformation if link else FileRenameInformation,
        Length=information.SIZE,
        InfoBuffer=information,
    )
    await lab.send(request)
    await close(lab, file)
    return request.status


def names(lab: Lab, path: str = "\\") -> dict[str, str | None]:
    """What is in a directory: long names, and the short one of each."""
    node = lab.volume.filesystem.find(path)
    assert node is not None
    return {link.name: link.short for link in node.children()}


def link_of(lab: Lab, path: str) -> Link:
    node = lab.volume.filesystem.find(path)
    assert node is not None
    return node.links[0]


@pytest.mark.parametrize(
    ("name", "short"),
    [
        (LONG, SHORT),
        ("name.with.dots", "NAMEWI~1.DOT"),
        (".profile", "PROFIL~1"),
        ("a b", "AB~1"),
        ("a+b,c.t=t", "A_B_C~1.T_T"),
        ("nothing", None),
        ("eight888.txt", None),
        ("nine99999.txt", "NINE99~1.TXT"),
        ("a.text", "A~1.TEX"),
    ],
)
def test_the_short_name_that_goes_with_a_name(name: str, short: str | None) -> None:
    assert is_short(name) == (short is None)
    assert short is None or make_short(name, 1) == short
    assert short is None or is_short(short)


def test_numbers_take_room() -> None:
    assert make_short("abcdefghijk.txt", 10) == "ABCDE~10.TXT"


def test_without_the_option_there_are_no_short_names() -> None:
    async def script(lab: Lab) -> Any:
        lab.file(rf"\{LONG}")
        return (await open_(lab, rf"\{SHORT}", FILE_OPEN))[0], names(lab)

    assert run(script).result == (STATUS_OBJECT_NAME_NOT_FOUND, {"a": None, LONG: None})


def test_each_gets_a_short_name_that_nobody_has() -> None:
    async def script(lab: Lab) -> Any:
        await make(lab, r"\LONGFI~2.TEX")
        for name in (LONG, "Long file name 2.text", "Long file name 3.text"):
            await make(lab, rf"\{name}")
        return names(lab)

    assert run(script, short_names=True).result == {
        "a": None,
        "LONGFI~2.TEX": None,
        LONG: SHORT,
        "Long file name 2.text": "LONGFI~3.TEX",
        "Long file name 3.text": "LONGFI~4.TEX",
    }


def test_a_file_and_what_is_in_a_directory_are_found_by_short_names() -> None:
    async def script(lab: Lab) -> Any:
        lab.file(r"\A directory\Long file name.text")
        status, file = await open_(lab, r"\adirec~1\longfi~1.tex", FILE_OPEN)
        assert file is not None
        found = [status, file.fs_context.link is link_of(lab, rf"\A directory\{LONG}")]
        found.append((await open_(lab, r"\ADIREC~1\new", FILE_CREATE))[0])
        found.append((await open_(lab, r"\ADIREC~1\x", FILE_OPEN, OperationFlags=SL_OPEN_TARGET_DIRECTORY))[0])
        lab.file(r"\b")
        # Relative to a directory, and by its short name.
        found.append(await rename(lab, r"\b", r"\ADIREC~1\c"))
        return found, sorted(names(lab, r"\A directory"))

    result = run(script, short_names=True).result
    assert result == ([STATUS_SUCCESS, True] + [STATUS_SUCCESS] * 3, sorted(["c", LONG, "new"]))


def test_a_create_that_fails_leaves_no_short_name_behind() -> None:
    async def script(lab: Lab) -> Any:
        lab.volume.filesystem.limit = 1
        status, _ = await open_(
            lab, rf"\{LONG}", FILE_CREATE, AllocationSize=1 << 20, FileAttributes=FILE_ATTRIBUTE_NORMAL
        )
        return status, (await open_(lab, rf"\{SHORT}", FILE_OPEN))[0]

    assert run(script, short_names=True).result == (STATUS_DISK_FULL, STATUS_OBJECT_NAME_NOT_FOUND)


def test_a_new_link_has_a_short_name_too() -> None:
    async def script(lab: Lab) -> Any:
        assert await rename(lab, r"\a", rf"\{LONG}", link=True) == STATUS_SUCCESS
        return names(lab)

    assert run(script, short_names=True).result == {"a": None, LONG: SHORT}


def test_a_rename_takes_the_short_name_of_what_it_replaces() -> None:
    async def script(lab: Lab) -> Any:
        lab.file(rf"\{LONG}")
        _, file = await open_(lab, r"\a", FILE_OPEN)
        assert file is not None
        information = FILE_RENAME_INFORMATION(rf"\{SHORT}", ReplaceIfExists=True)
        parameters: dict[str, Any] = {"FileInformationClass": FileRenameInformation, "Length": information.SIZE}
        await lab.send(lab.request(file, IRP_MJ_SET_INFORMATION, InfoBuffer=information, **parameters))
        return names(lab)

    # What was replaced had both names: they are not tunnelled, as its name was not removed before the look-up.
    assert run(script, short_names=True).result == {SHORT: None}


async def rename_away(lab: Lab, path: str) -> None:
    assert await rename(lab, path, r"\new") == STATUS_SUCCESS


async def rename_to(lab: Lab, path: str) -> None:
    assert await rename(lab, r"\a", path) == STATUS_SUCCESS


PAIRS = {
    "delete, create": (delete, make),
    "delete, rename": (delete, rename_to),
    "rename, create": (rename_away, make),
    "rename, rename": (rename_away, rename_to),
}


@pytest.mark.rule("FLT-NAME-12")
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("by", [SHORT, LONG])
def test_a_name_that_is_removed_and_given_again_gets_its_other_half_back(pair: str, by: str) -> None:
    async def script(lab: Lab) -> Any:
        # The number says whose short name it is.
        lab.file(r"\Long file name, the first.text")
        lab.file(rf"\{LONG}")
        by_name = by if by == LONG else "LONGFI~2.TEX"
        first, second = PAIRS[pair]
        await first(lab, rf"\{by_name}")
        await rename(lab, r"\Long file name, the first.text", r"\other")
        await second(lab, rf"\{by_name}")
        return names(lab)

    assert run(script, short_names=True).result[LONG] == "LONGFI~2.TEX"


@pytest.mark.rule("FLT-NAME-12")
@pytest.mark.parametrize("late", [False, True])
def test_a_tunnel_lasts_fifteen_seconds(late: bool) -> None:
    async def script(lab: Lab) -> Any:
        lab.file(rf"\{LONG}")
        await delete(lab, rf"\{SHORT}")
        await lab.sleep(15 + 0.5 * late)
        await make(lab, rf"\{SHORT}")
        return names(lab)

    assert AGE == 15 * TICKS_PER_SECOND
    assert run(script, short_names=True).result == {"a": None, (SHORT if late else LONG): None if late else SHORT}


@pytest.mark.rule("FLT-NAME-12")
def test_tunnels_belong_to_a_directory_and_to_the_name_that_was_removed() -> None:
    async def script(lab: Lab) -> Any:
        lab.file(rf"\{LONG}")
        lab.directory(r"\d")
        await delete(lab, rf"\{LONG}")
        await make(lab, rf"\d\{SHORT}")
        await make(lab, rf"\{SHORT}")
        return names(lab), names(lab, r"\d")

    assert run(script, short_names=True).result == ({"a": None, "d": None, SHORT: None}, {SHORT: None})


def test_a_long_name_that_somebody_has_taken_is_not_given_back() -> None:
    async def script(lab: Lab) -> Any:
        lab.file(rf"\{LONG}")
        await delete(lab, rf"\{SHORT}")
        await make(lab, rf"\{LONG}")
        await rename(lab, rf"\{LONG}", r"\x")
        await make(lab, rf"\{LONG}")
        return (await open_(lab, rf"\{SHORT}", FILE_OPEN_IF))[0], names(lab)

    # The second file of that name has got the short one itself: it is opened.
    assert run(script, short_names=True).result == (STATUS_SUCCESS, {"a": None, "x": None, LONG: SHORT})


def test_creating_by_two_names_of_one_file_at_the_same_time() -> None:
    async def script(lab: Lab) -> Any:
        async def create(name: str) -> Any:
            return (await open_(lab, rf"\{name}", FILE_CREATE))[0]

        made = await lab.together(create(LONG), create(SHORT))
        return made, sorted(names(lab).items())

    results = {repr(one.result) for one in all_runs(script, short_names=True)}
    assert len(results) == 2
