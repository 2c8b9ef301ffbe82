"""The files that browsers get, and that reports carry in them."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from edge_agent.core.errors import Misconfigured

STATIC: Final = files("edge_agent.page") / "static"
CHARTS: Final = "lib/uPlot.iife.min.js"  # comes from npm when the package is built


def built_whole() -> None:
    """See that the charts' library is there.

    Raises:
        Misconfigured: ``E_CONFIG``, it is not.
    """
    path = STATIC / CHARTS
    if not path.is_file():
        raise Misconfigured("E_CONFIG", f"{path} is missing: this package was not built whole (pip install builds it)")
