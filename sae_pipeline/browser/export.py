"""A chosen set of feature pages as a static folder: opens from disk without a server, or on any web host.

index.html              the chosen features
<size>/<feature>.html   their pages, linked with each other; what is not in the folder is not a link
static/                 the style sheet and the icon
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from sae_pipeline.browser.feature_data import FeatureKey, short_explanations
from sae_pipeline.browser.feature_page import feature_context
from sae_pipeline.browser.overview import best_steerable
from sae_pipeline.browser.state import STATIC, State
from sae_pipeline.errors import UserError
from sae_pipeline.progress import track
from sae_pipeline.study import Study

MAX_FEATURES = 5000


def export_site(study: Study, data_root: Path | str, out: Path, features: Sequence[FeatureKey] | None = None) -> int:
    """Write the site into `out` (new or empty); returns the number of feature pages.

    `features`: default are the study's best steerable ones. Raises `UserError` for features that do not exist and for a folder
    with something in it.
    """
    state = State(study, Path(data_root) / study.name)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(str(out), "is there already and is not an empty folder", "Give another --out, or empty it.")
    with state.database.cursor() as cursor:
        keys = list(dict.fromkeys(features if features is not None else _best(state)))
        if not keys:
            raise UserError("--features", "none given, and the study steered none", "Name some: --features 4096/17,4096/18.")
        if len(keys) > MAX_FEATURES:
            raise UserError("--features", f"{len(keys)} features", f"At most {MAX_FEATURES} make a site.")
        texts = short_explanations(cursor, keys)
        found = {(row["size"], row["feature"]) for row in cursor.rows("select size, feature from features")}
        for key in keys:
            if (key.size, key.feature) not in found:
                raise UserError(
                    "--features", f"there is no feature {key.size}/{key.feature}", "Sizes and features are in the browser."
                )
        out.mkdir(parents=True, exist_ok=True)
        (out / "static").mkdir()
        for name in ("style.css", "icon.svg"):
            shutil.copyfile(STATIC / name, out / "static" / name)
        for key in track(keys, "pages", unit="pages"):
            state.link_relative_to("../", keys)
            file = out / str(key.size) / f"{key.feature}.html"
            file.parent.mkdir(exist_ok=True)
            file.write_text(state.render("feature.html", **feature_context(state, cursor, key)), encoding="utf-8")
    state.link_relative_to("", keys)
    page = state.render("export.html", features=[{"key": key, "text": texts[key]} for key in keys])
    (out / "index.html").write_text(page, encoding="utf-8")
    state.database.close()
    return len(keys)


def parse_features(text: str) -> list[FeatureKey]:
    """`4096/17,4096/18` as keys. Raises `UserError`."""
    keys = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        size, _, feature = part.partition("/")
        if not (size.isdecimal() and feature.isdecimal()):
            raise UserError("--features", f"{part!r} is not size/feature", "For example: --features 4096/17,4096/18.")
        keys.append(FeatureKey(int(size), int(feature)))
    return keys


def _best(state: State) -> list[FeatureKey]:
    with state.database.cursor() as cursor:
        return [FeatureKey(row["size"], row["feature"]) for row in best_steerable(cursor)]
