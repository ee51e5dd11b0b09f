"""World models: what turns experience into something to act and search in."""
