"""How deep a network has forgotten: pure measures, each to be read beside the same of retrain and head surgery."""
