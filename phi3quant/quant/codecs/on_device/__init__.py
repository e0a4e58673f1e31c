"""Codecs as plain torch operations, which run on any device of torch."""
