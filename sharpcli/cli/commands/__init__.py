"""One short file per subcommand: parse the options, call `runs` once, render the result."""
