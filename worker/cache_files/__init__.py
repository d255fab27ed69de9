"""Files of kept prefixes, beside any engine: their format, and how hosts hand them to each other."""
