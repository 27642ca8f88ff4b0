"""Writes the table of docs/reference/recipe.md from the schema: `python docs/make_recipe_table.py`."""

from pathlib import Path

from finefold.recipe.explaining import schema_keys, to_toml
from finefold.recipe.reasons import REASONS

PAGE = Path(__file__).parent / "reference" / "recipe.md"
START, END = "<!-- keys: written by docs/make_recipe_table.py -->\n", "<!-- end of keys -->\n"


def keys_table() -> str:
    """Every key of a recipe with its default and reason, as Markdown."""
    lines = ["| key | default | reason |", "|---|---|---|"]
    for key in schema_keys():
        default = "required" if key.is_required else f"`{to_toml(key.default)}`" if key.default is not None else "unset"
        lines.append(f"| `{key.name}` | {default} | {REASONS[key.name]} |")
    return "\n".join(lines) + "\n"


def with_table(page: str) -> str:
    """The page with its table written anew."""
    before, _, rest = page.partition(START)
    return before + START + keys_table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
