"""Which release of allranks this is."""

__version__ = "0.1.0"
