"""How fast each piece is on this machine, beside a plain reference and the machine's own limit."""
