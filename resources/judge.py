"""The language-model judge as an injected resource. With backend `none` no client exists and no socket is opened."""

from typing import Literal

import dagster as dg
from pydantic import Field


class Judge(dg.ConfigurableResource):
    """Who judges explanations besides the offline methods."""

    backend: Literal["none"] = Field(default="none", description="none: offline methods only")
