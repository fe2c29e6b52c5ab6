"""Background threads: a loop each, with a name, a bound and an end."""
