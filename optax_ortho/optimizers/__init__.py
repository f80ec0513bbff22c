"""Every optimizer is one file that reads like its algorithm box."""
