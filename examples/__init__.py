"""Training runs that a person can read and repeat."""
