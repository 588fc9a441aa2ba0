"""What every run needs from the machine: files, processes, memory, progress, random states."""
