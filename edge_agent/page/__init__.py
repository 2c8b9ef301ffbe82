"""The gateway's page: a process of its own that listens to the broker, reads the state directory and writes nothing."""
