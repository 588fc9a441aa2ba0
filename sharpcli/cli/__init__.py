"""The command line. The only place that knows Click and the names of options."""
