"""Files become a model: what they say of themselves, a proposal from that, one command to the registry."""
