"""Types and maths that every room shares and that know nothing of any room."""
