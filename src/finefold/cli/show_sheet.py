"""What a person reads after `finefold show`."""

from typing import TYPE_CHECKING

from finefold.cli.printing import print_json, say, table

if TYPE_CHECKING:
    from finefold.steps.show import Shown


def sheet(shown: "Shown", *, as_json: bool) -> None:
    """After `finefold show`."""
    if as_json:
        print_json(shown.to_dict())
        return
    table("roles", ("role", "what its images go through"), shown.roles.items())
    say(f"wrote {shown.file} ({len(shown.ids)} samples)")
