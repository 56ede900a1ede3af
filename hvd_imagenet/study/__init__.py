"""Studies: a base recipe, arms that each change some of its settings, and seeds; run, and summed up in a table."""
