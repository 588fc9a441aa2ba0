"""What a run is asked to do: one frozen dataclass per concern. Imports no Click and no torch."""
