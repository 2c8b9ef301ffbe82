"""A gateway agent that serves fault diagnosis and can forget a fault class on the gateway."""

__version__ = "0.1.0"
