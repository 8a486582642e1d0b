"""Watching: what can be seen of a lake and of who works on it, whether that is good, and who is told."""
