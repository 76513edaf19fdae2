"""Loading scenario files: reading, checking and executing them, once for each process and content.

A file is executed once as it is, and once more in each *flavour* that is asked for: rewritten so that accesses to
state are recorded (`kemu.scenario.tracking`). The flavours of a file share nothing.

A file runs as a module with a private name. It imports the files beside it as ``import common`` or
``from .common import X``; they are found by an ``__import__`` of its own, so that neither ``sys.path`` nor anybody
else's modules are touched. Whoever wants to run scenarios calls `load_file`, mostly through `kemu.scenario.target`.
"""

from __future__ import annotations

import ast
import builtins
import difflib
import hashlib
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from kemu.errors import InternalError, KemuError, ScenarioError, UsageError
from kemu.scenario.check import SourceWarning, check_source
from kemu.scenario.check_names import SourceFile
from kemu.scenario.declare import Scenario, collecting
from kemu.scenario.tracking.atomic import Atomic, atomic_parts
from kemu.scenario.tracking.coarse import CoarseReason, coarse_reasons
from kemu.scenario.tracking.containers import imports
from kemu.scenario.tracking.recorder import Recorder
from kemu.scenario.tracking.rewrite import Flavour, rewrite
from kemu.scenario.tracking.standins import MODULES, functions
from kemu.scenario.tracking.state import State, stored_attributes

PREFIX = "kemu_scenario_"
"""What the modules' private names begin with; the file's place, as a hash, and its name follow."""
_PRIVATE = re.compile(PREFIX + "[0-9a-f]{12}_")

EXAMPLE = "from kemu.scenario import World, scenario, and put @scenario above an async def that takes a World"


@dataclass(frozen=True, slots=True)
class LoadedFile:
    """A scenario file that was executed."""

    path: str
    """As it was asked for."""
    module: ModuleType
    scenarios: tuple[Scenario, ...]
    """In the order of declaration; at least one."""
    source_digest: str
    """32 hexadecimal digits that stand for the content of the file and of those beside it that it imports."""
    warnings: tuple[SourceWarning, ...]
    text: _Text | None = field(default=None, repr=False, compare=False)
    """What it was made from; None if somebody else has executed it, so that its state cannot be tracked."""

    @property
    def coarse(self) -> tuple[CoarseReason, ...]:
        """What in this file, and in those beside it that it imports, cannot be followed; empty if nothing."""
        return () if self.text is None else self.text.coarse()

    @property
    def atomic(self) -> tuple[Atomic, ...]:
        """The code of these files that touches state and that no preemption interrupts."""
        states = () if self.text is None else self.text.states()
        return tuple(part for state in states for part in atomic_parts(state))

    def flavoured(self, flavour: Flavour) -> Flavoured:
        """The file, executed with accesses recorded. Raises what `load_file` does for a file that fails on import."""
        if self.text is None:
            raise InternalError(f"the accesses of {self.path} cannot be recorded: it was executed by somebody else")
        return _flavoured(self.text, flavour)


@dataclass(frozen=True, slots=True)
class Flavoured:
    """A scenario file that was executed with accesses recorded."""

    scenarios: Mapping[str, Scenario]
    recorder: Recorder


@dataclass(slots=True)
class _Text:
    """A file's content, before anything of it has run."""

    shown: str
    real: Path
    content: bytes
    digest: str
    source: SourceFile
    siblings: dict[str, _Text] = field(default_factory=dict[str, "_Text"])
    _states: list[State] | None = None
    _coarse: tuple[CoarseReason, ...] | None = None

    def family(self) -> list[_Text]:
        """This file, and then those beside it that it imports directly or not, by name."""
        found: dict[Path, _Text] = {self.real: self}
        waiting: list[_Text] = [self]
        while waiting:
            for text in waiting.pop().siblings.values():
                if text.real not in found:
                    found[text.real] = text
                    waiting.append(text)
        return [self, *sorted((one for one in found.values() if one is not self), key=lambda one: one.real.name)]

    def digests(self) -> dict[str, str]:
        """For each file of the family its name and digest."""
        return {text.real.name: text.digest for text in self.family()}

    def family_digest(self) -> str:
        """32 hexadecimal digits that stand for the content of all of them."""
        return hashlib.blake2b(repr(sorted(self.digests().items())).encode(), digest_size=16).hexdigest()

    def states(self) -> list[State]:
        """What each file of the family touches."""
        if self._states is None:
            sources = [text.source for text in self.family()]
            stored = stored_attributes(sources)
            self._states = [State(source, stored) for source in sources]
        return self._states

    def coarse(self) -> tuple[CoarseReason, ...]:
        """What cannot be followed in the files of the family."""
        if self._coarse is None:
            self._coarse = tuple(reason for state in self.states() for reason in coarse_reasons(state))
        return self._coarse


