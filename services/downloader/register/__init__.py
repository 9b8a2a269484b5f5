"""From files to a registered model: facts read from the files, a proposal, one command to the registry."""
