"""``kemu fltmc``: filters, instances and volumes of a run, as Windows lists them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click

from kemu.cli import options as opt
from kemu.errors import EXIT_OK, UsageError

LISTS = ("filters", "instances", "volumes")


@click.command(name="fltmc")
@click.argument("what", type=click.Choice(LISTS))
@click.argument("target", metavar="TARGET[@STEP]")
@click.option("-f", "filter_name", metavar="FILTER", help="With instances: of this filter only.")
@click.option("-v", "volume", metavar="VOLUME", help="With instances: on this volume only, such as C:.")
@click.option("--token", metavar="TOKEN", help="Run TARGET as this token says, not plainly.")
@opt.variant_option
@opt.json_option
def command(
    what: str,
    target: str,
    filter_name: str | None,
    volume: str | None,
    token: str | None,
    variant: str | None,
    as_json: bool,
) -> int:
    """List the filters, instances or volumes that there are after a step of a run, in the columns of fltmc.

    TARGET is a scenario, or a trace that kemu wrote with -o. Without @STEP the last complete step is meant.
    """
    from kemu.cli.console import Console
    from kemu.cli.jsonout import dump
    from kemu.cli.moments import watched
    from kemu.fltmgr.manager import FilterManager
    from kemu.runtime import Runtime
    from kemu.views import fltmc

    if what != "instances" and (filter_name is not None or volume is not None):
        raise UsageError(f"-f and -v are for instances, not for {what}", remedy="leave them out")
    console = Console(as_json=as_json)
    run, step = watched(target, token=token, variant=variant)

    def rows(runtime: Runtime) -> tuple[list[Any], list[str]]:
        manager = runtime.system.get(FilterManager)
        tables: dict[str, Callable[[], tuple[list[Any], list[str]]]] = {
            "filters": lambda: ((found := fltmc.filters(manager)), fltmc.filters_table(found)),
            "instances": lambda: (
                (found := fltmc.instances(manager, filter_name=filter_name, volume=volume)),
                fltmc.instances_table(found),
            ),
            "volumes": lambda: ((found := fltmc.volumes(manager)), fltmc.volumes_table(found)),
        }
        return tables[what]()

    found, table = run.look(step, rows)
    if as_json:
        console.json(dump("fltmc", {"program": run.program.name, "step": step, what: [asdict(row) for row in found]}))
    console.print(table)
    return EXIT_OK
