"""Text generation by models of any format."""
