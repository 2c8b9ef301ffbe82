"""A gateway agent that serves fault diagnosis and can forget a fault class on the gateway."""

import os

__version__ = "0.1.0"

# ONNX Runtime 1.29 and later report each session and model to its maker, and keep a database of it in the home
# directory. It decides so when it is loaded, so this stands before every import of it (decision 0017).
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
