"""One command a file; each is called `command`, and is loaded when it is used."""
