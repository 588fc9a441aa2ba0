"""Callbacks that measure a model while another library trains it: transformers, Lightning."""
