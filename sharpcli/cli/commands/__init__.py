"""One thin file a subcommand: parse, one call into `runs`, render."""
