"""Where things are going: use, spend and disks."""
