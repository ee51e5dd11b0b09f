"""Arrays turned into figures, films and pages."""