@dataclass(slots=True)
class _Executed:
    """A module, and what it was made from."""

    module: ModuleType
    digests: Mapping[str, str]
    declared: list[Scenario]


_executed: dict[Path, _Executed] = {}
"""Every file that was executed: a class of a driver is one object, however often its file is asked for."""
_loaded: dict[Path, LoadedFile] = {}
_flavours: dict[tuple[Path, Flavour], tuple[Mapping[str, str], Flavoured]] = {}


def load_file(path: str) -> LoadedFile:
    """Load the scenario file *path*: read, check and execute it, unless that was done and nothing has changed.

    Raises `ScenarioError` for a file that is not there, is not Python, fails on import, or declares no scenario or
    two with one name, and `DriverSourceError` for source that the static checks refuse.
    """
    return _load(_read_family(path))


def read_source(path: str) -> tuple[SourceFile, str]:
    """The file *path*, read but not executed, and its digest, as `LoadedFile.source_digest`.

    For files that somebody else executes, such as a module of tests. Raises `ScenarioError` for a file that cannot be
    read or is not Python.
    """
    text = _read_family(path)
    return text.source, text.family_digest()


def has_scenarios(path: str) -> bool:
    """Whether the file *path* imports the decorator, told without running it.

    A folder of scenarios may hold other files, which have to be left alone. A file that may be meant as a scenario
    and is not Python is a `ScenarioError`.
    """
    content = _content(Path(path), path)
    if b"scenario" not in content or b"kemu" not in content:
        return False
    for node in ast.walk(_parse(content, path)):
        if isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            if node.module in {"kemu.scenario", "kemu.scenario.declare"} and names & {"scenario", "*"}:
                return True
            if node.module == "kemu" and "scenario" in names:
                return True
        if isinstance(node, ast.Import) and any(alias.name.startswith("kemu.scenario") for alias in node.names):
            return True
    return False


# Reading.


def _read_family(path: str) -> _Text:
    given = Path(path)
    _check_path(given, path)
    return _read(given, {})


def _check_path(given: Path, path: str) -> None:
    if given.is_dir():
        files = sorted(one.name for one in given.glob("*.py"))
        example = f", such as {given / files[0]}" if files else ""
        raise ScenarioError(f"{path} is a directory", remedy=f"name a file in it{example}")
    if not given.exists():
        raise ScenarioError(f"there is no file {path}", remedy=nearest_file(given))
    if given.suffix != ".py":
        raise ScenarioError(f"{path} is not a Python file", remedy="give a file whose name ends in .py")


