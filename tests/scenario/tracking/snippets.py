"""Pieces of code for scenario files, each of which returns what it has found out."""

# ruff: noqa: E501 - a snippet is one string, however long

BOX = """
class Box:
    def __repr__(self):
        return f"Box({self.value!r})"
    shared = "of the class"
    def __init__(self, value=0, **more):
        self.value = value
        self.more = more
    def get(self):
        return self.value
    @property
    def double(self):
        return self.value * 2
    @double.setter
    def double(self, value):
        self.value = value // 2
    def __len__(self):
        return self.value
    def __getitem__(self, key):
        return (self.value, key)
    def __enter__(self):
        self.value += 1
        return self
    def __exit__(self, *error):
        self.value += 10
        return False
    def __iter__(self):
        yield self.value
        yield from range(2)
    def __eq__(self, other):
        return self.value == other.value
    __hash__ = None
"""

SNIPPETS = {
    "attributes": "b = Box(1); b.value = 2; b.other = b.value + 1; return b.value, b.other, b.get(), Box.shared, b.shared",
    "augmented": "b = Box(1); b.value += 2; b.value *= 5; b.more['x'] = 1; b.more['x'] += 4; return b.value, b.more",
    "augmented lists": "b = Box([1]); a = b.value; b.value += [2]; return a is b.value, a",
    "augmented after an await": "b = Box(1)\nasync def two():\n    b.value = 7\n    return 2\nb.value += await two()\nreturn b.value",
    "item augmented after an await": "d = {1: 1}\nasync def two():\n    d[1] = 7\n    return 2\nd[1] += await two()\nreturn d",
    "order of augmented": "log = []\ndef f(x):\n    log.append(x)\n    return x\nd = {0: 1}\nd[f(0)] += f(5)\nreturn d, log",
    "chained": "b = Box(); c = b.value = d = 3; b.a = b.b = [1]; return b.value, c, d, b.a is b.b",
    "unpacking": "b = Box(); b.x, (b.y, d) = 1, (2, 3); [b.z, *rest] = [4, 5, 6]; return b.x, b.y, d, b.z, rest, rest + [1]",
    "starred attribute": "b = Box(); *b.x, last = 1, 2, 3; return b.x, last",
    "annotated": "b: Box = Box(); b.x: int = 4; y: 'no name' = 5; return b.x, y",
    "deleting": "b = Box(1); del b.value; d = {1: 2, 3: 4}; del d[1]; l = [1, 2, 3]; del l[0], l[-1]; return hasattr(b, 'value'), d, l",
    "walrus": "b = Box(3); return [y for x in range(3) if (y := x + b.value) > 3], y, (n := b.value), n",
    "slices": "l = [0, 1, 2, 3, 4]; l[1:3] = [9]; l[::2] = 'abc'[:2]; return l, l[1:], l[:-1], l[::-1], 'abc'[1:]",
    "slices and tuples as keys": "b = Box(1); return b[1:2], b[1:2, ::3], b[1, 2], b['x']",
    "conditions": "b = Box(0); l = []; return (b and 1), (l or 2), not l, (3 if l else 4), bool(b), len(b)",
    "comparing": "b = Box(1); c = Box(1); return b == c, b != c, 1 < b.value + 1 < 3, b.value in [1, 2], b.value in {3: 4}, [1] == [1], [1] < [2]",
    "formatting": "b = Box(5); w = 4; return f'{b.value:>{w}} {b.get()!r} {[b.value]} { {1: b.value}[1] =}'",
    "comprehensions": "b = Box(2); return [b.value + i for i in range(3)], {b.value: i for i in [1]}, {i for i in (b.value,)}, sum(b.value for _ in range(3))",
    "nested comprehensions": "b = Box([1, 2]); return [[x + y for x in b.value] for y in b.value], [(x, y) for x in b.value for y in b.value if x < y]",
    "lambda": "b = Box(2); f = lambda x, y=b.value, *z, k=1: (b.value, x, y, z, k); b.value = 3; return f(1), f(1, 2, 3, k=4)",
    "default values": "b = Box(2)\ndef f(x=b.value, *, y=[b.value]):\n    return x, y\nb.value = 3\nreturn f(), f(1, y=2)",
    "keywords": "def f(*args, **kwargs):\n    kwargs['z'] = 1\n    return args, kwargs\nd = {'a': 1}\nreturn f(1, *[2], b=3, **d), d",
    "properties": "b = Box(2); b.double = 10; b.double += 2; return b.double, b.value",
    "iterating": "b = Box(2); return list(b), [*b], tuple(b), max(b), sorted(b, reverse=True), (lambda *a: a)(*b)",
    "with": "b = Box(1)\nwith b as c, Box(5) as b.inner:\n    c.value += 100\nreturn b.value, b.inner.value",
    "with unpacking": "class P:\n    def __enter__(self): return 1, 2\n    def __exit__(self, *e): return True\nb = Box()\nwith P() as (b.x, y):\n    raise ValueError\nreturn b.x, y",
    "try": "log = []\nb = Box(1)\ntry:\n    b.nothing\nexcept AttributeError as e:\n    log.append(str(e))\nelse:\n    log.append('else')\nfinally:\n    b.value = 9\nreturn log, b.value",
    "try star": "log = []\ntry:\n    raise ExceptionGroup('g', [ValueError(1), TypeError(2)])\nexcept* ValueError as g:\n    log += g.exceptions\nexcept* TypeError:\n    log.append('t')\nreturn repr(log)",
    "finally and return": "b = Box(1)\ndef f():\n    try:\n        return b.value\n    finally:\n        b.value = 5\nreturn f(), b.value",
    "loops": "b = Box(0)\nfor b.value in range(5):\n    if b.value == 3: break\nelse:\n    b.value = 99\nwhile b.value < 6:\n    b.value += 2\n    if b.value == 5: continue\nelse:\n    b.value *= 10\nreturn b.value",
    "loops over items": "d = {}\nfor d['k'] in [1, 2]: pass\nfor i, (d['a'], b) in enumerate([(1, 2)]): pass\nreturn d, i, b",
    "match": """
        class P:
            __match_args__ = ("x", "y")
            def __init__(self, x, y): self.x, self.y = x, y
        found = []
        for subject in (P(1, 2), P(3, 4), [1, 2, 3], {"a": 1, "b": 2}, "s", Box(7), Color.RED, (1, P(5, 6))):
            match subject:
                case P(1, y): found.append(("p", y))
                case P(x=3 as z): found.append(("q", z))
                case [1, *rest] if rest == [2, 3]: rest.append(9); found.append(rest)
                case {"a": 1, **others}: others["z"] = 3; found.append(others)
                case Color.RED: found.append("red")
                case Box(value=v) | str(v): found.append(v)
                case (a, P(x=b)): found.append((a, b))
        return found""",
    "decorators": "def twice(f):\n    def g(*a): return f(*a), f(*a)\n    return g\n@twice\ndef h(x, l=[1]): l.append(x); return list(l)\nreturn h(1)",
    "class bodies": """
        class Outer:
            items = [1]
            number = 1
            number += 1
            doubled = [x * 2 for x in items]
            class Inner:
                value: int = 3
                def get(self): return self.value
            def __private(self): return self.__x
            def __init__(self): self.__x = 4
            def get(self): return self.__private(), Outer.Inner().get(), self.__x
        return Outer().get(), Outer.doubled, Outer.number, Outer.__name__, Outer.__doc__, sorted(vars(Outer()))""",
    "inheritance": """
        class A:
            def __new__(cls, *args):
                made = super().__new__(cls)
                made.log = ["A.new"]
                return made
            def __init__(self, *args): self.log.append(("A", args))
        class M:
            def __init__(self, *args): super().__init__(*args); self.log.append("M")
        class B(M, A):
            def __init__(self, *args): super().__init__(*args); self.log.append("B")
            @classmethod
            def make(cls): return cls(1)
            @staticmethod
            def fixed(): return 7
        return B(2).log, B.make().log, B.fixed(), [c.__name__ for c in B.__mro__]""",
    "new in a mixin": """
        class A: pass
        class M:
            def __new__(cls, *args):
                made = super().__new__(cls)
                made.by = "M"
                return made
        class B(A, M): pass
        class C(M, A): pass
        return B(1).by, C(1).by""",
    "too many arguments": "class A: pass\ntry:\n    A(1)\nexcept TypeError as e:\n    return str(e)",
    "subclasses of containers": """
        class Stack(list):
            def __init__(self, *args):
                super().__init__(*args)
                self.pushed = 0
            def push(self, x):
                self.append(x)
                self.pushed += 1
        class Table(dict):
            def __missing__(self, key): return key * 2
            def __setitem__(self, key, value): super().__setitem__(key, value + 1)
        s, t = Stack([1]), Table(a=1)
        s.push(2)
        t["b"] = 5
        return s, s.pushed, t, t["x"], isinstance(s, list), type(s) is Stack, len(t)""",
    "dataclasses": """
        from dataclasses import dataclass, field
        @dataclass(order=True)
        class P:
            x: int
            y: list = field(default_factory=list)
        @dataclass(frozen=True)
        class F:
            x: int = 1
        @dataclass(slots=True)
        class S:
            x: int = 2
        p = P(1)
        p.y.append(3)
        try:
            F().x = 2
        except Exception as e:
            failed = type(e).__name__
        s = S()
        s.x += 1
        return p, p == P(1, [3]), p < P(2), repr(p), failed, s, s.x, hash(F()) == hash(F()), F() == F()""",
    "enums and named tuples": """
        from enum import Enum, IntFlag
        from typing import NamedTuple
        class E(Enum):
            A = 1
            B = 2
        class G(IntFlag):
            X = 1
            Y = 2
        class T(NamedTuple):
            x: int
            y: int = 2
        return E.A.value, E(2), [e.name for e in E], G.X | G.Y, T(1), T(1)._replace(y=5).y""",
    "protocols": """
        from abc import ABC, abstractmethod
        from typing import Generic, TypeVar
        T = TypeVar("T")
        class A(ABC):
            @abstractmethod
            def f(self): ...
        class B(A, Generic[T]):
            def f(self): return 1
        try:
            A()
        except TypeError as e:
            why = str(e)
        return B[int]().f(), why""",
    "getattr hooks": """
        class H:
            def __init__(self): self.real = 1
            def __getattr__(self, name): return name.upper()
            def __setattr__(self, name, value): object.__setattr__(self, name, value * 2)
        h = H()
        h.x = 5
        return h.real, h.x, h.nothing, getattr(h, "y"), getattr(h, "z", 3), hasattr(h, "q")""",
    "reflection": "b = Box(1); setattr(b, 'x', 2); n = 'va' + 'lue'; setattr(b, n, 3); d = vars(b); d['y'] = 4; delattr(b, 'x'); return b.y, b.value, getattr(b, 'x', None), d",
    "slots": "class S:\n    __slots__ = ('x', 'y')\ns = S(); s.x = 1\ntry:\n    s.y\nexcept AttributeError as e:\n    return s.x, str(e)",
    "closures": "n = 0\ndef inc(by=1):\n    nonlocal n\n    n += by\n    return n\ninc(); inc(5)\nn *= 2\nreturn n, inc(), [f() for f in [lambda: n, lambda: n + 1]]",
    "closures over parameters": "def make(n, *args, **kw):\n    def inc():\n        nonlocal n, args\n        n += 1\n        args += (n,)\n        kw[n] = n\n        return n, args, kw\n    return inc\na, b = make(1), make(10, 5, x=1)\na()\nreturn a(), b()",
    "closures in loops": "fs = []\nfor i in range(3):\n    fs.append(lambda: i)\n    def g(i=i): return i\n    fs.append(g)\nreturn [f() for f in fs]",
    "closures before assignment": "def f():\n    return later\ntry:\n    f()\nexcept NameError as e:\n    why = str(e)\nlater = 4\nr = f()\ndel later\ntry:\n    f()\nexcept NameError as e:\n    return why, r, str(e)",
    "closures of closures": "def outer():\n    x = 1\n    def middle():\n        y = x\n        def inner():\n            nonlocal x, y\n            x += 1; y += x\n            return x, y\n        return inner\n    i = middle()\n    x = 10\n    return i(), i(), x\nreturn outer()",
    "closure defined later": "def a(): return b() + 1\ndef b(): return c\nc = 5\nreturn a()",
    "closure walrus": "n = 0\ndef f():\n    nonlocal n\n    return (n := n + 1)\nreturn f(), f(), n",
    "closure unpacking": "a = b = 0\ndef f():\n    nonlocal a, b\n    a, *b = 1, 2, 3\nf()\nreturn a, b, b + [1]",
    "closure loops": "n = 0\ndef f():\n    nonlocal n\n    for n in range(4): pass\n    with Box(2) as n: pass\nf()\nreturn n.value",
    "recursion": "def f(n): return 1 if n < 2 else n * f(n - 1)\nreturn f(6)",
    "classes in functions": "x = 1\nclass C:\n    y = x\n    def f(self): return x\nx = 2\nreturn C.y, C().f()",
    "globals": "bump(); bump(3); return COUNT, TABLE",
    "generators": "def g(b):\n    while True:\n        got = yield b.value\n        if got is None: return\n        b.value += got\nb = Box(1)\nit = g(b)\nreturn next(it), it.send(5), list(it), b.value",
    "augmented yield": "b = Box(1)\ndef g():\n    b.value += yield\nit = g(); next(it); b.value = 5\ntry:\n    it.send(2)\nexcept StopIteration: pass\nreturn b.value",
    "async iteration": """
        class A:
            def __init__(self): self.n = 0
            def __aiter__(self): return self
            async def __anext__(self):
                self.n += 1
                if self.n > 3: raise StopAsyncIteration
                await world.step()
                return self.n
            async def __aenter__(self): return self
            async def __aexit__(self, *e): self.n = -1
        async def gen(a):
            async for x in a:
                yield x * a.n
        a = A()
        async with a as b:
            found = [x async for x in gen(b)]
        return found, a.n, [await later(i) for i in range(2)]""",
    "awaiting": "b = Box(1); b.value = await later(b.value) + await later(b.value); return b.value, [await later([1])][0] + [2]",
    "calls": "b = Box(1); f = b.get; g = [1, 2].index; return f(), g(2), 'a-b'.split('-') + [1], ' x '.strip(), {1: 2}.get(1), ','.join(['a'])",
    "containers": """
        from collections import defaultdict, deque, OrderedDict, Counter
        import collections, heapq
        d = defaultdict(list); d["x"].append(1)
        q = deque([1, 2], maxlen=2); q.append(3)
        o = OrderedDict(a=1); o.move_to_end("a")
        c = Counter("aab"); c["z"] += 1
        h = [3, 1, 2]; heapq.heapify(h); heapq.heappush(h, 0)
        s = {1, 2} | {3}; s |= frozenset([4])
        f = frozenset(s) & {1, 4}
        b = bytearray(b"ab"); b[0] = 99
        return (d, q, o, c, heapq.heappop(h), h, s, f, b, type(d) is defaultdict, type([]) is list, isinstance(q, collections.deque),
                dict(a=1), list("ab"), set("a"), dict.fromkeys("ab"), [1] * 2, [[]] * 2, {**{1: 2}, 3: 4}, [*[1], *(2,)])""",
    "views": "d = {1: 'a', 2: 'b'}; k = d.keys(); d[3] = 'c'; return list(k), d.items(), list(d.values()), k & {1, 9}, (1, 'a') in d.items(), sorted(d.items()), dict(d.items()), len(k)",
    "changing while iterating": "d = {1: 2}\ntry:\n    for k in d: d[k + 1] = 1\nexcept RuntimeError as e:\n    return str(e)",
    "growing while iterating": "l = [1]\nfor x in l:\n    if x < 4: l.append(x + 1)\nreturn l",
    "errors of containers": """
        found = []
        for f in (lambda: [].pop(), lambda: {}["k"], lambda: [1][5], lambda: [1].index(2), lambda: set().pop(), lambda: [].nothing):
            try:
                f()
            except Exception as e:
                found.append((type(e).__name__, str(e)))
        return found""",
    "copying": "import copy\nb = Box([1, {2: 3}]); c = copy.copy(b); d = copy.deepcopy(b); b.value[1][2] = 9; return c.value, d.value, b.value[:], list(b.value)",
    "assert": "b = Box(1)\nassert b.value == 1, b.value\ntry:\n    assert b.value == 2, [b.value]\nexcept AssertionError as e:\n    return e.args",
    "raising": "b = Box(1)\ntry:\n    try:\n        raise ValueError(b.value) from KeyError(b.get())\n    except ValueError as e:\n        b.error = e\n        raise\nexcept ValueError as e:\n    return e.args, e.__cause__.args, b.error is e",
    "exceptions with state": "class E(Exception):\n    def __init__(self, x):\n        super().__init__(x)\n        self.x = x\ntry:\n    raise E([1])\nexcept E as e:\n    e.x.append(2)\n    return e.x, e.args",
    "docstrings": "def f():\n    'words'\n    def g():\n        nonlocal n\n        n += 1\n    n = 1\n    g()\n    return n\nreturn f.__doc__, f(), f.__name__, f.__qualname__",
    "star imports and modules": "import math, kemu.wdk.wdm as w\nfrom os.path import join as j\nreturn math.pi > 3, w.IRP_MJ_READ, STATUS_SUCCESS, NT_SUCCESS(0), j('a', 'b') != ''",
    "strings": "return '%s' % [1], '{0.value} {1[0]}'.format(Box(3), [4]), str([1]), repr({1: [2]}), str(deque_of(1))",
    "json": "import json\nb = Box({'a': [1, {2: 3}]}); return json.dumps(b.value), json.loads('[1, {\"a\": []}]')",
    "structures": "class S(Structure):\n    x: int\n    y: int\nb = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(S), 'Test')\nb.x += 2\nr = b.x, b.y\nawait ExFreePoolWithTag(b, 'Test')\nreturn r",
    "what lies in a structure": "class I(Structure):\n    n: int\nclass S(Structure):\n    i: I\n    c: LONG\n    p: PVOID\n    e: KEVENT\n    l: LIST_ENTRY\nb = await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(S), 'Test')\nb.i.n += 2; b.c.value += 3; b.c = b.c.value + 1; b.p.value = b.i\nKeInitializeEvent(b.e, 0, True)\nr = b.i.n, await InterlockedIncrement(b.c), b.c.value, b.p.value is b.i, await KeResetEvent(b.e), CONTAINING_RECORD(b.l) is b, int(sizeof(S))\nawait ExFreePoolWithTag(b, 'Test')\nreturn r",
    "copies of structures": "class S(Structure):\n    x: int\n    y: object\na, b = [await ExAllocatePool2(POOL_FLAG_NON_PAGED, sizeof(S), 'Test') for _ in range(2)]\na.x, a.y = 5, [1]\nRtlCopyMemory(b, a, sizeof(S)); b.y.append(2); RtlZeroMemory(a, 8)\nr = b.x, b.y, a.x, a.y\nawait ExFreePool(a); await ExFreePool(b)\nreturn r",
    "bytes from the pool": "b = await ExAllocatePool2(POOL_FLAG_NON_PAGED, 4, 'Test')\nb[0] = 7\nb[1:3] = b'xy'\nr = bytes(b), b[0], b[1:3], (b + 1)[0]\nawait ExFreePool(b)\nreturn r",
    "lists of the kernel": "h = LIST_ENTRY(); InitializeListHead(h); e = LIST_ENTRY('r'); InsertTailList(h, e); InsertHeadList(h, LIST_ENTRY('s'))\nfirst = RemoveHeadList(h); RemoveEntryList(e)\nreturn CONTAINING_RECORD(first), IsListEmpty(h), h.Flink is h",
    "generator expressions": "b = Box([3, 4]); g = (x + b.value[0] for x in b.value if x > b.value[0] - 1); b.value = [10]; return list(g), any(x == 10 for x in b.value)",
    "conditional global": "return [COUNT for _ in range(2)], (lambda: COUNT)()",
}

HEADER = (
    BOX
    + """
from enum import Enum
from kemu.runtime import Point

class Color(Enum):
    RED = 1

COUNT = 0
TABLE = {"a": [1]}

def bump(by=1):
    global COUNT
    COUNT += by
    for COUNT in range(COUNT, COUNT + 2):
        pass
    TABLE["b"] = (COUNT := COUNT + 1)

def deque_of(*x):
    from collections import deque
    return deque(x)

async def later(x):
    await Point("later")
    return x
"""
)
