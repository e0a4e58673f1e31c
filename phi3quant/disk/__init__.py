"""Files: bounded readers for untrusted input, atomic and hashed writers."""
