"""What breaks the agent on purpose, and what looks whether it held: used by chaos, erasure and the tests."""
