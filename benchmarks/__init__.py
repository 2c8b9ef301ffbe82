"""Benchmarks print what they measured; every number elsewhere comes from a command here."""
