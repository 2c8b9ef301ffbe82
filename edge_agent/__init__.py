"""A gateway agent that serves fault diagnosis and can forget a fault class on the gateway."""

import importlib
import os
import sys

__version__ = "0.1.0"

# ONNX Runtime 1.29 and later report each session and model to its maker, and keep a database of it in the home
# directory. It decides so when it is loaded, so this stands before every import of it (decision 0017).
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# structlog imports rich, where it is there, for coloured tracebacks that nobody wants in a journal: 4 MiB of a serving
# process. What is None in ``sys.modules`` cannot be imported.
if "rich" not in sys.modules:
    sys.modules["rich"] = None  # type: ignore[assignment]
    importlib.import_module("structlog")
    del sys.modules["rich"]