def nearest_file(missing: Path) -> str:
    """The remedy for a file that is not there: the one whose name is nearest."""
    folder = missing.parent
    if not folder.is_dir():
        return f"there is no directory {folder} either"
    names = sorted(one.name for one in folder.iterdir() if one.suffix == ".py" or one.is_dir())
    names = [name for name in names if not name.startswith((".", "__"))]
    close = difflib.get_close_matches(missing.name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {folder / close[0]}?"
    return "give the path of a scenario file, from the current directory"


def _content(file: Path, shown: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ScenarioError(f"{shown} cannot be read: {error.strerror}", remedy="check its permissions") from None


def _parse(content: bytes, shown: str) -> ast.Module:
    try:
        tree = ast.parse(content, filename=shown)
        # Some errors of syntax are found by the compiler only, such as an await outside an async def.
        compile(tree, shown, "exec", dont_inherit=True)
    except SyntaxError as error:
        line = (error.text or "").strip()
        raise ScenarioError(
            f"{shown}:{error.lineno or 1}: not Python: {error.msg}{f': {line}' if line else ''}",
            remedy="correct that line",
        ) from None
    except (ValueError, RecursionError, MemoryError) as error:
        why = str(error) or "nested too deeply"
        raise ScenarioError(f"{shown}:1: not Python: {why}", remedy="give a file with Python source") from None
    return tree


def _read(file: Path, known: dict[Path, _Text]) -> _Text:
    shown = file.as_posix()
    real = file.resolve()
    content = _content(file, shown)
    source = SourceFile(shown, file.stem, _parse(content, shown))
    text = known[real] = _Text(shown, real, content, hashlib.blake2b(content, digest_size=16).hexdigest(), source)
    for name in _imported_beside(source.tree):
        beside = file.with_name(f"{name}.py")
        if beside.is_file():
            sibling = known.get(beside.resolve()) or _read(beside, known)
            text.siblings[name] = sibling
            source.siblings[name] = sibling.source
    return text


def _imported_beside(tree: ast.Module) -> Iterator[str]:
    """The modules that a file may mean when it imports those beside it, in the order of the source."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name.partition(".")[0] for alias in node.names]
            yield from (name for name in names if _may_be_beside(name))
        elif isinstance(node, ast.ImportFrom):
            module = (node.module or "").partition(".")[0]
            if node.level == 1 and not module:
                yield from (alias.name for alias in node.names)
            elif node.level == 1 or (node.level == 0 and _may_be_beside(module)):
                yield module


def _may_be_beside(name: str) -> bool:
    """The standard library and kemu itself cannot be replaced by a file that has their name."""
    return name != "kemu" and name not in sys.stdlib_module_names


# Executing.


def _load(text: _Text) -> LoadedFile:
    known = _loaded.get(text.real)
    executed = _executed.get(text.real)
    if known is not None and executed is not None and executed.digests == text.digests():
        return replace(known, path=text.shown)
    warnings = [warning for one in text.family() for warning in _check(one)]
    executed = _execute(text, _Execution(_executed))
    _check_declared(text, executed.declared)
    scenarios = tuple(executed.declared)
    digest = text.family_digest()
    loaded = _loaded[text.real] = LoadedFile(text.shown, executed.module, scenarios, digest, tuple(warnings), text)
    return loaded


def _check(text: _Text) -> list[SourceWarning]:
    try:
        return check_source(text.source)
    except RecursionError:
        raise _too_deep(text) from None


def _check_declared(text: _Text, declared: Sequence[Scenario]) -> None:
    if not declared:
        raise ScenarioError(f"{text.shown} has no scenario", remedy=f"write {EXAMPLE}")
    first: dict[str, Scenario] = {}
    for scenario in declared:
        other = first.setdefault(scenario.name, scenario)
        if other is not scenario:
            raise ScenarioError(
                f"{text.shown} has two scenarios with the name {scenario.name!r}, "
                f"in lines {other.line} and {scenario.line}",
                remedy="rename one of them",
            )


class _Execution:
    """How the files of a family are executed: here, as they are."""

    flavour = ""

    def __init__(self, known: dict[Path, _Executed]) -> None:
        self.known = known
        self.running: dict[Path, ModuleType] = {}

    def tree(self, text: _Text) -> ast.Module:
        """What is compiled for a file."""
        return text.source.tree

    def position(self, text: _Text) -> int | None:
        """Where a file stands among the others, if objects that it makes on import are to be named."""
        return None

    def functions(self, text: _Text, module: ModuleType) -> dict[str, Any]:
        """What a file finds among its built-ins besides Python's."""
        return {}

    def imported(self, module: Any) -> Any:
        """The module that a file gets for *module*, which it imports."""
        return module


class _Tracked(_Execution):
    """With accesses recorded."""

    def __init__(self, root: _Text, flavour: Flavour) -> None:
        super().__init__({})
        self.flavour = flavour
        self._flavour: Flavour = flavour
        family = root.family()
        self._positions = {text.real: position for position, text in enumerate(family)}
        self._states = root.states()
        self._coarse = bool(root.coarse())
        self.recorder = Recorder(self._states[0].stored)

    def tree(self, text: _Text) -> ast.Module:
        source = text.source
        # The rewriting is done in place, and other flavours need the tree as it is.
        twin = SourceFile(source.path, source.stem, _parse(text.content, text.shown), source.siblings)
        return rewrite(State(twin, self.recorder.stored), self._flavour, coarse=self._coarse)

    def position(self, text: _Text) -> int | None:
        return self._positions[text.real]

    def functions(self, text: _Text, module: ModuleType) -> dict[str, Any]:
        position = self._positions[text.real]
        self.recorder.modules[module] = position
        self.recorder.files.add(text.shown)
        self.recorder.global_names[position] = self._states[position].global_names
        return functions(self.recorder, module, position)

    def imported(self, module: Any) -> Any:
        return MODULES.get(getattr(module, "__name__", ""), module)


def _flavoured(text: _Text, flavour: Flavour) -> Flavoured:
    digests = text.digests()
    known = _flavours.get((text.real, flavour))
    if known is not None and known[0] == digests:
        return known[1]
    try:
        execution = _Tracked(text, flavour)
        executed = _execute(text, execution)
    except RecursionError:
        raise _too_deep(text) from None
    made = Flavoured({scenario.name: scenario for scenario in executed.declared}, execution.recorder)
    _flavours[text.real, flavour] = (digests, made)
    return made


def _too_deep(text: _Text) -> ScenarioError:
    return ScenarioError(
        f"{text.shown} has an expression that is nested too deeply to be checked", remedy="split it up"
    )


def _execute(text: _Text, execution: _Execution) -> _Executed:
    """Execute a file, unless its module is there already and made from the same content."""
    digests = text.digests()
    known = execution.known.get(text.real)
    if known is not None and known.digests == digests:
        return known
    place = f"{text.real}\0{execution.flavour}" if execution.flavour else str(text.real)
    name = f"{PREFIX}{hashlib.blake2b(place.encode(), digest_size=6).hexdigest()}_{text.real.stem}"
    module = ModuleType(name)
    module.__file__ = str(text.real)
    importer = _Importer(text, execution)
    more = execution.functions(text, module)
    vars(module)["__builtins__"] = {**vars(builtins), **more, "__import__": importer.import_}
    code = compile(execution.tree(text), text.shown, "exec", dont_inherit=True)
    running = execution.running
    running[text.real] = module
    before = sys.modules.get(name)
    # Dataclasses look their module up by its name.
    sys.modules[name] = module
    try:
        with collecting() as declared, imports.of(execution.position(text)):
            exec(code, vars(module))
    except BaseException as error:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        # What is neither the file's fault nor an end that it asked for goes on: an interrupt, a bug of kemu.
        is_ours = isinstance(error, KemuError) and not isinstance(error, UsageError)
        if is_ours or not isinstance(error, Exception | SystemExit):
            raise
        raise _explain(text, error) from error
    finally:
        del running[text.real]
    # A scenario that another package declares while it is imported for the first time is not this file's.
    own = [scenario for scenario in declared if scenario.file == text.shown]
    executed = execution.known[text.real] = _Executed(module, digests, own)
    return executed


class _Importer:
    """``__import__`` as one file has it: the files beside it first, then everything else."""

    def __init__(self, text: _Text, execution: _Execution) -> None:
        self._text = text
        self._execution = execution

    def import_(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,  # noqa: A002
        locals: Mapping[str, object] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        top, _, rest = name.partition(".")
        if level == 0 and top not in self._text.siblings:
            return self._execution.imported(builtins.__import__(name, globals, locals, fromlist or (), 0))
        if level > 1:
            raise ImportError(f"{'.' * level}{name}: a scenario file can import the files beside it only")
        if name:
            if rest:
                raise ModuleNotFoundError(f"{name}: {top}.py is a file and has no modules in it", name=name)
            return self._module(name)
        return SimpleNamespace(**{one: self._module(one) for one in fromlist or ()})

    def _module(self, name: str) -> ModuleType:
        text = self._text.siblings.get(name)
        if text is None:
            raise ModuleNotFoundError(f"there is no file {name}.py beside {self._text.shown}", name=name)
        if text.real in self._execution.running:
            # Two files that import each other see what is there so far, as everywhere in Python.
            return self._execution.running[text.real]
        return _execute(text, self._execution).module


# What goes wrong on import.


def _explain(text: _Text, error: BaseException) -> UsageError:
    if isinstance(error, _Explained):
        return error
    where, line = _user_line(text, error)
    if isinstance(error, UsageError):
        return _Explained(f"{where}: {error.message}", remedy=error.remedy)
    detail = _PRIVATE.sub("", str(error))
    what = f"{type(error).__name__}: {detail}" if detail else type(error).__name__
    return _Explained(
        f"{where}: {what}{f', in {line!r}' if line else ''}",
        remedy=_import_remedy(text, error) or "a scenario file must be importable: correct that line",
    )


class _Explained(ScenarioError):
    """An error on import that has its place already; importing files pass it on as it is."""


def _user_line(text: _Text, error: BaseException) -> tuple[str, str]:
    """The innermost line of the user's that led to *error*, and what is written there."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{error.filename}:{error.lineno}", (error.text or "").strip()
    own = {one.shown for one in text.family()}
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename in own:
            return f"{frame.filename}:{frame.lineno}", frame.line or ""
    return text.shown, ""


def _import_remedy(text: _Text, error: BaseException) -> str:
    """The remedy for an import that failed; empty for every other error."""
    if not isinstance(error, ImportError) or error.name is None:
        return ""
    if text.real.with_name(error.name.partition(".")[0]).is_dir():
        return "a scenario file can import the files beside it; install what is in folders as a package"
    found = re.search(r"cannot import name '(\w+)'", str(error))
    module = sys.modules.get(error.name)
    if found is None or module is None:
        return ""
    close = difflib.get_close_matches(found[1], dir(module), n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else ""
