"""The built-in tasks: every module here is a task of the same name.

A module defines the functions of a task file, `SUMMARY` (one line) and `PACKAGE` (the package that
has its data, None if they are part of Python). It imports torch only inside its functions, so that
`sharp tasks` is fast.
"""
