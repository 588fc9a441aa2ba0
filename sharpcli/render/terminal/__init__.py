"""Tables, charts and maps in characters."""
