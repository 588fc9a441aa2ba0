"""The command line. Only this package uses Click and knows the options' names."""
