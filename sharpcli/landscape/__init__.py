"""What lies between minima and around them: lines, planes, directions, alignment, paths."""
