"""The version, where every room may read it: the package itself names the command line, which stands above them all."""

__version__ = "0.1.0"
