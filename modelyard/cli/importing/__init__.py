"""Models out of files: the yard's own TOML, and the configurations of other programs."""
