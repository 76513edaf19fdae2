"""Renaming files and directories, and giving files additional names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.io.file_constants import (
    FILE_ACTION_ADDED,
    FILE_ACTION_REMOVED,
    FILE_ACTION_RENAMED_NEW_NAME,
    FILE_ACTION_RENAMED_OLD_NAME,
    FILE_ATTRIBUTE_READONLY,
    FILE_NOTIFY_CHANGE_DIR_NAME,
    FILE_NOTIFY_CHANGE_FILE_NAME,
    FILE_RENAME_IGNORE_READONLY_ATTRIBUTE,
    FILE_RENAME_POSIX_SEMANTICS,
    FILE_RENAME_REPLACE_IF_EXISTS,
    FILE_SHARE_DELETE,
)
from kemu.io.filesystem.deletion import remove
from kemu.io.filesystem.names import is_component, parse
from kemu.io.filesystem.nodes import Entry, Link, Node, Open
from kemu.io.filesystem.opening import walk
from kemu.io.filesystem.short_names import add_alias, drop_alias, tunnelled
from kemu.io.structures import FILE_RENAME_INFORMATION
from kemu.nt.access import DELETE
from kemu.nt.status import (
    NTSTATUS,
    STATUS_ACCESS_DENIED,
    STATUS_FILE_IS_A_DIRECTORY,
    STATUS_INVALID_PARAMETER,
    STATUS_NOT_SAME_DEVICE,
    STATUS_OBJECT_NAME_COLLISION,
    STATUS_OBJECT_NAME_INVALID,
    STATUS_OBJECT_PATH_NOT_FOUND,
    STATUS_SHARING_VIOLATION,
    STATUS_SUCCESS,
    STATUS_TOO_MANY_LINKS,
)
from kemu.runtime import Thread

if TYPE_CHECKING:
    from kemu.io.filesystem.filesystem import FileSystem

MOST_LINKS = 1024


def _target(
    fs: FileSystem, thread: Thread, opened: Open, given: FILE_RENAME_INFORMATION
) -> tuple[Node, str] | NTSTATUS:
    """The directory and the name that *given* names."""
    name = given.FileName
    if not name:
        return STATUS_INVALID_PARAMETER
    root = given.RootDirectory
    if root is None and "\\" not in name:
        if not is_component(name):
            return STATUS_OBJECT_NAME_INVALID
        directory = opened.link.directory
        return (directory, name) if directory is not None else STATUS_INVALID_PARAMETER
    if root is not None:
        base = getattr(root, "fs_context", None)
        if not isinstance(base, Open) or not base.node.is_directory or name.startswith("\\"):
            return STATUS_INVALID_PARAMETER
        if base.file.volume is not opened.file.volume:
            return STATUS_NOT_SAME_DEVICE
        path = parse(f"\\{name}")
        start = base.node
    else:
        path = parse(name)
        start = fs.root
    if isinstance(path, NTSTATUS) or not path.components or path.stream or path.trailing:
        return STATUS_OBJECT_NAME_INVALID
    if start is fs.root:
        found = walk(fs, thread, path.components[:-1])
    else:
        found = start
        for component in path.components[:-1]:
            entry = found.entry(component)
            thread.read(entry)
            link = entry.found
            if link is None or not link.node.is_directory:
                found = None
                break
            found = link.node
    return (found, path.name) if found is not None else STATUS_OBJECT_PATH_NOT_FOUND


def _below(node: Node, directory: Node) -> bool:
    """Whether *node* is *directory* or lies somewhere in it."""
    at: Node | None = node
    while at is not None:
        if at is directory:
            return True
        at = at.links[0].directory if at.links else None
    return False


def _open_inside(thread: Thread, directory: Node) -> bool:
    """Whether something in *directory*, at any depth, is open."""
    thread.read(directory.listing)
    for link in directory.children():
        thread.read(link.node)
        if link.node.all_opened() or (link.node.is_directory and _open_inside(thread, link.node)):
            return True
    return False


def _make_way(fs: FileSystem, thread: Thread, opened: Open, entry: Entry, flags: int) -> NTSTATUS:
    """Delete the file that has the new name already, if that is asked for and can be done."""
    old = entry.found
    thread.read(entry)
    if old is None or old is opened.link:
        return STATUS_SUCCESS
    if not flags & FILE_RENAME_REPLACE_IF_EXISTS:
        return STATUS_OBJECT_NAME_COLLISION
    node = old.node
    thread.read(node)
    thread.read(node.basic)
    readonly = node.attributes & FILE_ATTRIBUTE_READONLY and not flags & FILE_RENAME_IGNORE_READONLY_ATTRIBUTE
    if node.is_directory or readonly or old.deleted:
        return STATUS_ACCESS_DENIED
    if old.is_open:
        if not flags & FILE_RENAME_POSIX_SEMANTICS:
            return STATUS_ACCESS_DENIED
        if not all(other.share & FILE_SHARE_DELETE for other in node.stream.opened):
            return STATUS_SHARING_VIOLATION
    thread.write(node)
    old.deleted = True
    remove(fs, thread, old)
    node.posix_deleted = old.is_open and not node.links
    if not node.links and not node.all_opened():
        fs.free(thread, node)
    return STATUS_SUCCESS


def rename(fs: FileSystem, thread: Thread, opened: Open, given: FILE_RENAME_INFORMATION, flags: int) -> NTSTATUS:
    """FileRenameInformation and FileRenameInformationEx."""
    if not opened.access & DELETE:
        return STATUS_ACCESS_DENIED
    node, link = opened.node, opened.link
    if opened.stream is not node.stream:
        return STATUS_INVALID_PARAMETER
    thread.read(node)
    if link.deleted or link.removed:
        return STATUS_ACCESS_DENIED
    target = _target(fs, thread, opened, given)
    if isinstance(target, NTSTATUS):
        return target
    directory, name = target
    source = link.directory
    if source is None:
        return STATUS_INVALID_PARAMETER
    if node.is_directory and _below(directory, node):
        return STATUS_INVALID_PARAMETER
    if node.is_directory and _open_inside(thread, node):
        return STATUS_ACCESS_DENIED
    entry = directory.entry(name)
    old_entry = source.entry(link.name)
    if entry.link is link and link.name == name:
        thread.read(entry)
        return STATUS_SUCCESS
    status = _make_way(fs, thread, opened, entry, flags)
    if status != STATUS_SUCCESS:
        return status
    if directory is not source:
        thread.read(directory)
        if directory.posix_deleted or any(one.deleted for one in directory.links):
            return STATUS_ACCESS_DENIED
    thread.write(node)
    thread.write(old_entry)
    thread.write(entry)
    thread.update(source.listing)
    thread.update(directory.listing)
    kind = FILE_NOTIFY_CHANGE_DIR_NAME if node.is_directory else FILE_NOTIFY_CHANGE_FILE_NAME
    moves = directory is not source
    fs.notify(thread, link, kind, FILE_ACTION_REMOVED if moves else FILE_ACTION_RENAMED_OLD_NAME)
    old_entry.link = None
    pair = None
    if fs.short_names:
        pair = tunnelled(fs, thread, directory, name)
        drop_alias(fs, thread, link, by_alias=opened.by_alias)
        if pair is not None and directory.entry(pair.long).found is None:
            name, entry = pair.long, directory.entry(pair.long)
            thread.write(entry)
    entry.link = link
    link.directory, link.name = directory, name
    if fs.short_names:
        add_alias(thread, link, pair.short if pair is not None else "")
    fs.notify(thread, link, kind, FILE_ACTION_ADDED if moves else FILE_ACTION_RENAMED_NEW_NAME)
    return STATUS_SUCCESS


def add_link(fs: FileSystem, thread: Thread, opened: Open, given: FILE_RENAME_INFORMATION, flags: int) -> NTSTATUS:
    """FileLinkInformation and FileLinkInformationEx."""
    node = opened.node
    if opened.stream is not node.stream:
        return STATUS_INVALID_PARAMETER
    if node.is_directory:
        return STATUS_FILE_IS_A_DIRECTORY
    thread.read(node)
    if opened.link.deleted or opened.link.removed:
        return STATUS_ACCESS_DENIED
    if len(node.links) >= MOST_LINKS:
        return STATUS_TOO_MANY_LINKS
    target = _target(fs, thread, opened, given)
    if isinstance(target, NTSTATUS):
        return target
    directory, name = target
    entry = directory.entry(name)
    if entry.link is not None and entry.link.node is node:
        thread.read(entry)
        return STATUS_SUCCESS if flags & FILE_RENAME_REPLACE_IF_EXISTS else STATUS_OBJECT_NAME_COLLISION
    status = _make_way(fs, thread, opened, entry, flags)
    if status != STATUS_SUCCESS:
        return status
    if directory is not fs.root:
        thread.read(directory)
        if directory.posix_deleted or any(one.deleted for one in directory.links):
            return STATUS_ACCESS_DENIED
    thread.write(node)
    thread.write(entry)
    thread.update(directory.listing)
    link = Link(directory, name, node)
    node.links.append(link)
    entry.link = link
    if fs.short_names:
        add_alias(thread, link)
    fs.notify(thread, link, FILE_NOTIFY_CHANGE_FILE_NAME, FILE_ACTION_ADDED)
    return STATUS_SUCCESS
