"""What each subcommand of ``edge-agent`` does; ``edge_agent/cli.py`` only names them."""
