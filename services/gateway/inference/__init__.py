"""The gateway's half of the inference path: a request into the queue, its answer out of frames."""
