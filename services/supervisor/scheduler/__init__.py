"""The scheduler: the lease, the demand, the snapshot of the yard, and the plan carried out."""
