"""Files of tests."""

from __future__ import annotations

HEAD = """
import pytest
from kemu.scenario import World
from kemu.testing import explore, replay

async def lose(world, is_racy=True):
    count = [0]

    async def add():
        value = count[0]
        if is_racy:
            await world.step("between load and store")
        count[0] = value + 1

    await world.together(add(), add())
    return count[0]
"""

LOST = f"""{HEAD}
@explore
async def test_lost(world: World) -> None:
    count = await lose(world)
    assert count == 2
"""

FEW = "@explore(schedules=20)"

SAFE = LOST.replace("lose(world)", "lose(world, False)").replace("@explore", FEW)

TOKEN_OF_ANOTHER = "KS1.00000000.0gAB"
