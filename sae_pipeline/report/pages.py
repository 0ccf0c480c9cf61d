"""The Jinja environment of everything that is written as HTML: the report and the browser's pages."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from sae_pipeline.report.tokens import readable, visible

OFFLINE_METHODS = {"token-stats": "token statistics", "proxy": "rubric proxy", "measured": "measured"}
CONTROL_TITLES = {
    "none": "matched", "baseline": "top-token baseline", "shuffled": "shuffled explanation",
    "random_feature": "random feature", "random_direction": "random direction", "mlp_neuron": "MLP neuron",
    "random_model": "random model", "prompt_only": "prompt only",
}  # fmt: skip


def environment(package: str) -> Environment:
    """Templates of `package`. Everything is escaped, an unknown name is an error; filters give a dash for what is missing."""
    made = Environment(
        loader=PackageLoader(package), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.globals |= {"offline_methods": OFFLINE_METHODS, "control_titles": CONTROL_TITLES}
    made.filters |= {
        "visible": visible, "readable": readable,
        "number": lambda value, digits=3: "–" if value is None else f"{value:,.{digits}f}",
        "share": lambda value, digits=1: "–" if value is None else f"{value:.{digits}%}",
        "count": lambda value: "–" if value is None else f"{value:,}",
    }  # fmt: skip
    return made
