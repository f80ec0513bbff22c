"""Recorded runs of the authors' own code, and their replay."""
