"""The built-in engines, one module a kind of server process, and the choice among all that a node has."""
