"""The pure part: no clock, no files, no network, no logging; randomness comes in as a generator."""
