"""One outside thing per file; the adapters do not know each other."""
