"""A study file as text: read strictly, and what is wrong with it put into one line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from sae_pipeline.errors import UserError


class _Strict(yaml.SafeLoader):
    """YAML keeps the last of two equal keys without a word; here that is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is given twice", key.start_mark)
            seen.add((key.tag, str(key.value)))
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """What the file says. Raises `UserError` with the place of the first mistake."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Strict)
    except OSError as error:
        raise UserError(str(path), f"cannot be read ({error.strerror})", "Change its permissions.") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(str(path), f"not readable as YAML: {_one_line(error)}", "Mend the file's syntax.") from error


def _one_line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    if isinstance(error, yaml.MarkedYAMLError) and mark is not None:
        return f"{error.problem} (line {mark.line + 1}, column {mark.column + 1})"
    return " ".join(str(error).split())


def key_path(location: Sequence[str | int], raw: Any, is_missing: bool = False) -> str:
    """The keys that lead to a value, as the file writes them: `corpus.sources.0.tokens`.

    A validator's `location` also names which of several sections or types was meant; these are no keys and left out.
    `is_missing`: the last key is the one that should be there.
    """
    parts: list[str] = []
    here, meant = raw, None
    for at, part in enumerate(location):
        if meant is not None and part == meant:
            meant = None
        elif _has(here, part):
            here = here[part]
            parts.append(str(part))
            meant = _section_meant(here)
        elif is_missing and at == len(location) - 1:
            parts.append(str(part))
        # Anything else says which type of a value was tried.
    return ".".join(parts) or "(study)"


def _has(section: Any, part: str | int) -> bool:
    if isinstance(section, dict):
        return part in section
    return isinstance(section, list) and isinstance(part, int) and part < len(section)


def _section_meant(section: Any) -> str | None:
    """`source` or `kind` of a section of which there are several; that of an SAE may be left out."""
    return (section.get("source") or section.get("kind") or "trained") if isinstance(section, dict) else None
