"""The built-in tasks: every module here is one, by the module's name.

A module defines what a task file does. `SUMMARY` says in one line what the task is, `PACKAGE` which
package its data come from, None where they are part of Python. It imports torch in its functions
only, so that `sharp tasks` is fast.
"""
