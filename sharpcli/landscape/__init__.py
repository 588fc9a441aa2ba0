"""The loss between and around minima: lines, planes, directions, alignment and paths."""
