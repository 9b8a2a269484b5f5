"""The library: the models in the stores of this node. The folders are the only source; there is no index."""
