"""What no preemption interrupts, as it is listed."""

from __future__ import annotations

from scenario.tracking.kit import Files

CODE = """
class Box:
    def __init__(self):
        self.value = 0
    @property
    def double(self):
        return self.value * 2
    @double.setter
    def double(self, value):
        self.value = value
    def helper(self):
        return [self.value for _ in range(2)]
    def constant(self):
        return self.helper
    def __len__(self):
        return self.value
    async def interrupted(self):
        self.value += 1
        return any(x == self.value for x in [1])

def outside(b):
    def inside():
        return b.value
    return inside

async def waits(b):
    f = lambda: b.value
    g = lambda: 1
    return f, g, b.value

def sums(b):
    return sum(x + b.value for x in [1])
"""


def test_atomic_code_is_listed_with_its_place(files: Files) -> None:
    loaded = files.script("return Box()\n", CODE).loaded
    found = [(part.name, part.kind, part.line) for part in loaded.atomic]
    assert found == [
        ("Box.__init__", "special method", files.line("def __init__")),
        ("Box.double", "property", files.line("def double(self):")),
        ("Box.double", "property", files.line("def double(self, value)")),
        ("Box.helper", "function", files.line("def helper")),
        ("Box.__len__", "special method", files.line("def __len__")),
        ("Box.interrupted", "generator expression", files.line("any(")),
        ("outside.inside", "function", files.line("def inside")),
        ("waits", "lambda", files.line("f = lambda")),
        ("sums", "function", files.line("def sums")),
    ]
    assert str(loaded.atomic[0]) == f"{loaded.path}:{loaded.atomic[0].line}: Box.__init__ (special method)"


def test_files_beside_are_listed_too(files: Files) -> None:
    files.beside("near.py", "def change(x):\n    x.value = 1\n")
    loaded = files.script("pass\n", "import near").loaded
    assert [(part.name, part.line) for part in loaded.atomic] == [("change", 1)]
