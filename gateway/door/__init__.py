"""The door: one TLS listener through which other Macs join and reach this Mac's Redis."""
