"""Figures, interactive pages, CSV and exports."""
