"""Work on a Ray cluster: connection, comparison of nodes, one model by a team of workers."""
