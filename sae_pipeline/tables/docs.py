"""Writes docs/tables.md from the schemas, views and queries: `python -m sae_pipeline.tables.docs`.

A test compares the committed page with this module's output, so the page cannot drift from the code.
"""

from pathlib import Path

from sae_pipeline.tables.build import sql_type
from sae_pipeline.tables.columns import CONTROLS, STATUSES, UNITS, Table
from sae_pipeline.tables.queries import QUERIES
from sae_pipeline.tables.schemas import TABLES, polars_schema
from sae_pipeline.tables.views import VIEWS

PAGE = Path("docs/tables.md")


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


HEAD = f"""# Tables

Stages exchange Parquet files under `data/<study>/`; the stage `analysis_tables` rebuilds `data/<study>/analysis.duckdb` from
them. One row per thing, `size` is the number of features of the SAE (the partition key), and every table is held to its schema
when it is written and again when it enters the database. This page is written by `python -m sae_pipeline.tables.docs`.

Open the database with DuckDB's own program, where it is installed (`duckdb -readonly data/demo/analysis.duckdb`), or from Python:

```python
import duckdb

with duckdb.connect("data/demo/analysis.duckdb", read_only=True) as connection:
    print(connection.sql("SELECT * FROM leaderboard").pl())
```

Words that occur in many tables:

* `unit`: what is explained or scored. {_listed(UNITS)}. `feature` is null for units that are not SAE features.
* `control`: `none` is the thing itself, everything else stands beside it. {_listed(CONTROLS)}.
* `status`: a value is there exactly when the status is `ok`; a refusal or a budget stop is never a score. {_listed(STATUSES)}.
* `method` (and `model`): never average rows of different methods. `token-stats` and `proxy` use no language model.
"""


def render() -> str:
    """The page as Markdown."""
    parts = [HEAD, "\n## Questions to start from\n"]
    for query in QUERIES.values():
        sql = query.sql
        for name, value in query.defaults.items():
            sql = sql.replace(f"${name}", f"'{value}'" if isinstance(value, str) else str(value))
        parts.append(f"{query.question}\n\n```sql\n{sql};\n```\n")
    parts.append("## Views\n\n| view | rows |\n|---|---|")
    parts += [f"| `{name}` | {view.description} |" for name, view in VIEWS.items()]
    for table in TABLES.values():
        parts.append(_table(table))
    return "\n".join(parts).rstrip() + "\n"


def _table(table: Table) -> str:
    where = f"`{table.file}`" + ("" if table.in_database else " (not copied into the database: read it in place)")
    lines = [f"\n## {table.name}\n\n{table.description}\n\nFrom {where}. A row is identified by {', '.join(table.key)}.\n"]
    lines.append("| column | type | null | meaning |\n|---|---|---|---|")
    types = polars_schema(table.name)
    for name, column in table.schema.columns.items():
        meaning = (column.description or "").replace("|", "\\|")
        lines.append(f"| `{name}` | {sql_type(types[name])} | {'yes' if column.nullable else ''} | {meaning} |")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
