"""How the command's options look: help without --no-... forms, defaults only where the help names them."""

from typing import Any

from cyclopts import Group, Parameter


def option(text: str, *names: str, group: Group | None = None, **more: Any) -> Parameter:
    """An option with its help; without --no-... forms, and with defaults only where the help names them."""
    if group is not None:
        more["group"] = group
    return Parameter(name=names, help=text, negative=(), show_default=False, show_choices=False, **more)


def argument(name: str, text: str) -> Parameter:
    return Parameter(name=name, help=text, negative=(), show_default=False)
