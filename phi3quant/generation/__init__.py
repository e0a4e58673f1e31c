"""Text from a model of any format."""
