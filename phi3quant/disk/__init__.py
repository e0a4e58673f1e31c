"""Files: bounded readers of untrusted ones, atomic and hashed writers."""
