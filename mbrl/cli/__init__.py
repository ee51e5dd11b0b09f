"""The command line: what a person types becomes a typed configuration and one call into the rooms below."""
