"""``kemu verifier``: the rule classes, and what each watches."""

from __future__ import annotations

import click

from kemu.cli import options as opt
from kemu.errors import EXIT_OK


@click.command(name="verifier")
@click.option("--codes", is_flag=True, help="List the findings of each class.")
@opt.json_option
@opt.quiet_option("Print the numbers and names only.")
def command(codes: bool, as_json: bool, quiet: bool) -> int:
    """Show Driver Verifier's rule classes, as --verifier of the other commands takes them.

    Without --verifier every rule is watched. With it, a run shows what a system with these classes would: rules of
    other classes only where breaking them stops or damages any Windows, and Driver Verifier's own bug checks where it
    is on.
    """
    from kemu.cli.console import Console
    from kemu.cli.jsonout import dump
    from kemu.verifier import CATALOGUE
    from kemu.verifier.settings import ALWAYS, CLASSES, class_of

    console = Console(as_json=as_json, quiet=quiet)
    of_class: dict[int | None, list[str]] = {}
    for rule in CATALOGUE.values():
        of_class.setdefault(class_of(rule), []).append(rule.code)
    always = [code for code in CATALOGUE if code in ALWAYS]
    lines: list[str] = []
    for one in CLASSES:
        found = of_class.get(one.number, [])
        if console.quiet:
            lines.append(f"{one.number} {one.name}")
            continue
        lines.append(f"{one.number:>3}  {one.name:<18}  {len(found):>3} findings  {one.title}")
        lines += [f"       {code}" for code in found if codes]
    if not console.quiet:
        lines.append(f"     {'(always)':<18}  {len(always):>3} findings  what goes wrong on any system")
        lines += [f"       {code}" for code in always if codes]
    console.print(lines)
    if as_json:
        classes = [
            {
                "number": one.number,
                "name": one.name,
                "title": one.title,
                "findings": of_class.get(one.number, []),
            }
            for one in CLASSES
        ]
        fields = {"exit_code": EXIT_OK, "classes": classes, "always": always}
        console.json(dump("verifier", fields))
    return EXIT_OK
