"""What the pages show is what kemu prints."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", *sorted(page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_commands_print_what_the_page_shows(page: str, transcripts: ModuleType) -> None:
    _, wrong = transcripts.compare(ROOT / page)
    assert not wrong, "\n\n".join([*wrong, f"python docs/transcripts.py --write {page} corrects it"])


def test_the_report_in_readme_is_compared(transcripts: ModuleType) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [one for one in transcripts.items(text) if isinstance(one, transcripts.Command)]
    explored = "kemu explore scenarios/minifilter/touch_after_hand_off.py"
    assert [one.text for one in commands if one.text == explored and one.expected]


def test_readme_quotes_the_scenario_that_it_explores(transcripts: ModuleType) -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    source = squeezed((ROOT / "scenarios/minifilter/touch_after_hand_off.py").read_text(encoding="utf-8").splitlines())
    quotes = [squeezed(lines[start:end]) for name, start, end in transcripts.blocks(lines) if name == "python"]
    assert len(quotes) == 2
    assert [quote for quote in quotes if quote not in source] == []


def squeezed(lines: list[str]) -> str:
    """The lines without indentation and empty ones: a quotation stands for itself."""
    return "\n".join(line.strip() for line in lines if line.strip())


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str, transcripts: ModuleType) -> None:
    missing = list(transcripts.broken_links(ROOT / page))
    assert not missing


# The comparison itself: a page that is wrong has to be found wrong.


def page_with(tmp_path: Path, text: str, transcripts: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(transcripts, "ROOT", tmp_path)
    (tmp_path / "scenarios").mkdir()
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    return page


def test_another_output_is_found_and_corrected(
    tmp_path: Path, transcripts: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = page_with(tmp_path, "```console\n$ kemu --version\nkemu 0\n```\n", transcripts, monkeypatch)
    text, wrong = transcripts.compare(page)
    assert len(wrong) == 1
    assert "page.md:2: kemu --version prints:" in wrong[0]
    page.write_text(text, encoding="utf-8")
    assert transcripts.compare(page) == (text, [])


def test_a_command_that_fails_is_found(
    tmp_path: Path, transcripts: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = page_with(tmp_path, "```console\n$ kemu explore nowhere.py\n```\n", transcripts, monkeypatch)
    _, wrong = transcripts.compare(page)
    assert "exits with 2" in wrong[0]


def test_files_and_changes_are_made_in_order(
    tmp_path: Path, transcripts: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "```python\n# one.py\nfrom kemu.scenario import World, scenario\n```\n"
        "```python\n# one.py, continued\n@scenario\nasync def first(world: World) -> None:\n"
        "    await world.step()\n```\n"
        "```diff\n--- one.py\n-async def first(world: World) -> None:\n+async def second(world: World) -> None:\n```\n"
        "```console\n$ kemu list -q one.py\none.py::second\n$ echo $?\n0\n```\n"
    )
    page = page_with(tmp_path, text, transcripts, monkeypatch)
    _, wrong = transcripts.compare(page)
    assert wrong == []


def test_a_change_that_does_not_fit_is_refused(
    tmp_path: Path, transcripts: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = page_with(
        tmp_path, "```python\n# one.py\n```\n```diff\n--- one.py\n-nothing\n```\n", transcripts, monkeypatch
    )
    with pytest.raises(ValueError, match="0 places"):
        transcripts.compare(page)


def test_dots_stand_for_lines_and_seconds_do_not_count(transcripts: ModuleType) -> None:
    assert transcripts.matches(("first", "...", "last in 0.1 s"), ["first", "a", "b", "last in 27.0 s"])
    assert transcripts.matches(("first", "..."), ["first"])
    assert not transcripts.matches(("first", "..."), ["second"])
    assert not transcripts.matches(("... and 3 more",), ["first"])


def test_a_corrected_page_leaves_out_what_it_left_out(transcripts: ModuleType) -> None:
    actual = ["a", "b", "c", "d", "e"]
    assert transcripts.abridged(("x", "...", "y", "z"), actual) == ["a", "...", "d", "e"]
    assert transcripts.abridged(("x", "..."), actual) == ["a", "..."]
    assert transcripts.abridged(("x", "...", "y"), ["a", "b"]) == ["a", "b"]
    assert transcripts.abridged(("x",), actual) == actual


def test_a_new_token_is_put_into_later_commands(
    tmp_path: Path, transcripts: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "```python\n# one.py\nfrom kemu.scenario import World, scenario\n@scenario\n"
        "async def fails(world: World) -> None:\n    world.check(False, 'never')\n```\n"
        "```console\n$ kemu explore one.py\nreplay: KS1.00000000.AA\n"
        "$ kemu replay -q one.py::fails KS1.00000000.AA\nFAIL one.py::fails[default]: expectation\n```\n"
    )
    page = page_with(tmp_path, text, transcripts, monkeypatch)
    text, wrong = transcripts.compare(page)
    assert len(wrong) == 1
    assert "00000000" not in text
    page.write_text(text, encoding="utf-8")
    assert transcripts.compare(page) == (text, [])


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path, transcripts: ModuleType) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A title: of one\n[a](#a-title-of-one) [b](page.md) [c](none.md) [d](page.md#x)", encoding="utf-8"
    )
    assert list(transcripts.broken_links(page)) == ["none.md", "page.md#x"]
