"""Readable, reproducible training runs."""
