"""Time and memory: ours and the peers', on the same synthetic model and machine, by turns."""
