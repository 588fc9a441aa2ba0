"""Processes, memory, progress and random states: what every run needs from the machine."""
