"""How fast the parts of a run are, beside what else there is for the same work."""
