"""The corpus as files: what is written, and what is made of files that are not as they should be."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kemu.explore import Corpus, Entry, Key, encode
from kemu.explore.corpus import from_json, to_json

KEY = Key("scenarios/x.py::race[buggy]")
OTHER = Key("scenarios/y.py::race[buggy]", ("--max-steps", "50"))


def entry(*choices: int, key: Key = KEY, code: str = "odd", about: str = "flt:A", **fields: Any) -> Entry:
    """A run with the cost of one preemption for each of its choices."""
    cost = (len(choices), 0, len(choices), len(choices))
    values: dict[str, Any] = {"cost": cost, "strategy": "pct(depth=3)", "seed": 7, "schedule": 3, **fields}
    return Entry(key, encode(choices, "0123456789abcdef"), code, (code, about), **values)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus.beside(tmp_path)


@pytest.fixture
def files(tmp_path: Path) -> Any:
    def found() -> list[str]:
        return sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())

    return found


def test_an_entry_comes_back_as_it_was_kept(corpus: Corpus) -> None:
    one = entry(1, 1, clean=2)
    bare = entry(2, key=OTHER, cost=None, seed=None, schedule=None)
    assert corpus.add(one)
    assert corpus.add(bare)
    assert corpus.entries() == [one, bare]
    assert corpus.entries(KEY) == [one]
    assert corpus.entries(OTHER) == [bare]
    assert corpus.entries(Key(KEY.program, tool="pytest")) == []
    (again,) = corpus.entries(KEY)
    assert again.choices == (1, 1)
    assert again.path is not None
    assert json.loads(again.path.read_text()) == {
        "format": "kemu.corpus/1",
        "program": "scenarios/x.py::race[buggy]",
        "options": [],
        "tool": "kemu",
        "code": "odd",
        "signature": ["odd", "flt:A"],
        "token": one.token,
        "cost": [2, 0, 2, 2],
        "strategy": "pct(depth=3)",
        "seed": 7,
        "schedule": 3,
        "clean": 2,
    }
    assert corpus.take_problems() == ()


def test_a_corpus_of_kemus_own_is_not_for_version_control(corpus: Corpus, tmp_path: Path, files: Any) -> None:
    assert corpus.entries() == []
    assert files() == []
    corpus.add(entry(1))
    ignore = tmp_path / ".kemu" / ".gitignore"
    assert "*" in ignore.read_text().splitlines()
    ignore.write_text("mine")
    corpus.add(entry(1, code="other"))
    assert ignore.read_text() == "mine"
    shared = Corpus(tmp_path / "shared")
    shared.add(entry(1))
    assert [name for name in files() if ".gitignore" in name] == [".kemu/.gitignore"]


def test_of_one_bug_the_simplest_run_stays(corpus: Corpus, files: Any) -> None:
    two, one, shorter = entry(1, 1), entry(1), entry(1, cost=(1, 0, 0, 1))
    unshrunk = entry(1, cost=None)
    assert corpus.add(unshrunk)
    assert corpus.add(two)
    assert corpus.add(one)
    assert not corpus.add(two)
    assert not corpus.add(one)
    assert not corpus.add(unshrunk)
    assert corpus.entries() == [one]
    assert corpus.add(shorter)
    # With the same cost the choices decide, as in the one written order.
    assert not corpus.add(entry(2, cost=shorter.cost))
    assert corpus.add(replace(shorter, token=encode((0, 1), "0123456789abcdef")))
    assert [known.choices for known in corpus.entries()] == [(0, 1)]
    assert len([name for name in files() if name.endswith(".json")]) == 1
    # Another bug of the same program is another run; `put` asks nothing.
    assert corpus.add(entry(1, 1, 1, about="flt:B"))
    assert corpus.put(two)
    assert [known.signature for known in corpus.entries()] == [("odd", "flt:A"), ("odd", "flt:B")]
    assert corpus.entries()[0] == two


def test_the_simplest_run_comes_first(corpus: Corpus) -> None:
    for number, code in ((3, "c"), (1, "b"), (2, "a")):
        corpus.add(entry(*[1] * number, code=code))
    corpus.add(entry(1, code="d", cost=None))
    assert [known.code for known in corpus.entries(KEY)] == ["b", "a", "c", "d"]


def test_what_is_removed_is_gone(corpus: Corpus, files: Any, tmp_path: Path) -> None:
    one, two = entry(1), entry(1, code="two")
    corpus.add(one)
    corpus.add(two)
    assert corpus.remove(one)
    assert corpus.entries() == [two]
    assert corpus.remove(one)
    assert corpus.remove(two)
    assert files() == [".kemu/.gitignore"]
    assert list((tmp_path / ".kemu" / "corpus").iterdir()) == []


def test_ids_are_short_and_differ(corpus: Corpus) -> None:
    entries = [entry(1), entry(1, code="two"), entry(1, key=OTHER)]
    assert len({one.id for one in entries}) == 3
    assert entry(1, 1).id == entry(1).id
    assert all(len(one.id) == 8 for one in entries)


def test_where_an_entry_comes_from() -> None:
    assert entry(1, schedule=1234).origin == "schedule 1,235 of pct(depth=3), seed 7"
    assert entry(1, strategy="dfs", seed=None).origin == "schedule 4 of dfs"
    assert entry(1, schedule=None).origin == "pct(depth=3), seed 7"


def with_field(name: str, value: object) -> str:
    return json.dumps({**json.loads(to_json(entry(1))), name: value})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "damaged: not JSON"),
        ("[" * 100_000, "damaged: not JSON"),
        ("[]", "damaged: not an object"),
        ("{}", "of the format None, and this kemu reads 'kemu.corpus/1'"),
        (with_field("format", "kemu.corpus/2"), "of the format 'kemu.corpus/2', and this kemu reads 'kemu.corpus/1'"),
        (with_field("program", 1), "damaged: its program is 1"),
        (with_field("options", "x"), "damaged: its options is 'x'"),
        (with_field("signature", [1]), "damaged: its signature is [1]"),
        (with_field("cost", [1, 2, 3]), "damaged: its cost is [1, 2, 3]"),
        (with_field("cost", "1234"), "damaged: its cost is '1234'"),
        (with_field("seed", "7"), "damaged: its seed is '7'"),
        (with_field("clean", None), "damaged: its clean is None"),
        (with_field("token", "KS1.x"), "damaged: 'KS1.x' is not a replay token"),
        (with_field("token", "KS2.0123.A"), "damaged: the token 'KS2.0123.A' is of version KS2"),
    ],
)
def test_a_bad_file_says_what_it_is(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=r"^(damaged|of the format)") as raised:
        from_json(text)
    assert why in str(raised.value)


def test_a_bad_file_is_named_and_left_out(corpus: Corpus) -> None:
    good, bad = entry(1), entry(1, code="bad")
    corpus.add(good)
    corpus.add(bad)
    path = corpus.root / bad.key.folder / bad.name
    for content, why in ((b"{}", "is of the format None"), (b"\xff", "is damaged: not text"), (b"{", "not JSON")):
        path.write_bytes(content)
        assert corpus.entries() == [good]
        (problem,) = corpus.take_problems()
        assert str(path) in problem
        assert why in problem
        assert problem.endswith("; it is left out")
        assert path.read_bytes() == content
    # A newer run of that bug takes its place.
    assert corpus.add(bad)
    assert "it is left out" in corpus.take_problems()[0]
    assert corpus.entries(KEY) == [bad, good]


def test_files_of_others_are_not_looked_at(corpus: Corpus) -> None:
    corpus.add(entry(1))
    folder = corpus.root / KEY.folder
    (folder / "README").write_text("x")
    (folder / ".writing-abc").write_text("half")
    (corpus.root / "notes").mkdir()
    (corpus.root / "notes" / f"{'0' * 32}.json").write_text("x")
    assert len(corpus.entries()) == 1
    assert corpus.take_problems() == ()


def test_a_copied_file_belongs_to_its_program(corpus: Corpus) -> None:
    corpus.add(entry(1))
    path = corpus.root / KEY.folder / entry(1).name
    (corpus.root / OTHER.folder).mkdir()
    (corpus.root / OTHER.folder / path.name).write_text(path.read_text())
    assert corpus.entries(OTHER) == []


def test_a_place_that_cannot_be_written_is_a_problem_and_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    corpus = Corpus(tmp_path / "file")
    assert corpus.entries() == []
    assert not corpus.add(entry(1))
    (reading, writing) = corpus.take_problems()
    assert reading.startswith(f"the corpus cannot be read: {tmp_path / 'file'}: ")
    assert writing.startswith(f"odd cannot be kept in the corpus: {tmp_path / 'file'}")
    assert not corpus.remove(entry(1))
    assert "odd cannot be removed from the corpus" in corpus.take_problems()[0]
    assert corpus.take_problems() == ()


def test_a_file_that_cannot_be_read_is_a_problem(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus.add(entry(1))

    def read_text(self: Path, encoding: str = "") -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", read_text)
    assert corpus.entries() == []
    assert corpus.take_problems()[0].endswith(": Permission denied")


def test_a_file_that_is_removed_meanwhile_is_no_problem(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus.add(entry(1))

    def read_text(self: Path, encoding: str = "") -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", read_text)
    assert corpus.entries() == []
    assert corpus.take_problems() == ()


def test_nothing_half_written_stays(corpus: Corpus, monkeypatch: pytest.MonkeyPatch, files: Any) -> None:
    def move(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", move)
    assert not corpus.add(entry(1))
    assert files() == []
    assert corpus.take_problems()[0].endswith(": No space left on device")


def write_many(root: Path, who: int) -> None:
    corpus = Corpus(root)
    for number in range(1, 60):
        corpus.add(entry(*[1] * (1 + (number * 7 + who) % 40)))
        assert len(corpus.entries(KEY)) == 1
    assert corpus.take_problems() == ()


def test_several_may_write_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(write_many, tmp_path, who) for who in range(4)]:
            done.result()
    assert len(Corpus(tmp_path).entries()) == 1
    assert list(tmp_path.rglob(".writing-*")) == []
