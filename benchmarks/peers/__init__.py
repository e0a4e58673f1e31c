"""Other tools, each in an environment of its own and driven by a script that runs there."""
